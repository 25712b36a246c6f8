/*
 * kv.h - get, put and del: from flags and arguments to requests, for the command line and for the
 * lines of a transaction alike.
 *
 * Story     A parse takes the words behind the command's name. Flags that are wrong are reported
 *           back, since the two callers end differently then; what is wrong with good flags ends
 *           the process as it does in etcdctl.
 * Owner     Requests point into argv and into memory that lives as long as the process.
 * Errors    false with a line in `reason`.
 */
#ifndef TOOLS_RAFTCTL_KV_H
#define TOOLS_RAFTCTL_KV_H

#include "tools/raftctl/flags.h"
#include "tools/raftctl/raftctl.h"

#define KV_DELETE_PAUSE_NS (2 * NS_PER_S)

struct kv_words {
    const struct raftctl *ctl;
    const struct raftctl_command *command; /* NULL: a line of a transaction */
    int argc;
    char **argv;
    char reason[FLAG_REASON_BYTES];
};

struct kv_get {
    Etcdserverpb__RangeRequest request;
    bool value_only;
};

must_check enum flag_result kv_parse_get(struct kv_words *words, struct kv_get *get);
must_check enum flag_result kv_parse_put(struct kv_words *words, Etcdserverpb__PutRequest *put);
/* `warned`: keys of an interval go after a pause only. */
must_check enum flag_result kv_parse_del(struct kv_words *words,
                                         Etcdserverpb__DeleteRangeRequest *del, bool *warned);

#endif
