#include "bench/raftbench/workload.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/invariant.h"
#include "net/pb.h"

#define WORKLOAD_ZIPF_THETA    0.99
#define WORKLOAD_KEY_BYTES_MAX 1024

/* Zipf by Gray et al., "Quickly generating billion-record synthetic databases" (SIGMOD 1994). */
static void zipf_init(struct workload *workload, uint64_t keys)
{
    double zeta = 0;
    uint64_t summed = keys < 1000000 ? keys : 1000000;
    for (uint64_t i = 1; i <= summed; i++)
        zeta += 1 / pow((double)i, WORKLOAD_ZIPF_THETA);
    if (keys > summed) /* the rest by its integral */
        zeta += (pow((double)keys, 1 - WORKLOAD_ZIPF_THETA) -
                 pow((double)summed, 1 - WORKLOAD_ZIPF_THETA)) /
                (1 - WORKLOAD_ZIPF_THETA);
    double zeta2 = 1 + pow(0.5, WORKLOAD_ZIPF_THETA);
    workload->zipf_zeta_n = zeta;
    workload->zipf_alpha = 1 / (1 - WORKLOAD_ZIPF_THETA);
    workload->zipf_eta =
        (1 - pow(2.0 / (double)keys, 1 - WORKLOAD_ZIPF_THETA)) / (1 - zeta2 / zeta);
    workload->zipf_half = zeta2;
}

static uint64_t zipf_next(struct workload *workload)
{
    double u = (double)(prng_next(&workload->prng) >> 11) * 0x1.0p-53;
    double uz = u * workload->zipf_zeta_n;
    if (uz < 1)
        return 0;
    if (uz < workload->zipf_half)
        return 1;
    uint64_t rank =
        (uint64_t)((double)workload->options->keys *
                   pow(workload->zipf_eta * u - workload->zipf_eta + 1, workload->zipf_alpha));
    return rank < workload->options->keys ? rank : workload->options->keys - 1;
}

void workload_init(struct workload *workload, const struct options *options, uint32_t thread,
                   uint32_t thread_count)
{
    *workload =
        (struct workload){.options = options, .sequence = thread, .sequence_step = thread_count};
    prng_init(&workload->prng, options->seed * 1000003 + thread);
    if (options->distribution == BENCH_ZIPF)
        zipf_init(workload, options->keys);
    workload->value = malloc(options->value_bytes + 1);
    workload->request_bytes_max =
        4096 + (size_t)options->txn_ops * (3 * WORKLOAD_KEY_BYTES_MAX + options->value_bytes + 64);
    workload->request = malloc(workload->request_bytes_max);
    invariant(workload->value != NULL && workload->request != NULL);
    for (uint32_t i = 0; i < options->value_bytes; i++)
        workload->value[i] = (uint8_t)prng_next(&workload->prng);
}

void workload_deinit(struct workload *workload)
{
    free(workload->value);
    free(workload->request);
}

static uint64_t key_next(struct workload *workload)
{
    const struct options *options = workload->options;
    uint64_t key = 0;
    switch (options->distribution) {
    case BENCH_UNIFORM:
        return prng_below(&workload->prng, options->keys);
    case BENCH_ZIPF:
        /* Scatter the ranks, so that hot keys are not neighbours. */
        return (zipf_next(workload) * 0x9e3779b97f4a7c15u) % options->keys;
    case BENCH_SEQUENTIAL:
        key = workload->sequence;
        workload->sequence += workload->sequence_step;
        return key % options->keys;
    }
    return key;
}

/* Fixed width decimal, so that byte order is number order. */
static size_t key_format(const struct options *options, uint64_t key, uint8_t *to)
{
    size_t bytes = options->key_bytes;
    for (size_t i = bytes; i > 0; i--) {
        to[i - 1] = (uint8_t)('0' + key % 10);
        key /= 10;
    }
    to[0] = 'k';
    return bytes;
}

static uint8_t *put_field(uint8_t *to, uint32_t number, const void *data, size_t bytes)
{
    *to++ = (uint8_t)(number << 3 | PB_BYTES);
    to = pb_put_varint(to, bytes);
    memcpy(to, data, bytes);
    return to + bytes;
}

static uint8_t *put_number(uint8_t *to, uint32_t number, uint64_t value)
{
    *to++ = (uint8_t)(number << 3 | PB_VARINT);
    return pb_put_varint(to, value);
}

static uint8_t *build_put(struct workload *workload, uint8_t *to, uint64_t key)
{
    const struct options *options = workload->options;
    uint8_t name[WORKLOAD_KEY_BYTES_MAX];
    size_t name_bytes = key_format(options, key, name);
    if (options->value_bytes >= 8) /* every write differs */
        le64_store(workload->value, prng_next(&workload->prng));
    to = put_field(to, 1, name, name_bytes);
    return put_field(to, 2, workload->value, options->value_bytes);
}

