/*
 * test_wal_model.h - what a log may hold after a crash: a stream of events of which some prefix, at
 * least as long as what was acknowledged, must be what recovery finds.
 *
 * Story     Every part of every append is an event, in the order the log writes them: hard state
 *           first, then entries one by one, then markers. model_check() replays the stream and
 *           looks for a prefix that equals the recovered log. Any driver can use it, on a real or
 *           on a
 *           simulated disk.
 */
#ifndef TESTS_UNIT_TEST_WAL_MODEL_H
#define TESTS_UNIT_TEST_WAL_MODEL_H

#include <stdio.h>

#include "core/base.h"
#include "storage/log/wal.h"

#define MODEL_EVENTS_MAX 20000
#define MODEL_INDEX_MAX  100000

enum model_kind { MODEL_ENTRY, MODEL_CUT, MODEL_RESET, MODEL_HARD_STATE };

struct model_event {
    enum model_kind kind;
    uint64_t index, term, vote;
};

struct model_state {
    uint64_t base, last;
    uint64_t term, vote; /* hard state */
    uint64_t terms[MODEL_INDEX_MAX];
    uint32_t writer[MODEL_INDEX_MAX]; /* event that wrote the index */
};

struct model {
    struct model_event events[MODEL_EVENTS_MAX];
    uint32_t count;
    uint32_t acknowledged; /* events known durable */
    struct model_state start, end;
};

static inline void model_apply(struct model_state *state, const struct model_event *event,
                               uint32_t number)
{
    switch (event->kind) {
    case MODEL_ENTRY:
        state->terms[event->index] = event->term;
        state->writer[event->index] = number;
        state->last = event->index;
        if (event->index <= state->base)
            state->base = event->index - 1;
        break;
    case MODEL_CUT:
        state->last = event->index;
        break;
    case MODEL_RESET:
        state->base = state->last = event->index;
        break;
    case MODEL_HARD_STATE:
        state->term = event->term;
        state->vote = event->vote;
        break;
    }
}

static inline void model_push(struct model *model, struct model_event event)
{
    if (model->count == MODEL_EVENTS_MAX || event.index >= MODEL_INDEX_MAX)
        abort();
    model->events[model->count] = event;
    model_apply(&model->end, &event, model->count);
    model->count++;
}

static inline bool model_matches(const struct model_state *state, const struct wal *wal,
                                 const struct wal_recovered *recovered)
{
    if (state->last != recovered->last_index || state->term != recovered->hard_state.term ||
        state->vote != recovered->hard_state.vote)
        return false;
    for (uint64_t i = recovered->first_index; i <= recovered->last_index; i++)
        if (i > state->base && state->terms[i] != wal_term(wal, i))
            return false;
    return recovered->first_index > state->base;
}

/* Returns NULL, or what is wrong. On success the model goes on from what was recovered. */
static inline const char *model_check(struct model *model, const struct wal *wal,
                                      const struct wal_recovered *recovered,
                                      struct model_state *scratch)
{
    static char wrong[256];
    *scratch = model->start;
    uint32_t position = 0;
    for (; position < model->acknowledged; position++)
        model_apply(scratch, &model->events[position], position);
    while (!model_matches(scratch, wal, recovered)) {
        if (position == model->count) {
            snprintf(wrong, sizeof(wrong),
                     "no prefix of %u events, %u acknowledged, ends at last %llu term %llu",
                     model->count, model->acknowledged, (unsigned long long)recovered->last_index,
                     (unsigned long long)recovered->hard_state.term);
            return wrong;
        }
        model_apply(scratch, &model->events[position], position);
        position++;
    }
    struct wal_fault fault;
    for (uint32_t i = 0; wal_fault_get(wal, i, &fault); i++) {
        if (fault.proven)
            return "an undamaged disk cannot prove a fault";
        for (uint64_t k = fault.first_index; k <= fault.last_index; k++)
            if (scratch->writer[k] < model->acknowledged)
                return "an acknowledged entry is lost";
    }
    model->start = model->end = *scratch;
    for (size_t i = 0; i < MODEL_INDEX_MAX; i++)
        model->start.writer[i] = 0;
    model->count = model->acknowledged = 0;
    return NULL;
}

#endif
