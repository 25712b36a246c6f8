#include "server/faults.h"

#include <stdlib.h>

#include "core/invariant.h"

void faults_init(struct faults *faults)
{
    *faults = (struct faults){0};
}

void faults_deinit(struct faults *faults)
{
    free(faults->runs);
    *faults = (struct faults){0};
}

static void check(const struct faults *faults)
{
    for (uint32_t i = 0; i < faults->count; i++) { /* F1 */
        invariant(faults->runs[i].first <= faults->runs[i].last);
        invariant(i == 0 || faults->runs[i - 1].last < faults->runs[i].first);
    }
}

static void insert(struct faults *faults, uint32_t at, const struct fault *fault)
{
    if (faults->count == faults->count_max) {
        faults->count_max = faults->count_max == 0 ? 16 : 2 * faults->count_max;
        faults->runs = realloc(faults->runs, faults->count_max * sizeof(*faults->runs));
        if (faults->runs == NULL)
            fatal("out of memory for the list of damaged log entries");
    }
    memmove(&faults->runs[at + 1], &faults->runs[at], (faults->count - at) * sizeof(*faults->runs));
    faults->runs[at] = *fault;
    faults->count++;
}

void faults_add(struct faults *faults, const struct fault *fault)
{
    invariant(fault->first > 0 && fault->first <= fault->last && fault->term > 0);
    uint64_t before = faults->count == 0 ? 0 : faults->runs[0].first;
    struct fault rest = *fault;
    uint32_t at = 0;
    while (rest.first <= rest.last) {
        while (at < faults->count && faults->runs[at].last < rest.first)
            at++;
        struct fault part = rest;
        if (at < faults->count && faults->runs[at].first <= rest.first) {
            rest.first = faults->runs[at].last + 1;
            continue;
        }
        if (at < faults->count)
            part.last = u64_min(part.last, faults->runs[at].first - 1);
        insert(faults, at, &part);
        rest.first = part.last + 1;
    }
    if (faults->runs[0].first != before)
        faults_forget_answers(faults); /* F2 */
    check(faults);
}

void faults_remove(struct faults *faults, uint64_t first, uint64_t last)
{
    uint64_t before = faults->count == 0 ? 0 : faults->runs[0].first;
    for (uint32_t i = 0; i < faults->count;) {
        struct fault *run = &faults->runs[i];
        if (run->last < first || run->first > last) {
            i++;
            continue;
        }
        struct fault right = *run;
        right.first = last < run->last ? last + 1 : run->last + 1;
        bool left = run->first < first;
        bool has_right = last < run->last;
        if (left)
            run->last = first - 1;
        else if (has_right)
            *run = right;
        else
            memmove(run, run + 1, (--faults->count - i) * sizeof(*run));
        if (left && has_right)
            insert(faults, i + 1, &right);
        i += left + has_right;
    }
    if (faults->count == 0 || faults->runs[0].first != before)
        faults_forget_answers(faults); /* F2 */
    check(faults);
}

uint64_t faults_entry_count(const struct faults *faults)
{
    uint64_t count = 0;
    for (uint32_t i = 0; i < faults->count; i++)
        count += faults->runs[i].last - faults->runs[i].first + 1;
    return count;
}

const struct fault *faults_find(const struct faults *faults, uint64_t index)
{
    for (uint32_t i = 0; i < faults->count; i++)
        if (index >= faults->runs[i].first && index <= faults->runs[i].last)
            return &faults->runs[i];
    return NULL;
}

uint64_t faults_first_after(const struct faults *faults, uint64_t index)
{
    for (uint32_t i = 0; i < faults->count; i++)
        if (faults->runs[i].last > index)
            return u64_max(faults->runs[i].first, index + 1);
    return 0;
}

void faults_forget_answers(struct faults *faults)
{
    faults->answer_count = 0;
}

static uint32_t answer_of(const struct faults *faults, uint64_t member)
{
    uint32_t i = 0;
    while (i < faults->answer_count && faults->answers[i].member != member)
        i++;
    return i;
}

void faults_answered(struct faults *faults, uint64_t member, enum fault_answer answer)
{
    uint32_t i = answer_of(faults, member);
    if (i == ARRAY_COUNT(faults->answers))
        return; /* more than a group has: some of them are no members */
    faults->answers[i].member = member;
    faults->answers[i].answer = answer;
    if (i == faults->answer_count)
        faults->answer_count++;
}

bool faults_has_answer(const struct faults *faults, uint64_t member)
{
    return answer_of(faults, member) < faults->answer_count;
}

/* FAULT_ANSWER_LATER: it told nothing. */
static enum fault_answer told_by(const struct faults *faults, uint64_t member)
{
    uint32_t i = answer_of(faults, member);
    return i == faults->answer_count ? FAULT_ANSWER_LATER : faults->answers[i].answer;
}

bool faults_all_told(const struct faults *faults, const struct raft_config *config, uint64_t self)
{
    struct raft_id_set members = raft_config_members(config);
    for (uint32_t i = 0; i < members.count; i++)
        if (members.ids[i] != self && told_by(faults, members.ids[i]) == FAULT_ANSWER_LATER)
            return false;
    return true;
}

/* Do those of `ids` that may have held the entry make a majority, or half? Half may have been a
 * majority before the last change of one member, and the entry committed by those. */
static bool may_be_majority(const struct faults *faults, const struct raft_id_set *ids,
                            uint64_t self)
{
    uint32_t holders = 0;
    for (uint32_t i = 0; i < ids->count; i++) {
        if (ids->ids[i] == self) {
            holders += faults->runs[0].proven;
            continue;
        }
        enum fault_answer answer = told_by(faults, ids->ids[i]);
        holders += answer != FAULT_ANSWER_NEVER && answer != FAULT_ANSWER_UNSURE;
    }
    return ids->count > 0 && 2 * holders >= ids->count;
}

bool faults_dispensable(const struct faults *faults, const struct raft_config *config,
                        uint64_t self)
{
    if (faults->count == 0)
        return false;
    for (uint32_t i = 0; i < faults->answer_count; i++)
        if (faults->answers[i].answer == FAULT_ANSWER_COMPACTED)
            return false; /* it is in tables, so it is committed */
    return config->voters.count > 0 && !may_be_majority(faults, &config->voters, self) &&
           !may_be_majority(faults, &config->outgoing, self);
}
