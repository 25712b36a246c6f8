#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/invariant.h"
#include "core/logger.h"
#include "tools/raftctl/raftctl.h"

static const struct raftctl_command raftctl_commands[] = {
    {"get", "get [flags] KEY [RANGE_END]", kv_run_get},
    {"put", "put [flags] KEY VALUE (without VALUE: from standard input)", kv_run_put},
    {"del", "del [flags] KEY [RANGE_END]", kv_run_del},
    {"txn", "txn [-i] (compares, requests if they hold, requests if not: from standard input)",
     txn_run},
    {"compaction", "compaction [--physical] REVISION", kv_run_compaction},
    {"compact", "compact [--physical] REVISION", kv_run_compaction},
    {"endpoint status", "endpoint status", status_run},
    {"status", "status", status_run},
    {"debug log", "debug log [--json [--from INDEX]] DATA_DIR (of a stopped node)", debug_log_run},
    {"debug sst", "debug sst [--rows] FILE", debug_sst_run},
    {"debug manifest", "debug manifest DATA_DIR", debug_manifest_run},
};

static void raftctl_print_usage(FILE *to)
{
    fputs("raftctl " RAFT_VERSION " - command line client\n\nUsage:\n", to);
    for (size_t i = 0; i < ARRAY_COUNT(raftctl_commands); i++)
        fprintf(to, "  raftctl %s\n", raftctl_commands[i].usage);
    fputs("\nFlags of every command:\n"
          "  --endpoints LIST      host:port, comma-separated (127.0.0.1:2379)\n"
          "  -w, --write-out NAME  simple, json, table, fields or protobuf (simple)\n"
          "  --hex                 print bytes as \\x escapes\n"
          "  --command-timeout T   for a request, dialling included (5s)\n"
          "  --dial-timeout T      for one endpoint (2s)\n"
          "Each has an environment variable as well: ETCDCTL_ENDPOINTS, ETCDCTL_WRITE_OUT, ...\n",
          to);
}

/* ---- ends --------------------------------------------------------------------------------------
 */

/* Also what stdio wrote on the way; then the reason is gone. */
static int raftctl_end_output(int code)
{
    bool failed = ferror(stdout) != 0;
    const char *reason = failed ? "an earlier write failed" : "";
    if (fflush(stdout) != 0) {
        failed = true;
        reason = err_text(-errno);
    }
    if (!failed)
        return code;
    fprintf(stderr, "Error: standard output could not be written: %s\n", reason);
    return RAFTCTL_ERROR;
}

void raftctl_fail(enum raftctl_exit code, const char *text, ...)
{
    va_list arguments;
    va_start(arguments, text);
    fflush(stdout);
    fputs("Error: ", stderr);
    vfprintf(stderr, text, arguments);
    putc('\n', stderr);
    va_end(arguments);
    exit((int)code);
}

void raftctl_explain(const struct kv_failure *failure)
{
    if (failure->link_error != 0)
        fprintf(stderr, "raftctl: endpoint %s: %s\n", failure->link_endpoint,
                err_text(failure->link_error));
    if (failure->maybe_executed)
        fputs("raftctl: it is not known whether the request was executed\n", stderr);
}

void raftctl_fail_call(const struct kv_failure *failure)
{
    raftctl_explain(failure);
    raftctl_fail(RAFTCTL_ERROR, "%s", failure->text);
}

void raftctl_out_of_memory(void)
{
    raftctl_fail(RAFTCTL_ERROR, "out of memory");
}

void *raftctl_allocate(size_t bytes)
{
    void *memory = calloc(1, bytes);
    if (memory == NULL)
        raftctl_out_of_memory();
    return memory;
}

static void raftctl_require_flags(const struct raftctl_command *command, enum flag_result result,
                                  const char *reason, const struct flag *flags, uint32_t flag_count)
{
    if (result == FLAG_HELP) {
        printf("Usage:\n  raftctl %s\n", command->usage);
        for (uint32_t i = 0; i < flag_count; i++)
            printf("  --%-18s %s\n", flags[i].name, flags[i].what);
        exit(raftctl_end_output(RAFTCTL_OK));
    }
    if (result == FLAG_WRONG) {
        fprintf(stderr, "Error: %s\nUsage:\n  raftctl %s\n", reason, command->usage);
        exit(RAFTCTL_ERROR);
    }
}

