#include "tests/sim/check_history.h"

#include <inttypes.h>
#include <stdlib.h>

#include "core/invariant.h"

#define fail(history, ...) verdict_set((history)->verdict, SIM_SAFETY, __VA_ARGS__)

void check_history_init(struct check_history *history, struct verdict *verdict, uint64_t revision)
{
    memset(history, 0, sizeof(*history));
    history->verdict = verdict;
    history->revision = history->floor = revision;
}

void check_history_deinit(struct check_history *history)
{
    for (uint32_t i = 0; i < CHECK_KEYS_MAX; i++)
        free(history->keys[i].writes);
    free(history->operations);
}

static struct check_operation *operation_at(struct check_history *history, uint64_t operation)
{
    invariant(operation > 0 && operation <= history->operation_count);
    return &history->operations[operation - 1];
}

uint64_t check_history_call(struct check_history *history, bool write, uint32_t key)
{
    invariant(key < CHECK_KEYS_MAX);
    if (history->operation_count == history->operation_capacity) {
        history->operation_capacity = history->operation_capacity * 2 + 256;
        history->operations = realloc(history->operations,
                                      history->operation_capacity * sizeof(*history->operations));
        invariant(history->operations != NULL);
    }
    history->operations[history->operation_count++] = (struct check_operation){
        .write = write, .key = key, .floor = history->floor, .called_at = history->revision};
    return history->operation_count;
}

static void key_push(struct check_key *key, uint64_t revision, uint64_t operation)
{
    if (key->count == key->capacity) {
        key->capacity = key->capacity * 2 + 16;
        key->writes = realloc(key->writes, key->capacity * sizeof(*key->writes));
        invariant(key->writes != NULL);
    }
    key->writes[key->count++] = (struct check_write){revision, operation};
}

void check_history_happen(struct check_history *history, uint64_t number, uint64_t revision)
{
    if (revision != history->revision + 1)
        fail(history, "history: revision %" PRIu64 " follows %" PRIu64, revision,
             history->revision);
    history->revision = revision;
    if (number == 0 || number > history->operation_count) {
        fail(history, "history: revision %" PRIu64 " has no author", revision);
        return;
    }
    struct check_operation *operation = operation_at(history, number);
    if (!operation->write)
        fail(history, "history: revision %" PRIu64 " was written by a read", revision);
    if (operation->revision != 0)
        fail(history, "history: write %" PRIu64 " happened at %" PRIu64 " and again at %" PRIu64,
             number, operation->revision, revision);
    if (operation->state == CHECK_REFUSED)
        fail(history, "history: write %" PRIu64 " was refused, and happened at %" PRIu64, number,
             revision);
    operation->revision = revision;
    key_push(&history->keys[operation->key], revision, number);
}

/* Who wrote what is found under `key` at `revision`. */
static uint64_t value_at(const struct check_key *key, uint64_t revision)
{
    uint32_t low = 0, high = key->count;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (key->writes[middle].revision <= revision)
            low = middle + 1;
        else
            high = middle;
    }
    return low == 0 ? 0 : key->writes[low - 1].operation;
}

static void check_write_answer(struct check_history *history, uint64_t number,
                               const struct check_operation *operation, uint64_t revision)
{
    if (operation->revision != revision)
        fail(history, "history: write %" PRIu64 " is answered with %" PRIu64 ", it is at %" PRIu64,
             number, revision, operation->revision);
    if (revision <= operation->floor)
        fail(history, "history: write %" PRIu64 " at %" PRIu64 ", but %" PRIu64 " was known before",
             number, revision, operation->floor);
    if (revision <= operation->called_at)
        fail(history, "history: write %" PRIu64 " at %" PRIu64 " happened before its call", number,
             revision);
}

static void check_read_answer(struct check_history *history, uint64_t number,
                              const struct check_operation *operation, uint64_t revision)
{
    if (revision < operation->floor)
        fail(history,
             "history: stale read %" PRIu64 " at revision %" PRIu64 ", %" PRIu64
             " had been returned before its call",
             number, revision, operation->floor);
    if (revision > history->revision)
        fail(history, "history: read %" PRIu64 " at revision %" PRIu64 ", the newest is %" PRIu64,
             number, revision, history->revision);
}

void check_history_answer(struct check_history *history, uint64_t number, uint64_t revision,
                          bool changed)
{
    struct check_operation *operation = operation_at(history, number);
    if (operation->state != CHECK_CALLED)
        fail(history, "history: operation %" PRIu64 " is answered twice", number);
    if (changed)
        check_write_answer(history, number, operation, revision);
    else
        check_read_answer(history, number, operation, revision);
    operation->state = CHECK_RETURNED;
    history->floor = u64_max(history->floor, revision);
    history->returned++;
}

void check_history_return(struct check_history *history, uint64_t number, uint64_t revision,
                          uint64_t value)
{
    const struct check_operation *operation = operation_at(history, number);
    check_history_answer(history, number, revision, operation->write);
    if (operation->write)
        return;
    uint64_t expected = value_at(&history->keys[operation->key], revision);
    if (value != expected)
        fail(history,
             "history: read %" PRIu64 " of key %u at revision %" PRIu64 " saw write %" PRIu64
             ", expected %" PRIu64,
             number, operation->key, revision, value, expected);
}

void check_history_refuse(struct check_history *history, uint64_t number)
{
    struct check_operation *operation = operation_at(history, number);
    if (operation->state != CHECK_CALLED)
        fail(history, "history: operation %" PRIu64 " is answered twice", number);
    if (operation->revision != 0)
        fail(history, "history: write %" PRIu64 " is refused, it happened at %" PRIu64, number,
             operation->revision);
    operation->state = CHECK_REFUSED;
    history->refused++;
}

void check_history_lose(struct check_history *history, uint64_t number)
{
    struct check_operation *operation = operation_at(history, number);
    if (operation->state == CHECK_CALLED) {
        operation->state = CHECK_UNKNOWN;
        history->unknown++;
    }
}
