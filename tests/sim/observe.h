/*
 * observe.h - where the whole-node simulator looks into production code: after each call of the
 * consensus core, before each executed entry, at each row and batch of the state machine.
 *
 * Story     The compiler is told to include this header ahead of the sources that make these calls
 *           (tests/sim/CMakeLists.txt); it renames them to wrappers that make the call and then
 *           tell the observer. So production sources know nothing of it, and a check runs after
 *           every single call, not only once a turn.
 * Owner     The observer is set for the length of a run; NULL: nobody looks.
 * Threads   One. Called within the node's turn: its memory is current.
 */
#ifndef TESTS_SIM_OBSERVE_H
#define TESTS_SIM_OBSERVE_H

#include "consensus/raft.h"
#include "core/probe.h"
#include "storage/log/wal.h"
#include "storage/lsm/lsm.h"
#include "storage/mvcc/mvcc.h"

struct sim_observer {
    void (*log_opened)(struct wal *wal);
    void (*log_closes)(void);
    void (*raft_starts)(const struct raft_options *options, const struct raft_start *start,
                        const struct raft_storage *storage);
    void (*raft_called)(const struct raft *raft);
    void (*raft_sends)(const struct raft_message *message);
    void (*change_applied)(const struct raft *raft, uint64_t index);
    void (*executes)(const struct entry *entry);
    void (*committed)(const struct mvcc *mvcc, uint64_t index);
    void (*row)(struct bytes key, struct lsm_version version, enum lsm_kind kind,
                struct bytes value);
};

extern const struct sim_observer *sim_observer;

#define OBSERVE(what, ...)                                                                         \
    do {                                                                                           \
        if (sim_observer != NULL)                                                                  \
            sim_observer->what(__VA_ARGS__);                                                       \
    } while (0)

#ifdef OBSERVE_SERVER

/* The probe that the apply loop passes with each entry it is about to execute. */
#undef probe2
#define probe2(name, a, b)                                                                         \
    do {                                                                                           \
        if (__builtin_strcmp(#name, "raft_execute") == 0)                                          \
            OBSERVE(executes, (const struct entry *)(uintptr_t)(b));                               \
        (void)(a);                                                                                 \
    } while (0)

static inline int observed_wal_open(const struct wal_options *options, struct wal **wal,
                                    struct wal_recovered *recovered)
{
    int error = wal_open(options, wal, recovered);
    if (error == 0)
        OBSERVE(log_opened, *wal);
    return error;
}
#define wal_open(...) observed_wal_open(__VA_ARGS__)

static inline void observed_wal_close(struct wal *wal)
{
    OBSERVE(log_closes);
    wal_close(wal);
}
#define wal_close(...) observed_wal_close(__VA_ARGS__)

static inline int observed_raft_init(struct raft *raft, const struct raft_options *options,
                                     const struct raft_storage *storage,
                                     const struct raft_start *start, void *memory, uint64_t now_ns)
{
    OBSERVE(raft_starts, options, start, storage);
    int error = raft_init(raft, options, storage, start, memory, now_ns);
    if (error == 0)
        OBSERVE(raft_called, raft);
    return error;
}
#define raft_init(...) observed_raft_init(__VA_ARGS__)

static inline int observed_raft_tick(struct raft *raft, uint64_t now_ns)
{
    int error = raft_tick(raft, now_ns);
    OBSERVE(raft_called, raft);
    return error;
}
#define raft_tick(...) observed_raft_tick(__VA_ARGS__)

static inline int observed_raft_step(struct raft *raft, const struct raft_message *message)
{
    int error = raft_step(raft, message);
    OBSERVE(raft_called, raft);
    return error;
}
#define raft_step(...) observed_raft_step(__VA_ARGS__)

static inline int observed_raft_propose(struct raft *raft, struct entry *entries, uint32_t count,
                                        uint64_t *first_index)
{
    int error = raft_propose(raft, entries, count, first_index);
    OBSERVE(raft_called, raft);
    return error;
}
#define raft_propose(...) observed_raft_propose(__VA_ARGS__)

static inline void observed_raft_persisted(struct raft *raft, const struct raft_append *append)
{
    raft_persisted(raft, append);
    OBSERVE(raft_called, raft);
}
#define raft_persisted(...) observed_raft_persisted(__VA_ARGS__)

static inline void observed_raft_applied(struct raft *raft, uint64_t index)
{
    raft_applied(raft, index);
    OBSERVE(raft_called, raft);
}
#define raft_applied(...) observed_raft_applied(__VA_ARGS__)

static inline void observed_raft_compact(struct raft *raft, uint64_t index)
{
    raft_compact(raft, index);
    OBSERVE(raft_called, raft);
}
#define raft_compact(...) observed_raft_compact(__VA_ARGS__)

static inline bool observed_raft_ready(struct raft *raft, struct raft_ready *ready)
{
    bool any = raft_ready(raft, ready);
    OBSERVE(raft_called, raft);
    return any;
}
#define raft_ready(...) observed_raft_ready(__VA_ARGS__)

static inline int observed_raft_apply_config(struct raft *raft, uint64_t index,
                                             const struct raft_config_change *change)
{
    int error = raft_apply_config(raft, index, change);
    OBSERVE(raft_called, raft);
    if (error != ERR_COMPACTED)
        OBSERVE(change_applied, raft, index);
    return error;
}
#define raft_apply_config(...) observed_raft_apply_config(__VA_ARGS__)

/* Every message of Raft passes here, when nothing holds it back any more. */
uint8_t *peer_codec_encode_message(uint8_t *meta, const struct raft_message *message,
                                   const struct entry *const *entries);
static inline uint8_t *observed_encode_message(uint8_t *meta, const struct raft_message *message,
                                               const struct entry *const *entries)
{
    OBSERVE(raft_sends, message);
    return peer_codec_encode_message(meta, message, entries);
}

static inline int observed_mvcc_commit(struct mvcc *mvcc, uint64_t index, uint64_t term)
{
    OBSERVE(committed, mvcc, index);
    return mvcc_commit(mvcc, index, term);
}
#define mvcc_commit(...) observed_mvcc_commit(__VA_ARGS__)

#include "server/peer_codec.h"
#define peer_codec_encode_message(...) observed_encode_message(__VA_ARGS__)

#endif

#ifdef OBSERVE_MVCC

static inline void observed_lsm_insert(struct lsm *lsm, struct bytes key,
                                       struct lsm_version version, enum lsm_kind kind,
                                       struct bytes value)
{
    OBSERVE(row, key, version, kind, value);
    lsm_insert(lsm, key, version, kind, value);
}
#define lsm_insert(...) observed_lsm_insert(__VA_ARGS__)

#endif

#endif
