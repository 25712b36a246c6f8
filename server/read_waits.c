#include "server/read_waits.h"

#include <errno.h>
#include <stdlib.h>

#include "core/invariant.h"

_Static_assert((READ_WAITS_MAX & (READ_WAITS_MAX - 1)) == 0, "positions are masked");

int read_waits_init(struct read_waits *waits)
{
    *waits = (struct read_waits){.ring = calloc(READ_WAITS_MAX, sizeof(*waits->ring))};
    return waits->ring == NULL ? -ENOMEM : 0;
}

void read_waits_deinit(struct read_waits *waits)
{
    free(waits->ring);
    waits->ring = NULL;
}

static struct read_wait *wait_at(struct read_waits *waits, uint32_t offset)
{
    return &waits->ring[(waits->first + offset) & (READ_WAITS_MAX - 1)];
}

static uint32_t asked_count(const struct read_waits *waits)
{
    invariant(waits->unasked <= waits->count && waits->count <= READ_WAITS_MAX);
    return waits->count - waits->unasked;
}

void read_waits_add(struct read_waits *waits, uint32_t core, uint64_t batch, uint64_t deadline_ns)
{
    struct read_wait *wait = NULL;
    for (uint32_t i = asked_count(waits); i < waits->count && wait == NULL; i++)
        if (wait_at(waits, i)->core == core)
            wait = wait_at(waits, i);
    if (wait == NULL) {
        invariant(waits->count < READ_WAITS_MAX && waits->unasked < CONFIG_CORES_MAX);
        wait = wait_at(waits, waits->count++);
        waits->unasked++;
        *wait = (struct read_wait){.core = core};
    }
    invariant(wait->id == 0 && wait->batch < batch);
    wait->batch = batch;
    wait->deadline_ns = deadline_ns;
}

bool read_waits_want_question(const struct read_waits *waits)
{
    bool unasked = waits->unasked > 0 && waits->count <= READ_WAITS_ASKED_MAX;
    return waits->again || unasked;
}

void read_waits_asked(struct read_waits *waits, uint64_t id)
{
    waits->again = false;
    if (waits->count > READ_WAITS_ASKED_MAX)
        return;
    for (uint32_t i = asked_count(waits); i < waits->count; i++)
        wait_at(waits, i)->id = id;
    waits->unasked = 0;
}

void read_waits_ask_again(struct read_waits *waits)
{
    uint32_t asked = asked_count(waits);
    waits->again = asked > 0 && wait_at(waits, asked - 1)->index == 0;
}

void read_waits_answered(struct read_waits *waits, uint64_t id, uint64_t index)
{
    for (uint32_t i = 0; i < asked_count(waits) && wait_at(waits, i)->id <= id; i++) {
        struct read_wait *wait = wait_at(waits, i);
        if (wait->index == 0)
            wait->index = u64_max(index, 1);
    }
}

static void take_first(struct read_waits *waits, struct read_wait *wait)
{
    *wait = *wait_at(waits, 0);
    waits->unasked -= wait->id == 0;
    waits->first = (waits->first + 1) & (READ_WAITS_MAX - 1);
    waits->count--;
}

bool read_waits_pop(struct read_waits *waits, uint64_t applied, struct read_wait *wait)
{
    if (waits->count == 0 || wait_at(waits, 0)->index == 0)
        return false;
    if (wait_at(waits, 0)->index > applied && !planted_bug(read_before_applied))
        return false;
    take_first(waits, wait);
    return true;
}

bool read_waits_expire(struct read_waits *waits, uint64_t now_ns, struct read_wait *wait)
{
    if (waits->count == 0 || wait_at(waits, 0)->deadline_ns >= now_ns)
        return false;
    take_first(waits, wait);
    return true;
}
