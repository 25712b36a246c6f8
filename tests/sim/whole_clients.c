/* Clients of the whole-node simulator: fibers around the C client library. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "client/kv_client.h"
#include "core/core.h"
#include "core/invariant.h"
#include "tests/sim/memory.h"
#include "tests/sim/whole.h"

#define KEY_BYTES        16
#define VALUE_BYTES_MAX  8192
#define FIRST_REVISION   2 /* of a store's first write, as etcd counts */
#define HASH_PERCENT     2
#define OPERATIONS_MAX   8000 /* a busy seed costs a second all the same */
#define READ_BACK_PAUSES 50 * NS_PER_MS

/* The machine's only core; every client shares its connections' owner. */
static struct client_set set;

static struct prng *workload(struct whole *whole)
{
    return whole_prng(whole, WORKLOAD);
}

static uint64_t sim_now_ns(void)
{
    return core_now_ns(core_current());
}

/* Of one node, or of all when `only` is 0. */
static struct kv_client *client_open(struct whole *whole, uint32_t only)
{
    static char texts[WHOLE_NODES_MAX][32];
    const char *endpoints[WHOLE_NODES_MAX];
    uint32_t count = 0;
    uint32_t first = (uint32_t)prng_below(workload(whole), whole->config.nodes);
    for (uint32_t i = 0; i < whole->config.nodes; i++) {
        uint32_t id = whole->nodes[(first + i) % whole->config.nodes].sim.id;
        if (only != 0 && id != only)
            continue;
        snprintf(texts[count], sizeof(texts[count]), "10.0.0.%u:2379", id);
        endpoints[count] = texts[count];
        count++;
    }
    struct kv_client_options options = {.endpoints = endpoints,
                                        .endpoint_count = count,
                                        .dial_timeout_ms = 1000,
                                        .call_timeout_ms = whole->config.call_timeout_ms,
                                        .calls_max = 64};
    struct kv_client *client = NULL;
    char reason[128];
    int error = kv_client_open(&set, &options, &client, reason, sizeof(reason));
    sim_check(error == 0, "a client does not open: %s", reason);
    return client;
}

/* ---- operations ----------------------------------------------------------------------------- */

static void record_end(struct whole *whole, uint64_t operation, enum whole_event_kind kind,
                       uint64_t revision, uint64_t value, uint64_t modified)
{
    whole_record(whole, (struct whole_event){.kind = kind,
                                             .operation = operation,
                                             .revision = revision,
                                             .value = value,
                                             .modified = modified});
}

static uint64_t call_begin(struct whole *whole, bool write, uint32_t key)
{
    uint64_t operation = ++whole->operations;
    whole_record(whole,
                 (struct whole_event){
                     .kind = WHOLE_CALL, .write = write, .key = key, .operation = operation});
    return operation;
}

static void put(struct whole *whole, struct kv_client *client)
{
    char key[KEY_BYTES], value[VALUE_BYTES_MAX];
    uint32_t at = (uint32_t)prng_below(workload(whole), WHOLE_KEYS);
    uint64_t bytes = 20 + prng_below(workload(whole), whole->config.value_bytes_max);
    uint64_t operation = call_begin(whole, true, at);
    memset(value, 'v', bytes);
    int length = snprintf(value, sizeof(value), "%" PRIu64, operation);
    value[length] = ' ';
    snprintf(key, sizeof(key), "k%u", at);
    Etcdserverpb__PutRequest request = ETCDSERVERPB__PUT_REQUEST__INIT;
    request.key.data = (uint8_t *)key;
    request.key.len = strlen(key);
    request.value.data = (uint8_t *)value;
    request.value.len = bytes;
    Etcdserverpb__PutResponse *response = NULL;
    struct kv_failure failure = {0};
    int error = kv_client_put(client, &request, 0, &response, &failure);
    if (error == 0) {
        record_end(whole, operation, WHOLE_RETURN, (uint64_t)response->header->revision, 0, 0);
        etcdserverpb__put_response__free_unpacked(response, NULL);
        return;
    }
    record_end(whole, operation, failure.maybe_executed ? WHOLE_LOSE : WHOLE_REFUSE, 0, 0, 0);
    whole_text(whole, 0, "write %" PRIu64 " failed: %s", operation, failure.text);
}

