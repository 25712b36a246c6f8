/* What reaches standard error, byte for byte, parsed by cJSON where the values matter. */
#include <cjson/cJSON.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/core.h"
#include "core/err.h"
#include "core/logger.h"

/* ---- standard error as a pipe --------------------------------------------------------------- */

static int pipe_read_end = -1;

static void capture_begin(int pipe_bytes)
{
    int ends[2];
    cr_assert_eq(pipe(ends), 0);
    cr_assert_geq(fcntl(ends[1], F_SETPIPE_SZ, pipe_bytes), pipe_bytes);
    cr_assert_geq(dup2(ends[1], STDERR_FILENO), 0);
    close(ends[1]);
    pipe_read_end = ends[0];
    cr_assert_geq(fcntl(pipe_read_end, F_SETFL, O_NONBLOCK), 0);
}

/* Everything that is there now, appended. */
static size_t capture_read(char *text, size_t used, size_t bytes_max)
{
    ssize_t count;
    while ((count = read(pipe_read_end, text + used, bytes_max - 1 - used)) > 0)
        used += (size_t)count;
    text[used] = '\0';
    return used;
}

static cJSON *capture_one_line(void)
{
    static char text[8192];
    size_t used = capture_read(text, 0, sizeof(text));
    cr_assert_gt(used, 0);
    cr_assert_eq(text[used - 1], '\n');
    cr_assert_eq(strchr(text, '\n'), text + used - 1, "exactly one line: %s", text);
    cr_assert_leq(used, LOGGER_LINE_BYTES_MAX);
    cJSON *line = cJSON_Parse(text);
    cr_assert_not_null(line, "not JSON: %s", text);
    return line;
}

static const char *text_of(const cJSON *line, const char *name)
{
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(line, name));
    return text == NULL ? "(missing)" : text;
}

/* ---- before a core exists ------------------------------------------------------------------- */

Test(logger, keys_come_in_etcds_order)
{
    capture_begin(65536);
    log_warn("slow disk", LOG_U64("took_ms", UINT64_MAX), LOG_I64("delta", INT64_MIN),
             LOG_HEX("member", 0x8e9e05c52164694d), LOG_BOOL("leader", true),
             LOG_TEXT("path", "/a"), LOG_ERROR(ERR_COMPACTED));
    int line = __LINE__ - 3;
    char text[1024], want[1024];
    capture_read(text, 0, sizeof(text));
    char *ts = strstr(text, "\"ts\":\"");
    cr_assert_not_null(ts);
    static const char shape[] = "0000-00-00T00:00:00.000000Z";
    for (size_t i = 0; i < sizeof(shape) - 1; i++) {
        char *digit = ts + 6 + i;
        if (shape[i] == '0' && *digit >= '0' && *digit <= '9')
            *digit = '0';
    }
    snprintf(want, sizeof(want),
             "{\"level\":\"warn\",\"ts\":\"%s\",\"caller\":\"tests/unit/test_logger.c:%d\","
             "\"msg\":\"slow disk\",\"took_ms\":18446744073709551615,"
             "\"delta\":-9223372036854775808,\"member\":\"8e9e05c52164694d\",\"leader\":true,"
             "\"path\":\"/a\",\"error\":\"etcdserver: mvcc: required revision has been compacted\"}"
             "\n",
             shape, line);
    cr_assert_str_eq(text, want);
}

Test(logger, text_is_escaped_so_that_it_reads_back)
{
    static const struct {
        const char *why, *text, *want;
    } cases[] = {
        {"plain", "plain", "plain"},
        {"quotes and backslashes", "a\"b\\c", "a\"b\\c"},
        {"line ends and tabs", "a\nb\r\tc", "a\nb\r\tc"},
        {"other control characters", "a\x01\x1f\x7f", "a\x01\x1f\x7f"},
        {"UTF-8 of two, three and four bytes", "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80",
         "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80"},
        {"a stray continuation byte", "a\x80z", "a\xef\xbf\xbdz"},
        {"a sequence cut by the end", "a\xe2\x82", "a\xef\xbf\xbd\xef\xbf\xbd"},
        {"an overlong slash", "\xc0\xaf", "\xef\xbf\xbd\xef\xbf\xbd"},
        {"an overlong sequence of three", "\xe0\x80\xaf", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
        {"a surrogate", "\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
        {"past the last code point", "\xf4\x90\x80\x80",
         "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
        {"nothing at all", NULL, ""},
    };
    capture_begin(65536);
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        log_info("m", LOG_TEXT("text", cases[i].text));
        cJSON *line = capture_one_line();
        cr_expect_str_eq(text_of(line, "text"), cases[i].want, "%s", cases[i].why);
        cJSON_Delete(line);
    }
}

Test(logger, long_lines_are_cut_and_stay_json)
{
    static char text[3 * LOGGER_LINE_BYTES_MAX];
    capture_begin(65536);
    for (size_t length = LOGGER_LINE_BYTES_MAX - 250; length < LOGGER_LINE_BYTES_MAX + 50;
         length++) {
        /* The last characters cost one, two and six bytes each when escaped. */
        memset(text, 'x', length);
        text[length] = '\0';
        text[length - 30] = '"';
        text[length - 20] = '\x02';
        memcpy(text + length - 10, "\xe2\x82\xac", 3);
        log_info("m", LOG_TEXT("text", text), LOG_U64("number", 1234567890), LOG_BOOL("yes", true));
        cJSON *line = capture_one_line();
        cr_expect_str_eq(text_of(line, "msg"), "m");
        bool cut = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(line, "cut"));
        const cJSON *number = cJSON_GetObjectItemCaseSensitive(line, "number");
        bool whole = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(line, "yes"));
        cr_expect_neq(cut, whole, "%zu", length);
        cr_expect(number == NULL || number->valuedouble == 1234567890);
        const char *got = text_of(line, "text");
        cr_expect_eq(strncmp(got, text, strlen(got)), 0, "a prefix");
        cr_expect_gt(strlen(got), LOGGER_LINE_BYTES_MAX - 300);
        cJSON_Delete(line);
    }
    memset(text, 'y', sizeof(text) - 1);
    log_info(text, LOG_TEXT(text, text));
    cJSON *line = capture_one_line();
    cr_expect(cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(line, "cut")));
    cJSON_Delete(line);
}

