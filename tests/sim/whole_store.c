#include "tests/sim/whole_store.h"

#include <inttypes.h>
#include <stdlib.h>

#include "core/invariant.h"
#include "server/kv_codec.h"
#include "storage/log/request.h"
#include "tests/sim/memory.h"
#include "tests/sim/whole.h"

#define FIRST_REVISION 1

void whole_store_init(struct whole *whole)
{
    struct whole_store *store = &whole->store;
    check_store_init(&store->model, &whole->verdict);
    check_history_init(&store->history, &whole->verdict, FIRST_REVISION);
    arena_init(&store->scratch, 0);
}

void whole_store_deinit(struct whole *whole)
{
    check_store_deinit(&whole->store.model);
    check_history_deinit(&whole->store.history);
    arena_deinit(&whole->store.scratch);
    free(whole->store.revisions);
}

/* ---- the log -------------------------------------------------------------------------------- */

/* Only members have a say: what a removed one had in the log behind its removal is void. */
static bool is_of_member(const struct whole *whole, const struct request *request, uint64_t index)
{
    const struct raft_config *config = check_raft_config_at(&whole->raft_check, index - 1);
    struct raft_id_set members = raft_config_members(config);
    bool is = raft_id_set_has(&members, request->origin);
    sometimes(!is, "whole: a request of a removed member is in the log");
    return is;
}

/* A request that its sender repeated, because it did not know better, is executed once. */
static bool is_first_copy(struct whole_store *store, const struct request *request)
{
    struct whole_stream *stream = store->streams;
    while (stream < store->streams + store->stream_count &&
           (stream->origin != request->origin || stream->stream != request->stream))
        stream++;
    if (stream == store->streams + store->stream_count) {
        invariant(store->stream_count < WHOLE_STREAMS_MAX);
        store->stream_count++;
        *stream = (struct whole_stream){.origin = request->origin, .stream = request->stream};
    }
    sometimes(request->sequence == stream->sequence, "whole: a request is in the log twice");
    if (request->sequence <= stream->sequence)
        return false;
    stream->sequence = request->sequence;
    return true;
}

/* Each member has its own; any one refuses puts. */
static void alarm(struct whole_store *store, const struct alarm_request *request)
{
    uint32_t at = 0;
    while (at < store->alarm_count && store->alarms[at] != request->member)
        at++;
    if (request->action == ALARM_ACTIVATE && at == store->alarm_count) {
        invariant(at < WHOLE_ALARMS_MAX);
        store->alarms[store->alarm_count++] = request->member;
    } else if (request->action == ALARM_DEACTIVATE && at < store->alarm_count) {
        store->alarms[at] = store->alarms[--store->alarm_count];
    }
    store->model.no_space = store->alarm_count > 0;
}

static uint64_t execute(struct whole_store *store, const struct request *request)
{
    struct mvcc_put_request put;
    struct mvcc_delete_request del;
    struct mvcc_txn_request txn;
    struct mvcc_compact_request compact;
    struct alarm_request change;
    switch (request->kind) {
    case REQUEST_PUT:
        return kv_decode_put(request->body, &put) == 0 ? check_store_put(&store->model, &put) : 0;
    case REQUEST_DELETE_RANGE:
        return kv_decode_delete(request->body, &del) == 0 ? check_store_delete(&store->model, &del)
                                                          : 0;
    case REQUEST_TXN:
        arena_reset(&store->scratch);
        return kv_decode_txn(request->body, &store->scratch, &txn) == 0
                   ? check_store_txn(&store->model, &txn)
                   : 0;
    case REQUEST_COMPACT:
        if (kv_decode_compact(request->body, &compact) == 0)
            check_store_compact(&store->model, &compact);
        return 0;
    case REQUEST_ALARM:
        if (kv_decode_alarm(request->body, &change) == 0 && change.kind == ALARM_NO_SPACE)
            alarm(store, &change);
        return 0;
    default:
        return 0; /* about members: whole_raft.h looks at those */
    }
}

/* Entries that execute nothing come between. */
static void remember_revisions(struct whole_store *store, uint64_t index)
{
    if (index >= store->revision_capacity) {
        store->revision_capacity = u64_max(index + 1, store->revision_capacity * 2 + 1024);
        store->revisions =
            sim_realloc(store->revisions, store->revision_capacity * sizeof(*store->revisions));
    }
    for (uint64_t at = store->index; at < index; at++)
        store->revisions[at] = store->model.revision;
}

uint64_t whole_store_revision(const struct whole *whole, uint64_t index)
{
    const struct whole_store *store = &whole->store;
    return index >= store->index ? store->model.revision : store->revisions[index];
}

void whole_store_execute(struct whole *whole, const struct entry *entry)
{
    struct whole_store *store = &whole->store;
    struct request request;
    if (entry->index <= store->index)
        return;
    remember_revisions(store, entry->index);
    store->index = entry->index;
    if (entry->type != ENTRY_NORMAL ||
        request_decode(&request, bytes_make(entry->payload, entry->payload_bytes)) < 0 ||
        !is_of_member(whole, &request, entry->index) || !is_first_copy(store, &request))
        return;
    uint64_t before = store->model.revision;
    uint64_t author = execute(store, &request);
    whole_text(whole, 0, "entry %" PRIu64 ": %s of operation %" PRIu64 ", revision %" PRIu64,
               entry->index, request_kind_name(request.kind), author, store->model.revision);
    if (store->model.revision != before)
        check_history_happen(&store->history, author, store->model.revision);
}