static uint64_t value_number(const ProtobufCBinaryData *value)
{
    char text[24] = "";
    memcpy(text, value->data, value->len < sizeof(text) - 1 ? value->len : sizeof(text) - 1);
    return strtoull(text, NULL, 10);
}

static void get(struct whole *whole, struct kv_client *client)
{
    char key[KEY_BYTES];
    uint32_t at = (uint32_t)prng_below(workload(whole), WHOLE_KEYS);
    uint64_t operation = call_begin(whole, false, at);
    snprintf(key, sizeof(key), "k%u", at);
    Etcdserverpb__RangeRequest request = ETCDSERVERPB__RANGE_REQUEST__INIT;
    request.key.data = (uint8_t *)key;
    request.key.len = strlen(key);
    Etcdserverpb__RangeResponse *response = NULL;
    int error = kv_client_range(client, &request, 0, &response, NULL);
    if (error != 0) {
        record_end(whole, operation, WHOLE_LOSE, 0, 0, 0);
        return;
    }
    uint64_t value = 0, modified = 0;
    if (response->n_kvs > 0) {
        value = value_number(&response->kvs[0]->value);
        modified = (uint64_t)response->kvs[0]->mod_revision;
    }
    record_end(whole, operation, WHOLE_RETURN, (uint64_t)response->header->revision, value,
               modified);
    etcdserverpb__range_response__free_unpacked(response, NULL);
}

/* The hash of the state at a revision is the same at all times, before and after restarts. */
static bool hash(struct whole *whole, struct kv_client *client, int64_t revision)
{
    Etcdserverpb__HashKVRequest request = ETCDSERVERPB__HASH_KVREQUEST__INIT;
    request.revision = revision;
    Etcdserverpb__HashKVResponse *response = NULL;
    if (kv_client_hash_kv(client, &request, 0, &response, NULL) != 0)
        return false;
    if (revision == 0)
        revision = response->hash_revision;
    uint32_t at = 0;
    while (at < whole->hash_count && whole->hashes[at].revision != revision)
        at++;
    if (at < whole->hash_count && whole->hashes[at].hash != response->hash)
        verdict_set(&whole->verdict, SIM_SAFETY,
                    "state: hash at revision %" PRId64 " was %08x and is %08x", revision,
                    whole->hashes[at].hash, response->hash);
    if (at == whole->hash_count && at < WHOLE_HASHES_MAX)
        whole->hashes[whole->hash_count++] = (struct whole_hash){revision, response->hash};
    etcdserverpb__hash_kvresponse__free_unpacked(response, NULL);
    return true;
}

static void hash_something(struct whole *whole, struct kv_client *client)
{
    int64_t revision = 0;
    if (whole->hash_count > 0 && prng_chance(workload(whole), 2, 3))
        revision = whole->hashes[prng_below(workload(whole), whole->hash_count)].revision;
    (void)hash(whole, client, revision);
}

static void client_run(void *argument)
{
    struct whole_client *self = argument;
    struct whole *whole = self->whole;
    struct kv_client *client = client_open(whole, 0);
    while (!whole->load_ended && whole->operations < OPERATIONS_MAX) {
        fiber_sleep_until(sim_now_ns() +
                          prng_below(workload(whole), 2 * whole->config.think_ns + 1));
        if (whole->load_ended)
            break;
        if (prng_chance(workload(whole), HASH_PERCENT, 100))
            hash_something(whole, client);
        else if (prng_chance(workload(whole), whole->config.read_percent, 100))
            get(whole, client);
        else
            put(whole, client);
    }
    kv_client_close(client);
    self->ended = true;
}

/* ---- reading the history back --------------------------------------------------------------- */

/* All keys as of `revision` (0 = now); what each revision wrote goes to whole->written. Answers the
 * revision that was read, 0 on failure. */