Test(logger, lines_below_the_level_are_not_written)
{
    capture_begin(65536);
    char text[64];
    log_debug("m", LOG_U64("n", 1));
    cr_assert_eq(capture_read(text, 0, sizeof(text)), 0, "info is where it starts");
    logger_set_level(LOG_LEVEL_DEBUG);
    log_debug("m", LOG_U64("n", 1));
    cJSON_Delete(capture_one_line());
    logger_set_level(LOG_LEVEL_ERROR);
    log_warn("m", LOG_U64("n", 1));
    cr_assert_eq(capture_read(text, 0, sizeof(text)), 0);
    log_error("m", LOG_U64("n", 1));
    cJSON_Delete(capture_one_line());
}

/* ---- on a core ------------------------------------------------------------------------------ */

static struct core *core_open(void)
{
    struct core_options options = {
        .reactor = {.core_count = 1,
                    .files_max = 64,
                    .buffer_bytes = 1 * MIB,
                    .recv_buffer_bytes = 4096,
                    .recv_buffer_count = 8,
                    .random_seed = 1},
        .fibers_max = 4,
    };
    struct mesh *mesh = NULL;
    struct core *core = NULL;
    char reason[256] = "";
    cr_assert_eq(mesh_create(1, 8, &mesh), 0);
    cr_assert_eq(core_create(&options, mesh, &core, reason, sizeof(reason)), 0, "%s", reason);
    return core;
}

static void core_close(struct core *core)
{
    struct mesh *mesh = core_mesh(core);
    core_destroy(core);
    mesh_destroy(mesh);
}

/* Parses `text` line by line: numbers `n` must rise by one, or by what "dropped_lines" says. */
static uint64_t check_numbers(char *text, uint64_t next, uint64_t *dropped)
{
    for (char *line = text, *end; (end = strchr(line, '\n')) != NULL; line = end + 1) {
        *end = '\0';
        cJSON *json = cJSON_Parse(line);
        cr_assert_not_null(json, "not JSON: %s", line);
        const cJSON *gap = cJSON_GetObjectItemCaseSensitive(json, "dropped_lines");
        if (gap != NULL) {
            *dropped += (uint64_t)gap->valuedouble;
            next += (uint64_t)gap->valuedouble;
        }
        cr_assert_eq(cJSON_GetObjectItemCaseSensitive(json, "n")->valuedouble, (double)next);
        next++;
        cJSON_Delete(json);
    }
    return next;
}

Test(logger, lines_leave_at_the_end_of_the_turn)
{
    capture_begin(65536);
    struct core *core = core_open();
    char text[1024];
    log_info("m", LOG_U64("n", 1));
    cr_assert_eq(capture_read(text, 0, sizeof(text)), 0, "buffered");
    for (int i = 0; i < 10; i++)
        (void)core_turn(core, false);
    cJSON_Delete(capture_one_line());
    core_close(core);
}

Test(logger, the_last_error_is_kept_even_when_nothing_is_written)
{
    capture_begin(65536);
    struct core *core = core_open();
    char text[64];
    cr_assert_str_empty(logger_last_error());
    logger_set_level(LOG_LEVEL_NONE);
    log_error("damaged", LOG_TEXT("file", "a/b"), LOG_U64("offset", 4096), LOG_I64("by", -1));
    log_warn("m", LOG_U64("n", 1));
    cr_assert_str_eq(logger_last_error(), "damaged (file a/b, offset 4096, by -1)");
    core_close(core);
    cr_assert_eq(capture_read(text, 0, sizeof(text)), 0);
    cr_assert_str_empty(logger_last_error(), "it belonged to that core");
}

