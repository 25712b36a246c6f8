/* main() of unit tests under sanitizers: one forked child per test (see criterion.h here). */
#include <criterion/criterion.h>

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#define TIMEOUT_S_DEFAULT 600u

/* Bounds of the section that Test() and TestSuite() fill; the linker defines them. */
extern const struct runner_test *const __start_runner_tests[];
extern const struct runner_test *const __stop_runner_tests[];

static bool failed;

void runner_failed(bool fatal_here, const char *file, int line, const char *condition,
                   const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "%s:%d: failed: %s: ", file, line, condition);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    failed = true;
    if (fatal_here)
        _exit(1); /* we may be on a fiber's stack or in a thread */
}

static const struct runner_options *suite_options(const char *suite)
{
    static const struct runner_options none;
    for (const struct runner_test *const *at = __start_runner_tests; at < __stop_runner_tests; at++)
        if ((*at)->run == NULL && strcmp((*at)->suite, suite) == 0)
            return &(*at)->options;
    return &none;
}

static void test_child(const struct runner_test *test)
{
    const struct runner_options *suite = suite_options(test->suite);
    double limit_s = test->options.timeout > 0 ? test->options.timeout : suite->timeout;
    alarm(limit_s > 0 ? (unsigned)limit_s : TIMEOUT_S_DEFAULT);
    void (*init)(void) = test->options.init != NULL ? test->options.init : suite->init;
    void (*fini)(void) = test->options.fini != NULL ? test->options.fini : suite->fini;
    if (test->options.signal != 0)
        signal(test->options.signal, SIG_DFL); /* to die of it, not of a sanitizer's handler */
    if (init != NULL)
        init();
    test->run();
    if (fini != NULL)
        fini();
    exit(failed ? 1 : 0); /* through the sanitizer's own exit check */
}

static bool test_passes(const struct runner_test *test)
{
    fflush(NULL);
    pid_t child = fork();
    if (child == 0)
        test_child(test);
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) != child)
        return false;
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM)
        fprintf(stderr, "%s/%s: out of time\n", test->suite, test->name);
    int wanted = test->options.signal;
    if (wanted != 0)
        return WIFSIGNALED(status) && WTERMSIG(status) == wanted;
    return WIFEXITED(status) && WEXITSTATUS(status) == test->options.exit_code;
}

int main(int argc, char **argv)
{
    const char *only = NULL; /* --filter suite/name, as Criterion's without wildcards */
    for (int i = 1; i + 1 < argc; i++)
        if (strcmp(argv[i], "--filter") == 0)
            only = argv[i + 1];
    unsigned run = 0, passed = 0;
    for (const struct runner_test *const *at = __start_runner_tests; at < __stop_runner_tests;
         at++) {
        const struct runner_test *test = *at;
        char name[256];
        if (test->run == NULL || test->options.disabled)
            continue;
        snprintf(name, sizeof(name), "%s/%s", test->suite, test->name);
        if (only != NULL && strcmp(only, name) != 0)
            continue;
        bool passes = test_passes(test);
        run++;
        passed += passes;
        if (!passes)
            fprintf(stderr, "[FAIL] %s\n", name);
    }
    fprintf(stderr, "[====] Tested: %u | Passing: %u | Failing: %u\n", run, passed, run - passed);
    return run == passed && run > 0 ? 0 : 1;
}