static uint64_t read_at(struct whole *whole, struct kv_client *client, uint64_t revision)
{
    Etcdserverpb__RangeRequest request = ETCDSERVERPB__RANGE_REQUEST__INIT;
    request.key.data = (uint8_t *)"k";
    request.key.len = 1;
    request.range_end.data = (uint8_t *)"l";
    request.range_end.len = 1;
    request.revision = (int64_t)revision;
    Etcdserverpb__RangeResponse *response = NULL;
    if (kv_client_range(client, &request, 0, &response, NULL) != 0)
        return 0;
    uint64_t newest = (uint64_t)response->header->revision;
    if (whole->written == NULL) {
        whole->written_count = newest + 1;
        whole->written = sim_alloc(whole->written_count * sizeof(*whole->written));
    }
    for (size_t i = 0; i < response->n_kvs; i++) {
        uint64_t at = (uint64_t)response->kvs[i]->mod_revision;
        uint64_t value = value_number(&response->kvs[i]->value);
        if (at >= whole->written_count || (whole->written[at] != 0 && whole->written[at] != value))
            verdict_set(&whole->verdict, SIM_SAFETY,
                        "read back: revision %" PRIu64 " wrote %" PRIu64 " and %" PRIu64, at,
                        at < whole->written_count ? whole->written[at] : 0, value);
        else
            whole->written[at] = value;
    }
    etcdserverpb__range_response__free_unpacked(response, NULL);
    return newest;
}

/* Every node has the same state at the newest revision, and at all that were looked at before. */
static void compare_hashes(struct whole *whole, uint32_t id, int64_t newest)
{
    struct kv_client *client = client_open(whole, id);
    while (!hash(whole, client, newest))
        fiber_sleep_until(sim_now_ns() + READ_BACK_PAUSES);
    for (uint32_t i = 0; i < whole->hash_count; i++)
        (void)hash(whole, client, whole->hashes[i].revision);
    kv_client_close(client);
}

static void read_back_run(void *argument)
{
    struct whole *whole = argument;
    struct kv_client *client = client_open(whole, 0);
    uint64_t newest = 0;
    while ((newest = read_at(whole, client, 0)) == 0)
        fiber_sleep_until(sim_now_ns() + READ_BACK_PAUSES);
    for (uint64_t revision = newest; revision >= FIRST_REVISION; revision--) {
        if (whole->written[revision] != 0)
            continue;
        while (read_at(whole, client, revision) == 0)
            fiber_sleep_until(sim_now_ns() + READ_BACK_PAUSES);
        if (whole->written[revision] == 0)
            verdict_set(&whole->verdict, SIM_SAFETY, "read back: nothing has revision %" PRIu64,
                        revision);
    }
    kv_client_close(client);
    for (uint32_t i = 0; i < whole->config.nodes; i++)
        compare_hashes(whole, whole->nodes[i].sim.id, (int64_t)newest);
    whole->read_back = true;
}

/* ---- the machine ---------------------------------------------------------------------------- */

void whole_clients_start(struct whole *whole)
{
    struct core *core = whole->machine.cores[0].core;
    sim_enter(&whole->machine, 0);
    client_set_init(&set, core);
    for (uint32_t i = 0; i < whole->config.clients; i++) {
        whole->clients[i] = (struct whole_client){.whole = whole, .number = i};
        int error = fiber_spawn(core, FIBER_LATENCY, client_run, &whole->clients[i]);
        invariant(error == 0);
    }
    sim_leave(&whole->machine);
}

void whole_read_back_start(struct whole *whole)
{
    sim_enter(&whole->machine, 0);
    int error = fiber_spawn(whole->machine.cores[0].core, FIBER_LATENCY, read_back_run, whole);
    invariant(error == 0);
    sim_leave(&whole->machine);
    sim_core_rouse(&whole->machine.cores[0], whole->world.now_ns);
}

void whole_clients_end(struct whole *whole)
{
    sim_enter(&whole->machine, 0);
    client_set_deinit(&set);
    sim_leave(&whole->machine);
}
