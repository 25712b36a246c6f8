/*
 * criterion.h - the part of Criterion that our unit tests use, for builds with sanitizers only.
 *
 * Story     Criterion's process sandbox maps memory where ThreadSanitizer keeps its shadow, and
 *           dies before the first test. Under AddressSanitizer it leaves a failed assertion by a
 *           jump that the sanitizer does not see, which then reports a use after scope instead of
 *           the failure. This header declares the same macros over a runner (runner.c) that forks
 *           one child per test; the child just exits.
 * Limits    Test(suite, name [, .signal, .init, .fini, .timeout]), TestSuite(suite [, .init,
 *           .fini]), cr_assert_*, cr_expect_* below.
 */
#ifndef TESTS_RUNNER_CRITERION_H
#define TESTS_RUNNER_CRITERION_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct runner_options {
    int unused_first; /* so that an empty initialiser list stays valid */
    int signal;
    int exit_code;
    double timeout; /* seconds */
    bool disabled;
    void (*init)(void);
    void (*fini)(void);
};

struct runner_test {
    const char *suite, *name;
    void (*run)(void); /* NULL: options of the whole suite */
    struct runner_options options;
};

/* Records a failure of the running test; does not return when `fatal_here`. */
void runner_failed(bool fatal_here, const char *file, int line, const char *condition,
                   const char *format, ...);

#define RUNNER_REGISTER_(record)                                                                   \
    static const struct runner_test *const record##_pointer                                        \
        __attribute__((used, section("runner_tests"))) = &record;

#define Test(suite_, name_, ...)                                                                   \
    static void suite_##_##name_##_impl(void);                                                     \
    static const struct runner_test suite_##_##name_##_test = {                                    \
        #suite_, #name_, suite_##_##name_##_impl, {.unused_first = 0, ##__VA_ARGS__}};             \
    RUNNER_REGISTER_(suite_##_##name_##_test)                                                      \
    static void suite_##_##name_##_impl(void)

#define TestSuite(suite_, ...)                                                                     \
    static const struct runner_test suite_##_suite_options = {                                     \
        #suite_, NULL, NULL, {.unused_first = 0, ##__VA_ARGS__}};                                  \
    RUNNER_REGISTER_(suite_##_suite_options)

#define RUNNER_CHECK_(fatal_, condition_, text_, ...)                                              \
    do {                                                                                           \
        if (!(condition_))                                                                         \
            runner_failed(fatal_, __FILE__, __LINE__, text_, "" __VA_ARGS__);                      \
    } while (0)

#define cr_assert(c, ...)           RUNNER_CHECK_(true, (c), #c, __VA_ARGS__)
#define cr_assert_not(c, ...)       RUNNER_CHECK_(true, !(c), "!(" #c ")", __VA_ARGS__)
#define cr_assert_eq(a, b, ...)     RUNNER_CHECK_(true, (a) == (b), #a " == " #b, __VA_ARGS__)
#define cr_assert_neq(a, b, ...)    RUNNER_CHECK_(true, (a) != (b), #a " != " #b, __VA_ARGS__)
#define cr_assert_lt(a, b, ...)     RUNNER_CHECK_(true, (a) < (b), #a " < " #b, __VA_ARGS__)
#define cr_assert_leq(a, b, ...)    RUNNER_CHECK_(true, (a) <= (b), #a " <= " #b, __VA_ARGS__)
#define cr_assert_gt(a, b, ...)     RUNNER_CHECK_(true, (a) > (b), #a " > " #b, __VA_ARGS__)
#define cr_assert_geq(a, b, ...)    RUNNER_CHECK_(true, (a) >= (b), #a " >= " #b, __VA_ARGS__)
#define cr_assert_null(a, ...)      RUNNER_CHECK_(true, (a) == NULL, #a " == NULL", __VA_ARGS__)
#define cr_assert_not_null(a, ...)  RUNNER_CHECK_(true, (a) != NULL, #a " != NULL", __VA_ARGS__)
#define cr_assert_str_eq(a, b, ...) RUNNER_CHECK_(true, !strcmp(a, b), #a " == " #b, __VA_ARGS__)
#define cr_assert_str_neq(a, b, ...)                                                               \
    RUNNER_CHECK_(true, strcmp(a, b) != 0, #a " != " #b, __VA_ARGS__)
#define cr_assert_str_empty(a, ...) RUNNER_CHECK_(true, *(a) == 0, #a " is empty", __VA_ARGS__)
#define cr_assert_arr_eq(a, b, n, ...)                                                             \
    RUNNER_CHECK_(true, !memcmp(a, b, n), #a " == " #b, __VA_ARGS__)
#define cr_assert_fail(...) RUNNER_CHECK_(true, false, "fail", __VA_ARGS__)
#define cr_fail             cr_assert_fail

#define cr_expect(c, ...)           RUNNER_CHECK_(false, (c), #c, __VA_ARGS__)
#define cr_expect_not(c, ...)       RUNNER_CHECK_(false, !(c), "!(" #c ")", __VA_ARGS__)
#define cr_expect_eq(a, b, ...)     RUNNER_CHECK_(false, (a) == (b), #a " == " #b, __VA_ARGS__)
#define cr_expect_neq(a, b, ...)    RUNNER_CHECK_(false, (a) != (b), #a " != " #b, __VA_ARGS__)
#define cr_expect_lt(a, b, ...)     RUNNER_CHECK_(false, (a) < (b), #a " < " #b, __VA_ARGS__)
#define cr_expect_leq(a, b, ...)    RUNNER_CHECK_(false, (a) <= (b), #a " <= " #b, __VA_ARGS__)
#define cr_expect_gt(a, b, ...)     RUNNER_CHECK_(false, (a) > (b), #a " > " #b, __VA_ARGS__)
#define cr_expect_geq(a, b, ...)    RUNNER_CHECK_(false, (a) >= (b), #a " >= " #b, __VA_ARGS__)
#define cr_expect_null(a, ...)      RUNNER_CHECK_(false, (a) == NULL, #a " == NULL", __VA_ARGS__)
#define cr_expect_not_null(a, ...)  RUNNER_CHECK_(false, (a) != NULL, #a " != NULL", __VA_ARGS__)
#define cr_expect_str_eq(a, b, ...) RUNNER_CHECK_(false, !strcmp(a, b), #a " == " #b, __VA_ARGS__)
#define cr_expect_str_neq(a, b, ...)                                                               \
    RUNNER_CHECK_(false, strcmp(a, b) != 0, #a " != " #b, __VA_ARGS__)
#define cr_expect_str_empty(a, ...) RUNNER_CHECK_(false, *(a) == 0, #a " is empty", __VA_ARGS__)
#define cr_expect_arr_eq(a, b, n, ...)                                                             \
    RUNNER_CHECK_(false, !memcmp(a, b, n), #a " == " #b, __VA_ARGS__)

#define cr_log_info(...) ((void)fprintf(stderr, "" __VA_ARGS__))
#define cr_log_warn      cr_log_info

#endif
