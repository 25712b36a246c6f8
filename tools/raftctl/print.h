/*
 * print.h - responses on standard output, byte for byte as etcdctl 3.7 prints them.
 *
 * Owner     Responses are borrowed.
 * Errors    A format that a response cannot be shown in ends the process with exit code 4.
 * Source    docs/operations/raftctl.md; tests/compat/raftctl_test.go compares with etcdctl.
 */
#ifndef TOOLS_RAFTCTL_PRINT_H
#define TOOLS_RAFTCTL_PRINT_H

#include "tools/raftctl/raftctl.h"

void print_range(const struct raftctl *ctl, const Etcdserverpb__RangeResponse *response,
                 bool value_only);
void print_put(const struct raftctl *ctl, const Etcdserverpb__PutResponse *response);
void print_delete(const struct raftctl *ctl, const Etcdserverpb__DeleteRangeResponse *response);
void print_txn(const struct raftctl *ctl, const Etcdserverpb__TxnResponse *response);

struct print_status {
    const char *endpoint;
    Etcdserverpb__StatusResponse *response;
};
void print_statuses(const struct raftctl *ctl, const struct print_status *statuses, uint32_t count);

#endif