int raftctl_parse(const struct raftctl *ctl, const struct raftctl_command *command,
                  struct flag *flags, uint32_t flag_count, int argc, char **argv)
{
    char reason[FLAG_REASON_BYTES] = "";
    struct flag_table tables[] = {{flags, flag_count}, *ctl->globals};
    enum flag_result result = flags_parse(tables, 2, false, &argc, argv, reason);
    raftctl_require_flags(command, result, reason, flags, flag_count);
    return argc;
}

/* ---- connecting --------------------------------------------------------------------------------
 */

void raftctl_choose_output(struct raftctl *ctl)
{
    static const char *const names[] = {[RAFTCTL_SIMPLE] = "simple",
                                        [RAFTCTL_JSON] = "json",
                                        [RAFTCTL_FIELDS] = "fields",
                                        [RAFTCTL_TABLE] = "table",
                                        [RAFTCTL_PROTOBUF] = "protobuf"};
    char reason[FLAG_REASON_BYTES];
    if (flags_from_environment(ctl->globals, "ETCDCTL_", reason) != FLAG_PARSED)
        raftctl_fail(RAFTCTL_ERROR, "%s", reason);
    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        if (strcmp(ctl->output_name, names[i]) == 0) {
            ctl->output = (enum raftctl_output)i;
            return;
        }
    }
    raftctl_fail(RAFTCTL_BAD_FEATURE, "unsupported output format");
}

uint32_t raftctl_endpoints(const struct raftctl *ctl, const char *list[KV_CLIENT_ENDPOINTS_MAX])
{
    uint32_t count = 0;
    char *rest = strdup(ctl->endpoint_list);
    if (rest == NULL)
        raftctl_out_of_memory();
    for (char *one = strsep(&rest, ","); one != NULL; one = strsep(&rest, ",")) {
        if (*one == '\0')
            continue;
        if (count == KV_CLIENT_ENDPOINTS_MAX)
            raftctl_fail(RAFTCTL_BAD_ARGUMENTS, "more than %d endpoints", KV_CLIENT_ENDPOINTS_MAX);
        list[count++] = one;
    }
    if (count == 0)
        raftctl_fail(RAFTCTL_BAD_ARGUMENTS, "--endpoints names none: give host:port");
    return count;
}

struct kv_client *raftctl_open_client(struct raftctl *ctl, const char *const *endpoints,
                                      uint32_t endpoint_count)
{
    char reason[KV_CLIENT_ENDPOINT_BYTES + 128] = "";
    struct kv_client *client;
    struct kv_client_options options = {.endpoints = endpoints,
                                        .endpoint_count = endpoint_count,
                                        .dial_timeout_ms = ctl->dial_timeout_ms,
                                        .call_timeout_ms = ctl->command_timeout_ms,
                                        .calls_max = 1};
    int error = kv_client_open(&ctl->set, &options, &client, reason, sizeof(reason));
    if (error < 0)
        raftctl_fail(RAFTCTL_BAD_ARGUMENTS, "%s", *reason != '\0' ? reason : err_text(error));
    return client;
}

void raftctl_connect(struct raftctl *ctl)
{
    const char *endpoints[KV_CLIENT_ENDPOINTS_MAX];
    raftctl_choose_output(ctl);
    uint32_t count = raftctl_endpoints(ctl, endpoints);
    ctl->client = raftctl_open_client(ctl, endpoints, count);
}

/* ---- start -------------------------------------------------------------------------------------
 */

struct raftctl_run {
    struct raftctl *ctl;
    const struct raftctl_command *command;
    int argc;
    char **argv;
    int code;
};

static void raftctl_run_command(void *argument)
{
    struct raftctl_run *run = argument;
    struct raftctl *ctl = run->ctl;
    run->code = run->command->run(ctl, run->command, run->argc, run->argv);
    if (ctl->client != NULL)
        kv_client_close(ctl->client);
    core_stop(ctl->core);
}