static uint8_t *build_range(struct workload *workload, uint8_t *to, uint64_t key, uint32_t limit,
                            bool serializable)
{
    uint8_t name[WORKLOAD_KEY_BYTES_MAX];
    size_t name_bytes = key_format(workload->options, key, name);
    to = put_field(to, 1, name, name_bytes);
    if (limit > 0) {
        static const uint8_t to_end[] = {0};
        to = put_field(to, 2, to_end, 1);
        to = put_number(to, 3, limit);
    }
    return serializable ? put_number(to, 7, 1) : to;
}

/* Wraps [body, end) as field `number` in place: moves it up by the prefix. */
static uint8_t *wrap(uint8_t *body, uint8_t *end, uint32_t number)
{
    size_t bytes = (size_t)(end - body);
    size_t prefix = 1 + pb_varint_bytes(bytes);
    memmove(body + prefix, body, bytes);
    *body = (uint8_t)(number << 3 | PB_BYTES);
    pb_put_varint(body + 1, bytes);
    return end + prefix;
}

/* If version(key) >= 0 (always), then txn_ops puts and txn_ops gets. */
static uint8_t *build_txn(struct workload *workload, uint8_t *to)
{
    uint8_t name[WORKLOAD_KEY_BYTES_MAX];
    uint64_t key = key_next(workload);
    size_t name_bytes = key_format(workload->options, key, name);
    uint8_t *body = to;
    to = put_number(to, 1, 1); /* GREATER */
    to = put_field(to, 3, name, name_bytes);
    to = put_number(to, 4, UINT64_MAX); /* version > -1 */
    to = wrap(body, to, 1);
    for (uint32_t i = 0; i < workload->options->txn_ops; i++) {
        uint64_t other = (key + i) % workload->options->keys;
        body = to;
        to = wrap(body, wrap(body, build_put(workload, to, other), 2), 2);
        body = to;
        to = wrap(body, wrap(body, build_range(workload, to, other, 0, false), 1), 2);
    }
    return to;
}

/* If the counter still is what the last reply told, then it is written, else read. */
static uint8_t *build_cas(struct workload *workload, uint8_t *to)
{
    uint8_t name[WORKLOAD_KEY_BYTES_MAX];
    size_t name_bytes = key_format(workload->options, 0, name);
    uint8_t *body = to;
    to = put_number(to, 2, 2); /* MOD, EQUAL */
    to = put_field(to, 3, name, name_bytes);
    to = put_number(to, 6, workload->counter_revision);
    to = wrap(body, to, 1);
    body = to;
    to = wrap(body, wrap(body, build_put(workload, to, 0), 2), 2);
    body = to;
    return wrap(body, wrap(body, build_range(workload, to, 0, 0, false), 1), 3);
}

/* The field of that number in `message`, or nothing. */
static struct pb_field field_of(struct bytes message, uint32_t number)
{
    struct pb_reader reader = pb_reader_make(message);
    struct pb_field field;
    while (pb_next(&reader, &field) == 1)
        if (field.number == number)
            return field;
    return (struct pb_field){0};
}

bool workload_learn(struct workload *workload, struct bytes reply)
{
    bool held = field_of(reply, 2).value != 0;
    uint64_t revision = field_of(field_of(reply, 1).bytes, 3).value;
    if (!held) {
        struct bytes range = field_of(field_of(reply, 3).bytes, 1).bytes;
        revision = field_of(field_of(range, 2).bytes, 3).value;
    }
    workload->counter_revision = u64_max(workload->counter_revision, revision);
    return held;
}

struct bytes workload_next(struct workload *workload, enum workload_method *method)
{
    const struct options *options = workload->options;
    uint8_t *at = workload->request, *end = NULL;
    enum bench_operation operation = options->operation;
    if (operation == BENCH_MIXED)
        operation =
            prng_chance(&workload->prng, options->read_percent, 100) ? BENCH_GET : BENCH_PUT;
    switch (operation) {
    case BENCH_PUT:
    case BENCH_MIXED:
        *method = WORKLOAD_PUT;
        end = build_put(workload, at, key_next(workload));
        break;
    case BENCH_GET:
    case BENCH_GET_SERIALIZABLE:
        *method = WORKLOAD_RANGE;
        end = build_range(workload, at, key_next(workload), 0, operation != BENCH_GET);
        break;
    case BENCH_RANGE:
        *method = WORKLOAD_RANGE;
        end = build_range(workload, at, key_next(workload), options->range_keys, false);
        break;
    case BENCH_TXN:
        *method = WORKLOAD_TXN;
        end = build_txn(workload, at);
        break;
    case BENCH_CAS:
        *method = WORKLOAD_TXN;
        end = build_cas(workload, at);
        break;
    case BENCH_OPERATION_COUNT:
        break;
    }
    invariant(end != NULL && (size_t)(end - at) <= workload->request_bytes_max);
    return bytes_make(at, (size_t)(end - at));
}

struct bytes workload_load(struct workload *workload, uint64_t key)
{
    uint8_t *end = build_put(workload, workload->request, key);
    return bytes_make(workload->request, (size_t)(end - workload->request));
}