Test(logger, a_blocked_pipe_stalls_nobody_and_drops_are_counted)
{
    enum { LINES = 4000, ROOM = LINES * 256 };
    capture_begin(4096);
    struct core *core = core_open();
    char *text = malloc(ROOM);
    size_t used = 0;
    uint64_t started_ns = reactor_clock_ns(core_reactor(core));
    for (uint64_t n = 0; n < LINES; n++) {
        log_info("m", LOG_U64("n", n));
        if (n % 10 == 0)
            (void)core_turn(core, false);
        if (n % 1500 == 1499)
            used = capture_read(text, used, ROOM);
    }
    cr_expect_lt(reactor_clock_ns(core_reactor(core)) - started_ns, 10 * NS_PER_S);
    for (int i = 0; i < 200; i++) {
        (void)core_turn(core, false);
        used = capture_read(text, used, ROOM);
        usleep(1000);
    }
    log_info("m", LOG_U64("n", LINES));
    core_close(core); /* writes what is left */
    used = capture_read(text, used, ROOM);
    uint64_t dropped = 0;
    cr_expect_eq(check_numbers(text, 0, &dropped), LINES + 1, "every line is there or counted");
    cr_expect_gt(dropped, 0, "the pipe was meant to block");
    free(text);
}

Test(logger, a_pipe_that_nobody_reads_does_not_keep_a_core_from_ending)
{
    pid_t child = fork();
    if (child == 0) {
        capture_begin(4096);
        struct core *core = core_open();
        for (uint64_t n = 0; n < 1000; n++)
            log_info("m", LOG_U64("n", n));
        core_close(core);
        _exit(0); /* the reactor is left to the end of the process */
    }
    int status = 0;
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_expect(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

Test(logger, two_cores_do_not_overwrite_each_other_in_a_file)
{
    char path[] = "/tmp/test_logger_XXXXXX";
    int fd = mkstemp(path);
    cr_assert_geq(fd, 0);
    cr_assert_geq(dup2(fd, STDERR_FILENO), 0);
    struct core *a = core_open(), *b = core_open();
    for (uint64_t n = 0; n < 500; n++) {
        core_set_current(a);
        log_info("a", LOG_U64("n", n));
        core_set_current(b);
        log_info("b", LOG_U64("n", n));
        (void)core_turn(a, false);
        (void)core_turn(b, false);
    }
    core_close(a);
    core_close(b);
    FILE *file = fopen(path, "r");
    char line[LOGGER_LINE_BYTES_MAX];
    uint32_t count = 0;
    while (fgets(line, sizeof(line), file) != NULL) {
        cJSON *json = cJSON_Parse(line);
        cr_assert_not_null(json, "not JSON: %s", line);
        cJSON_Delete(json);
        count++;
    }
    cr_expect_eq(count, 1000);
    fclose(file);
    close(fd);
    unlink(path);
}

Test(logger, fatal_writes_what_the_core_still_holds_first)
{
    capture_begin(65536);
    pid_t child = fork();
    if (child == 0) {
        struct core *core = core_open();
        (void)core;
        signal(SIGABRT, SIG_DFL);
        log_info("last words", LOG_U64("n", 7));
        fatal("the disk said \"%s\"", "no\n");
    }
    int status = 0;
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_expect(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    char text[4096];
    capture_read(text, 0, sizeof(text));
    char *second = strchr(text, '\n');
    cr_assert_not_null(second);
    *second++ = '\0';
    cJSON *line = cJSON_Parse(text);
    cr_expect_str_eq(text_of(line, "msg"), "last words");
    cJSON_Delete(line);
    cr_expect_str_eq(second, "{\"level\":\"fatal\",\"msg\":\"the disk said \\\"no \\\"\"}\n");
}

/* Gives up after a long while: then the child is killed, and the status says so. */
static int wait_for_end(pid_t child)
{
    int status = 0;
    for (int i = 0; i < 30000; i++) {
        pid_t ended = waitpid(child, &status, WNOHANG);
        cr_assert_geq(ended, 0);
        if (ended == child)
            return status;
        usleep(1000);
    }
    kill(child, SIGKILL);
    cr_assert_eq(waitpid(child, &status, 0), child);
    return status;
}

Test(logger, fatal_ends_the_process_although_nobody_reads)
{
    for (int with_core = 0; with_core < 2; with_core++) {
        pid_t child = fork();
        if (child == 0) {
            signal(SIGABRT, SIG_DFL);
            capture_begin(4096);
            cr_assert_eq(fcntl(STDERR_FILENO, F_SETFL, O_NONBLOCK), 0);
            while (write(STDERR_FILENO, "full\n", 5) > 0) {
            }
            cr_assert_eq(fcntl(STDERR_FILENO, F_SETFL, 0), 0);
            if (with_core) {
                (void)core_open();
                log_info("last words", LOG_U64("n", 7));
            }
            fatal("the disk said no");
        }
        int status = wait_for_end(child);
        cr_expect(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT, "status %x", status);
    }
}