/* The command that the words begin with, and how many of them name it. */
static const struct raftctl_command *raftctl_find_command(int argc, char **argv, int *word_count)
{
    for (size_t i = 0; i < ARRAY_COUNT(raftctl_commands); i++) {
        const char *name = raftctl_commands[i].name, *space = strchr(name, ' ');
        size_t first_bytes = space != NULL ? (size_t)(space - name) : strlen(name);
        if (strlen(argv[0]) != first_bytes || memcmp(argv[0], name, first_bytes) != 0)
            continue;
        *word_count = space != NULL ? 2 : 1;
        if (space == NULL || (argc > 1 && strcmp(argv[1], space + 1) == 0))
            return &raftctl_commands[i];
    }
    fprintf(stderr, "Error: unknown command \"%s\" for \"raftctl\"\n", argv[0]);
    raftctl_print_usage(stderr);
    exit(RAFTCTL_ERROR);
}

static void raftctl_create_core(struct raftctl *ctl, struct mesh **mesh)
{
    char reason[256] = "";
    struct core_options options = {.reactor = {.core_count = 1,
                                               .files_max = 128,
                                               .buffer_bytes = 4 * MIB,
                                               .recv_buffer_bytes = 16384,
                                               .recv_buffer_count = 64},
                                   .fibers_max = 8};
    int error = mesh_create(1, 64, mesh);
    if (error == 0)
        error = core_create(&options, *mesh, &ctl->core, reason, sizeof(reason));
    if (error < 0)
        raftctl_fail(RAFTCTL_ERROR, "%s", *reason != '\0' ? reason : err_text(error));
    struct reactor *reactor = core_reactor(ctl->core);
    reactor_link(reactor, &reactor, 1);
    client_set_init(&ctl->set, ctl->core);
}

int main(int argc, char **argv)
{
    struct raftctl ctl = {.endpoint_list = strdup("127.0.0.1:2379"),
                          .output_name = "simple",
                          .command_timeout_ms = KV_CLIENT_CALL_MS_DEFAULT,
                          .dial_timeout_ms = KV_CLIENT_DIAL_MS_DEFAULT};
    bool ignored_switch;
    struct flag globals[] = {
        {"endpoints", 0, FLAG_LIST, &ctl.endpoint_list, "", false},
        {"write-out", 'w', FLAG_TEXT, &ctl.output_name, "", false},
        {"hex", 0, FLAG_SWITCH, &ctl.hex, "", false},
        {"command-timeout", 0, FLAG_LIMIT, &ctl.command_timeout_ms, "", false},
        {"dial-timeout", 0, FLAG_DURATION, &ctl.dial_timeout_ms, "", false},
        /* Of etcdctl, and without a meaning here. */
        {"debug", 0, FLAG_SWITCH, &ignored_switch, "", false},
        {"insecure-transport", 0, FLAG_SWITCH, &ignored_switch, "", false},
        {"keepalive-time", 0, FLAG_IGNORED, NULL, "", false},
        {"keepalive-timeout", 0, FLAG_IGNORED, NULL, "", false},
        {"max-request-bytes", 0, FLAG_IGNORED, NULL, "", false},
        {"max-recv-bytes", 0, FLAG_IGNORED, NULL, "", false},
    };
    struct flag_table table = {globals, ARRAY_COUNT(globals)};
    static const struct raftctl_command none = {"", "COMMAND [flags] [arguments]", NULL};
    char reason[FLAG_REASON_BYTES];
    struct mesh *mesh = NULL;
    struct raftctl_run run = {.ctl = &ctl, .argc = argc - 1, .argv = argv + 1};
    ctl.globals = &table;
    logger_set_level(LOG_LEVEL_ERROR);
    enum flag_result result = flags_parse(&table, 1, true, &run.argc, run.argv, reason);
    if (result == FLAG_HELP || (result == FLAG_PARSED && run.argc == 0)) {
        raftctl_print_usage(stdout);
        return raftctl_end_output(RAFTCTL_OK);
    }
    raftctl_require_flags(&none, result, reason, NULL, 0);
    int word_count;
    run.command = raftctl_find_command(run.argc, run.argv, &word_count);
    run.argc -= word_count;
    run.argv += word_count;
    raftctl_create_core(&ctl, &mesh);
    if (fiber_spawn(ctl.core, FIBER_LATENCY, raftctl_run_command, &run) < 0)
        raftctl_out_of_memory();
    core_run(ctl.core);
    client_set_deinit(&ctl.set);
    core_destroy(ctl.core);
    mesh_destroy(mesh);
    free(ctl.endpoint_list);
    return raftctl_end_output(run.code);
}
