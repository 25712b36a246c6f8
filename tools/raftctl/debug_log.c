/* raftctl debug log: blocks or, with --json, requests of a stopped node's Raft log. */
#include <inttypes.h>
#include <stdio.h>

#include "core/err.h"
#include "core/logger.h"
#include "proto/rpc.pb-c.h"
#include "storage/log/request.h"
#include "storage/log/wal.h"
#include "tools/raftctl/debug.h"
#include "tools/raftctl/json.h"
#include "tools/raftctl/text.h"

/* ---- one entry as a line of JSON ------------------------------------------------------------- */

static const ProtobufCMessageDescriptor *debug_log_schema(enum request_kind kind)
{
    switch (kind) {
    case REQUEST_PUT:
        return &etcdserverpb__put_request__descriptor;
    case REQUEST_DELETE_RANGE:
        return &etcdserverpb__delete_range_request__descriptor;
    case REQUEST_TXN:
        return &etcdserverpb__txn_request__descriptor;
    case REQUEST_COMPACT:
        return &etcdserverpb__compaction_request__descriptor;
    case REQUEST_ALARM:
        return &etcdserverpb__alarm_request__descriptor;
    case REQUEST_MEMBER_ADD:
    case REQUEST_MEMBER_REMOVE:
    case REQUEST_MEMBER_PROMOTE:
    case REQUEST_MEMBER_UPDATE:
    case REQUEST_MEMBER_PUBLISH:
        return &etcdserverpb__member__descriptor;
    }
    return NULL;
}

static void debug_log_print_payload(const struct entry *entry)
{
    fputs(",\"payload\":\"", stdout);
    text_write_base64(stdout, bytes_make(entry->payload, entry->payload_bytes));
    putchar('"');
}

static void debug_log_print_request(const struct entry *entry)
{
    struct request request;
    ProtobufCMessage *message = NULL;
    if (request_decode(&request, bytes_make(entry->payload, entry->payload_bytes)) == 0)
        message = protobuf_c_message_unpack(debug_log_schema(request.kind), NULL, request.body.size,
                                            request.body.data);
    if (message == NULL) {
        fputs("\"unknown\"", stdout);
        debug_log_print_payload(entry);
        return;
    }
    printf("\"%s\",\"origin\":%" PRIu64 ",\"sequence\":%" PRIu64 ",\"request\":",
           request_kind_name(request.kind), request.origin, request.sequence);
    json_write_message(stdout, message);
    protobuf_c_message_free_unpacked(message, NULL);
}

static int debug_log_print_entry(void *context, const struct entry *entry)
{
    (void)context;
    if (entry->tag == WAL_ENTRY_FAULTY)
        return 1;
    printf("{\"index\":%" PRIu64 ",\"term\":%" PRIu64 ",\"payload_bytes\":%" PRIu32 ",\"type\":",
           entry->index, entry->term, entry->payload_bytes);
    if (entry->type == ENTRY_CONFIG_CHANGE) {
        fputs("\"config_change\"", stdout);
        debug_log_print_payload(entry);
    } else if (entry->type == ENTRY_NORMAL && entry->payload_bytes == 0) {
        fputs("\"no_op\"", stdout);
    } else {
        debug_log_print_request(entry);
    }
    puts("}");
    return 0;
}

/* ---- one block as a line of text --------------------------------------------------------------
 */

static void debug_log_print_flags(uint16_t flags)
{
    static const char *const names[] = {"fragment", "last", "repair", "cut",
                                        "reset",    "first"}; /* docs/formats/log-block.md */
    for (size_t i = 0; i < ARRAY_COUNT(names); i++)
        if ((flags >> i & 1) != 0)
            printf(" %s", names[i]);
}

static void debug_log_print_block(void *context, const struct wal_dump_block *block)
{
    (void)context;
    printf("%010" PRIu32 ".log offset %" PRIu64 " bytes %" PRIu32 " block %" PRIu64
           " durable_upto %" PRIu64 " term %" PRIu64 " vote %" PRIx64 " commit %" PRIu64,
           block->segment, block->offset, block->bytes, block->sequence, block->durable_upto,
           block->hard_state.term, block->hard_state.vote, block->hard_state.commit);
    if (block->entry_count > 0)
        printf(" entries %" PRIu64 " to %" PRIu64 " of term %" PRIu64, block->first_index,
               block->first_index + block->entry_count - 1, block->term);
    else
        printf(" next %" PRIu64, block->first_index);
    debug_log_print_flags(block->flags);
    puts(block->valid ? "" : block->proven ? " DAMAGED" : " incomplete");
}

/* ---- the command ------------------------------------------------------------------------------
 */

static void debug_log_print_verdict(const struct wal_recovered *recovered)
{
    static const char *const names[] = {[WAL_VERDICT_EMPTY] = "empty",
                                        [WAL_VERDICT_OK] = "ok",
                                        [WAL_VERDICT_TORN] = "torn tail",
                                        [WAL_VERDICT_FAULTY] = "damaged",
                                        [WAL_VERDICT_FENCED] = "fenced"};
    printf("verdict %s, entries %" PRIu64 " to %" PRIu64 ", last term %" PRIu64 ", term %" PRIu64
           ", vote %" PRIx64 ", commit %" PRIu64 "\n",
           names[recovered->verdict], recovered->first_index, recovered->last_index,
           recovered->last_term, recovered->hard_state.term, recovered->hard_state.vote,
           recovered->hard_state.commit);
}

/* Blocks that were in flight when the process ended are no damage: a note, not an error. */
static int debug_log_end(const struct wal_recovered *recovered)
{
    if (recovered->verdict == WAL_VERDICT_FENCED || recovered->fault_proven_count > 0)
        raftctl_fail(RAFTCTL_ERROR, "%s", recovered->reason);
    if (recovered->reason[0] != '\0') {
        fflush(stdout);
        fprintf(stderr, "raftctl: %s\n", recovered->reason);
    }
    return RAFTCTL_OK;
}

int debug_log_run(struct raftctl *ctl, const struct raftctl_command *command, int argc, char **argv)
{
    bool json = false;
    int64_t from = 0;
    struct flag flags[] = {
        {"json", 0, FLAG_SWITCH, &json, "one JSON object per entry, in the order of the log",
         false},
        {"from", 0, FLAG_INTEGER, &from, "first index to print, with --json", false},
    };
    char directory[DEBUG_PATH_BYTES];
    struct wal_recovered recovered;
    argc = raftctl_parse(ctl, command, flags, ARRAY_COUNT(flags), argc, argv);
    if (argc != 1 || from < 0)
        raftctl_fail(RAFTCTL_BAD_ARGUMENTS, "debug log needs one data directory");
    if (flags[1].given && !json)
        raftctl_fail(RAFTCTL_BAD_ARGUMENTS, "--from is for --json only");
    logger_set_level(LOG_LEVEL_NONE);
    debug_enter(directory, argv[0], "log");
    struct wal_dump_visitor visitor = {.block = debug_log_print_block};
    int error =
        json ? wal_dump_entries(directory, (uint64_t)from, debug_log_print_entry, NULL, &recovered)
             : wal_dump(directory, &visitor, &recovered);
    if (error == ERR_COMPACTED)
        raftctl_fail(RAFTCTL_ERROR, "%s: the log begins at index %" PRIu64, directory,
                     recovered.first_index);
    if (error < 0)
        raftctl_fail(RAFTCTL_ERROR, "%s",
                     recovered.reason[0] != '\0' ? recovered.reason : err_text(error));
    if (!json)
        debug_log_print_verdict(&recovered);
    return debug_log_end(&recovered);
}