/* ---- answers -------------------------------------------------------------------------------- */

enum step { STEP_WRITE, STEP_READ, STEP_DONE, STEP_REFUSED, STEP_UNKNOWN };

static void trace(struct whole *whole, uint64_t operation, enum step step, uint64_t revision)
{
    static const char *const names[] = {"writes", "reads", "done", "refused", "unknown"};
    sim_trace(&whole->world, NULL, 0, SIM_KIND_CLIENT, operation << 3 | step, revision);
    whole_text(whole, 0, "operation %" PRIu64 " %s, revision %" PRIu64, operation, names[step],
               revision);
}

uint64_t whole_store_call(struct whole *whole, bool write)
{
    sim_heap_enter(NULL); /* the client's machine is current */
    uint64_t operation = check_history_call(&whole->store.history, write, 0);
    sim_heap_enter(whole->machine.heap);
    trace(whole, operation, write ? STEP_WRITE : STEP_READ, whole->store.history.floor);
    return operation;
}

static uint64_t author_of(const ProtobufCBinaryData *value)
{
    char text[24] = "";
    memcpy(text, value->data, value->len < sizeof(text) - 1 ? value->len : sizeof(text) - 1);
    return strtoull(text, NULL, 10);
}

void whole_store_add_kv(struct check_outcome *outcome, const Mvccpb__KeyValue *kv)
{
    if (kv == NULL || outcome->kv_count == CHECK_STORE_KVS_MAX)
        return;
    outcome->kvs[outcome->kv_count++] =
        (struct check_kv){.key = check_store_key_of(bytes_make(kv->key.data, kv->key.len)),
                          .author = author_of(&kv->value),
                          .revision = (uint64_t)kv->mod_revision,
                          .create = (uint64_t)kv->create_revision,
                          .version = (uint64_t)kv->version};
}

void whole_store_answer(struct whole *whole, uint64_t operation,
                        const struct check_outcome *outcome)
{
    struct whole_store *store = &whole->store;
    const struct check_outcome *want = check_store_outcome(&store->model, operation);
    trace(whole, operation, STEP_DONE, outcome->revision);
    if (want == NULL || want->refused) {
        verdict_set(&whole->verdict, SIM_SAFETY, "history: write %" PRIu64 " is answered, and %s",
                    operation, want == NULL ? "no node executed it" : "all nodes refuse it");
        return;
    }
    if (want->revision != outcome->revision || want->succeeded != outcome->succeeded ||
        want->deleted != outcome->deleted)
        verdict_set(&whole->verdict, SIM_SAFETY,
                    "store: write %" PRIu64 " is answered with revision %" PRIu64 ", %s, %" PRIu64
                    " deleted; expected %" PRIu64 ", %s, %" PRIu64,
                    operation, outcome->revision, outcome->succeeded ? "success" : "failure",
                    outcome->deleted, want->revision, want->succeeded ? "success" : "failure",
                    want->deleted);
    check_store_equal(&store->model, "the answer to write", operation, outcome->kvs,
                      outcome->kv_count, want->kvs, want->kv_count);
    check_history_answer(&store->history, operation, outcome->revision, want->changed);
}

void whole_store_read(struct whole *whole, uint64_t operation, uint64_t asked, uint32_t from,
                      uint32_t to, const Etcdserverpb__RangeResponse *response, bool stale)
{
    struct whole_store *store = &whole->store;
    uint64_t revision = (uint64_t)response->header->revision;
    struct check_outcome have = {0};
    struct check_kv want[CHECK_STORE_KEYS];
    trace(whole, operation, STEP_DONE, revision);
    if (stale)
        check_history_lose(&store->history, operation);
    else
        check_history_answer(&store->history, operation, revision, false);
    for (size_t i = 0; i < response->n_kvs; i++)
        whole_store_add_kv(&have, response->kvs[i]);
    uint64_t at = asked == 0 ? revision : asked;
    uint32_t count = check_store_range(&store->model, at, from, to, want);
    if (revision > store->model.revision)
        verdict_set(&whole->verdict, SIM_SAFETY,
                    "store: read %" PRIu64 " at revision %" PRIu64 ", which is not written yet",
                    operation, revision);
    check_store_equal(&store->model, "read", operation, have.kvs, have.kv_count, want, count);
}

void whole_store_no_answer(struct whole *whole, uint64_t operation, bool maybe)
{
    struct whole_store *store = &whole->store;
    sometimes(maybe && check_store_outcome(&store->model, operation) != NULL,
              "whole: a write without an answer happened");
    trace(whole, operation, maybe ? STEP_UNKNOWN : STEP_REFUSED, 0);
    if (maybe)
        check_history_lose(&store->history, operation);
    else
        check_history_refuse(&store->history, operation);
}
