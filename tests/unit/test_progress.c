/* A peer as its leader sees it: rows 72, 75, 85 to 89, 91. */
#include "consensus/progress.h"

#include <criterion/criterion.h>

static struct raft_inflight_slot slots[64];

static struct raft_peer peer_make(enum raft_peer_state state, uint64_t match, uint64_t next,
                                  uint32_t inflight_max, uint64_t bytes_max)
{
    struct raft_peer peer = {.id = 2, .state = state, .match_index = match, .next_index = next};
    inflights_init(&peer.inflights, slots, inflight_max, bytes_max);
    return peer;
}

Test(progress, row_85_decrease)
{
    static const struct {
        const char *why;
        enum raft_peer_state state;
        uint64_t match, next, rejected, hint;
        bool moves;
        uint64_t want_next;
    } cases[] = {
        {"replicate: at match is stale", RAFT_PEER_REPLICATE, 5, 10, 5, 5, false, 10},
        {"replicate: below match is stale", RAFT_PEER_REPLICATE, 5, 10, 4, 4, false, 10},
        {"replicate: back to match", RAFT_PEER_REPLICATE, 5, 10, 9, 9, true, 6},
        {"replicate: sent before what we know by now", RAFT_PEER_REPLICATE, 5, 10, 9, 4, false, 10},
        {"probe: not the probe under way", RAFT_PEER_PROBE, 0, 10, 5, 5, false, 10},
        {"probe: one step", RAFT_PEER_PROBE, 0, 10, 9, 9, true, 9},
        {"probe: the hint is nearer", RAFT_PEER_PROBE, 0, 10, 9, 2, true, 3},
        {"probe: nothing in common", RAFT_PEER_PROBE, 0, 10, 9, 0, true, 1},
        {"probe: never below one", RAFT_PEER_PROBE, 0, 2, 1, 1, true, 1},
        {"probe: at the start", RAFT_PEER_PROBE, 0, 1, 0, 0, true, 1},
        {"pitfall 48: never below match", RAFT_PEER_PROBE, 5, 10, 9, 2, true, 6},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct raft_peer peer = peer_make(cases[i].state, cases[i].match, cases[i].next, 8, 0);
        cr_expect_eq(progress_decrease(&peer, cases[i].rejected, cases[i].hint), cases[i].moves,
                     "%s", cases[i].why);
        cr_expect_eq(peer.next_index, cases[i].want_next, "%s", cases[i].why);
        progress_check(&peer);
    }
}

Test(progress, row_75_86_becoming)
{
    struct raft_peer peer = peer_make(RAFT_PEER_REPLICATE, 3, 6, 8, 0);
    progress_become_probe(&peer);
    cr_expect_eq(peer.next_index, 4, "row 75");
    progress_become_snapshot(&peer, 10);
    cr_expect_eq(peer.next_index, 11);
    cr_expect(progress_is_paused(&peer));
    progress_become_probe(&peer);
    cr_expect_eq(peer.next_index, 11, "after a snapshot at 10");
    progress_become_snapshot(&peer, 10);
    peer.pending_snapshot_index = 0; /* it failed */
    progress_become_probe(&peer);
    cr_expect_eq(peer.next_index, 4);
    progress_become_replicate(&peer);
    cr_expect_eq(peer.next_index, 4);
    progress_check(&peer);
}

Test(progress, row_72_next_moves_in_replicate_only)
{
    struct raft_peer probe = peer_make(RAFT_PEER_PROBE, 0, 1, 8, 0);
    progress_sent_entries(&probe, 3, 30);
    cr_expect_eq(probe.next_index, 1);
    cr_expect(progress_is_paused(&probe), "row 73: one at a time");
    struct raft_peer fast = peer_make(RAFT_PEER_REPLICATE, 0, 1, 8, 0);
    progress_sent_entries(&fast, 3, 30);
    cr_expect_eq(fast.next_index, 4);
    cr_expect_not(progress_is_paused(&fast));
}

Test(progress, row_87_88_89_window)
{
    struct raft_peer peer = peer_make(RAFT_PEER_REPLICATE, 0, 1, 4, 0);
    for (int i = 0; i < 4; i++)
        progress_sent_entries(&peer, 1, 10);
    cr_expect(progress_is_paused(&peer));
    inflights_free_to(&peer.inflights, 0);
    cr_expect_eq(peer.inflights.count, 4, "a stale acknowledgement frees nothing");
    for (uint64_t ack = 1; ack <= 20; ack++) { /* wraps around several times */
        cr_expect(progress_update(&peer, ack));
        cr_expect_not(progress_update(&peer, ack));
        inflights_free_to(&peer.inflights, ack);
        cr_expect_eq(peer.inflights.count, 3);
        progress_sent_entries(&peer, 1, 10);
        cr_expect(progress_is_paused(&peer));
    }
    inflights_free_to(&peer.inflights, 22);
    cr_expect_eq(peer.inflights.count, 2);
    cr_expect_eq(peer.inflights.bytes, 20);
    inflights_reset(&peer.inflights);
    cr_expect_not(inflights_full(&peer.inflights));
}

Test(progress, row_91_bytes_limit_is_soft)
{
    struct raft_peer peer = peer_make(RAFT_PEER_REPLICATE, 0, 1, 8, 100);
    progress_sent_entries(&peer, 1, 99);
    cr_expect_not(progress_is_paused(&peer));
    progress_sent_entries(&peer, 1, 5000);
    cr_expect(progress_is_paused(&peer), "the one that crosses it still went");
    inflights_free_to(&peer.inflights, 1);
    cr_expect(inflights_full(&peer.inflights));
    inflights_free_to(&peer.inflights, 2);
    cr_expect_eq(peer.inflights.bytes, 0);
}

Test(progress, who_lacks_the_commit_index)
{
    struct raft_peer peer = peer_make(RAFT_PEER_REPLICATE, 5, 6, 8, 0);
    peer.sent_commit_index = 3;
    cr_expect(progress_lacks_commit(&peer, 4));
    cr_expect_not(progress_lacks_commit(&peer, 3), "it was told");
    peer.sent_commit_index = 5;
    cr_expect_not(progress_lacks_commit(&peer, 9), "it has nothing more to commit");
}
