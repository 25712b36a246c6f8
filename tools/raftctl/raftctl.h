/*
 * raftctl.h - what every command of raftctl shares: global flags, the core it runs on, exit codes.
 *
 * Story     main.c parses the global flags, makes one core and runs the command in a fiber of it.
 *           A command either returns an exit code or ends the process with raftctl_fail().
 * Owner     struct raftctl lives in main(); everything runs on its one thread.
 * Source    docs/operations/raftctl.md: syntax, output and exit codes are etcdctl's.
 */
#ifndef TOOLS_RAFTCTL_RAFTCTL_H
#define TOOLS_RAFTCTL_RAFTCTL_H

#include "client/kv_client.h"
#include "core/core.h"
#include "tools/raftctl/flags.h"

enum raftctl_exit {
    RAFTCTL_OK = 0,
    RAFTCTL_ERROR = 1,
    RAFTCTL_INVALID_INPUT = 3, /* of a transaction */
    RAFTCTL_BAD_FEATURE = 4,
    RAFTCTL_BAD_ARGUMENTS = 128,
};

enum raftctl_output {
    RAFTCTL_SIMPLE,
    RAFTCTL_JSON,
    RAFTCTL_FIELDS,
    RAFTCTL_TABLE,
    RAFTCTL_PROTOBUF,
};

struct raftctl {
    struct flag_table *globals;
    /* Global flags, as given. */
    char *endpoint_list; /* comma-separated */
    const char *output_name;
    bool hex;
    uint64_t dial_timeout_ms, command_timeout_ms;

    enum raftctl_output output; /* from raftctl_connect() on */
    struct core *core;
    struct client_set set;
    struct kv_client *client;
};

struct raftctl_command {
    const char *name; /* "get", or two words: "endpoint status" */
    const char *usage;
    int (*run)(struct raftctl *ctl, const struct raftctl_command *command, int argc, char **argv);
};

/* Parses argv with `flags` and the global ones. The arguments that are left are moved to the front
 * of argv; returns how many. Ends the process when a flag is wrong or help is wanted. */
int raftctl_parse(const struct raftctl *ctl, const struct raftctl_command *command,
                  struct flag *flags, uint32_t flag_count, int argc, char **argv);

/* Resolves the output format and makes the client, of all endpoints; the dialling comes later. */
void raftctl_connect(struct raftctl *ctl);
/* The two steps by themselves. */
void raftctl_choose_output(struct raftctl *ctl);
must_check struct kv_client *raftctl_open_client(struct raftctl *ctl, const char *const *endpoints,
                                                 uint32_t endpoint_count);

/* The endpoints as given. Returns how many; `list` lives as long as the process. */
uint32_t raftctl_endpoints(const struct raftctl *ctl, const char *list[KV_CLIENT_ENDPOINTS_MAX]);

/* Ends the process after "Error: ..." on standard error. */
_Noreturn void raftctl_fail(enum raftctl_exit code, const char *text, ...) printf_like(2, 3);
/* The same for a request that failed. */
_Noreturn void raftctl_fail_call(const struct kv_failure *failure);
/* What a failed request leaves unsaid in the text that clients of etcd know. */
void raftctl_explain(const struct kv_failure *failure);

_Noreturn void raftctl_out_of_memory(void);
must_check void *raftctl_allocate(size_t bytes); /* zeroed, never NULL */

/* ---- the commands: kv.c, txn.c, status.c, debug_log.c, debug_tables.c ------------------------
 */

int kv_run_get(struct raftctl *ctl, const struct raftctl_command *command, int argc, char **argv);
int kv_run_put(struct raftctl *ctl, const struct raftctl_command *command, int argc, char **argv);
int kv_run_del(struct raftctl *ctl, const struct raftctl_command *command, int argc, char **argv);
int kv_run_compaction(struct raftctl *ctl, const struct raftctl_command *command, int argc,
                      char **argv);
int txn_run(struct raftctl *ctl, const struct raftctl_command *command, int argc, char **argv);
int status_run(struct raftctl *ctl, const struct raftctl_command *command, int argc, char **argv);
int debug_log_run(struct raftctl *ctl, const struct raftctl_command *command, int argc,
                  char **argv);
int debug_sst_run(struct raftctl *ctl, const struct raftctl_command *command, int argc,
                  char **argv);
int debug_manifest_run(struct raftctl *ctl, const struct raftctl_command *command, int argc,
                       char **argv);

#endif
