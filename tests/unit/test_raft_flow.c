/* How fast a leader sends, and what bounds it: pacing, windows, quotas, pages (rows 71 to 77, 87 to
 * 97). */
#include "tests/unit/raft_craft.h"

#include <criterion/criterion.h>

static const uint8_t blob[8192];

static void propose_bytes(struct node *node, size_t size)
{
    cr_assert_eq(node_propose(node, ENTRY_NORMAL, blob, size), 0);
}

/* A leader at term 1 of a pair, of which node 2 has the empty entry, so that it is in replicate. */
static struct node *replicating_leader(struct cluster *cluster, const struct raft_options *options)
{
    struct raft_snapshot snapshot = craft_voters(2);
    struct node *node = cluster_add(cluster, options, &snapshot, false);
    craft_win(node);
    craft_ack(node, 2, 1);
    cr_assert_eq(raft_peer_find(&node->raft, 2)->state, RAFT_PEER_REPLICATE);
    craft_drain(cluster);
    return node;
}

Test(raft_flow, row_71_only_leaders_send_heartbeats)
{
    static const struct {
        enum raft_role role;
        uint32_t want;
    } cases[] = {{RAFT_ROLE_LEADER, 2}, {RAFT_ROLE_CANDIDATE, 0}, {RAFT_ROLE_FOLLOWER, 0}};
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct cluster cluster;
        cluster_init(&cluster);
        struct node *node = craft_node(&cluster, 3, "11", 1, 0);
        craft_role(node, cases[i].role);
        craft_drain(&cluster);
        node_tick(node, CLUSTER_TICK_NS);
        craft_ready(node);
        cr_expect_eq(cluster.network_count, cases[i].want);
        cr_expect_eq(craft_count(&cluster, RAFT_MESSAGE_HEARTBEAT), cases[i].want);
        cluster_deinit(&cluster);
    }
}

Test(raft_flow, row_72_next_grows_in_replicate_only)
{
    for (int replicate = 0; replicate < 2; replicate++) {
        struct raft_options options = craft_options();
        struct cluster cluster;
        cluster_init(&cluster);
        struct node *node = replicating_leader(&cluster, &options);
        struct raft_peer *peer = raft_peer(&node->raft, 2);
        if (!replicate)
            progress_become_probe(peer);
        cr_assert_eq(peer->next_index, 2);
        propose_bytes(node, 8);
        craft_ready(node);
        cr_expect_eq(peer->next_index, replicate ? node->raft.log.last_index + 1 : 2);
        cluster_deinit(&cluster);
    }
}

Test(raft_flow, row_73_a_probe_is_one_message)
{
    struct cluster cluster;
    cluster_init(&cluster);
    struct node *node = craft_node(&cluster, 2, "", 0, 0);
    craft_win(node);
    cr_expect_eq(craft_count(&cluster, RAFT_MESSAGE_APPEND), 1);
    for (int round = 0; round < 3; round++) {
        craft_drain(&cluster);
        for (int i = 0; i < 10; i++) {
            propose_bytes(node, 8);
            craft_ready(node);
        }
        cr_expect_eq(craft_count(&cluster, RAFT_MESSAGE_APPEND), 0, "a probe is under way");
        node_tick(node, CLUSTER_TICK_NS);
        craft_ready(node);
        cr_expect_eq(craft_count(&cluster, RAFT_MESSAGE_HEARTBEAT), 1);
        cr_expect_eq(craft_count(&cluster, RAFT_MESSAGE_APPEND), 0);
        craft_give(node, (struct raft_message){.kind = RAFT_MESSAGE_HEARTBEAT_RESPONSE, .term = 1});
        cr_expect_eq(craft_count(&cluster, RAFT_MESSAGE_APPEND), 1, "one more after an answer");
    }
    cluster_deinit(&cluster);
}

/* On a network that reorders, each such answer would start a burst, and each burst more of them. */
Test(raft_flow, an_answer_without_news_does_not_end_a_probe_with_entries)
{
    struct raft_options options = craft_options();
    struct cluster cluster;
    cluster_init(&cluster);
    struct node *node = replicating_leader(&cluster, &options);
    const struct raft_peer *peer = raft_peer_find(&node->raft, 2);
    raft_report_unreachable(&node->raft, 2);
    for (int i = 0; i < 10; i++)
        propose_bytes(node, 8);
    craft_ready(node);
    cr_assert_eq(peer->state, RAFT_PEER_PROBE);
    cr_assert_eq(craft_count(&cluster, RAFT_MESSAGE_APPEND), 1);
    craft_drain(&cluster);
    craft_ack(node, 2, peer->match_index);
    cr_expect_eq(peer->state, RAFT_PEER_PROBE);
    cr_expect_eq(craft_count(&cluster, RAFT_MESSAGE_APPEND), 0);
    craft_ack(node, 2, peer->match_index + 1);
    cr_expect_eq(peer->state, RAFT_PEER_REPLICATE);
    cluster_deinit(&cluster);
}

Test(raft_flow, row_74_replicate_sends_all_and_snapshot_nothing)
{
    for (int snapshot = 0; snapshot < 2; snapshot++) {
        struct raft_options options = craft_options();
        struct cluster cluster;
        cluster_init(&cluster);
        struct node *node = replicating_leader(&cluster, &options);
        if (snapshot)
            progress_become_snapshot(raft_peer(&node->raft, 2), 1);
        for (int i = 0; i < 10; i++) {
            propose_bytes(node, 8);
            craft_ready(node);
        }
        cr_expect_eq(craft_count(&cluster, RAFT_MESSAGE_APPEND), snapshot ? 0 : 10);
        cluster_deinit(&cluster);
    }
}

Test(raft_flow, row_75_unreachable_goes_back_to_probe)
{
    struct raft_options options = craft_options();
    struct cluster cluster;
    cluster_init(&cluster);
    struct node *node = replicating_leader(&cluster, &options);
    for (int i = 0; i < 4; i++)
        propose_bytes(node, 8);
    craft_ready(node);
    craft_ack(node, 2, 3);
    const struct raft_peer *peer = raft_peer_find(&node->raft, 2);
    cr_assert_eq(peer->match_index, 3);
    cr_assert_eq(peer->next_index, 6);
    raft_report_unreachable(&node->raft, 2);
    cr_expect_eq(peer->state, RAFT_PEER_PROBE);
    cr_expect_eq(peer->next_index, 4);
    cluster_deinit(&cluster);
}

/* A leader that stands behind its last entry; the peer's hint; the leader's next probe. */
Test(raft_flow, row_76_pitfall_43_fast_reject)
{
    static const struct {
        const char *leader, *follower;
        uint64_t hint_term, hint_index, next_term, next_index;
    } cases[] = {
        {"1224444", "12233333333", 3, 7, 2, 3}, {"12234445", "12233333333", 3, 8, 3, 4},
        {"1111", "1224", 1, 1, 1, 1},           {"111111", "1224", 1, 1, 1, 1},
        {"1111", "122444", 1, 1, 1, 1},         {"11145", "1114", 4, 4, 4, 4},
        {"255555555", "244444", 4, 6, 2, 1},    {"22222", "24444444", 2, 1, 2, 1},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct cluster cluster;
        cluster_init(&cluster);
        struct node *leader = craft_node(&cluster, 2, cases[i].leader, 6, 0);
        struct node *follower = craft_node(&cluster, 2, cases[i].follower, 6, 0);
        craft_win(leader);
        craft_drain(&cluster);
        struct raft_peer *peer = raft_peer(&leader->raft, 2);
        peer->next_index = strlen(cases[i].leader) + 1;
        peer->paused = false;
        peer->send_due = RAFT_SEND_ALWAYS;
        node_ready(leader);
        cluster_deliver(&cluster, 2, 0, false);
        node_ready(follower);
        const struct raft_message *answer = craft_newest(&cluster);
        cr_expect(answer->reject, "%s", cases[i].follower);
        cr_expect_eq(answer->hint_index, cases[i].hint_index, "%s: %lu", cases[i].follower,
                     answer->hint_index);
        cr_expect_eq(answer->log_term, cases[i].hint_term, "%s", cases[i].follower);
        cluster_deliver(&cluster, 1, 0, false);
        node_ready(leader);
        const struct raft_message *probe = craft_newest(&cluster);
        cr_expect_eq(probe->kind, RAFT_MESSAGE_APPEND);
        cr_expect_eq(probe->index, cases[i].next_index, "%s: %lu", cases[i].follower, probe->index);
        cr_expect_eq(probe->log_term, cases[i].next_term, "%s", cases[i].follower);
        cluster_deinit(&cluster);
    }
}

/* The last line of the row: the follower cannot tell the term of what it compacted, and says 0. A
 * follower acknowledges what lies below its commit index, so the two halves are looked at apart:
 * test_raft_log has the hint, this the leader that gets it. */
Test(raft_flow, row_76_a_hint_without_a_term)
{
    struct cluster cluster;
    cluster_init(&cluster);
    struct node *leader = craft_node(&cluster, 2, "113", 3, 0);
    craft_win(leader);
    craft_drain(&cluster);
    raft_peer(&leader->raft, 2)->next_index = 4;
    craft_give(leader, (struct raft_message){.kind = RAFT_MESSAGE_APPEND_RESPONSE,
                                             .term = 4,
                                             .reject = true,
                                             .index = 3,
                                             .hint_index = 3});
    cr_expect_eq(craft_newest(&cluster)->index, 2);
    cr_expect_eq(craft_newest(&cluster)->log_term, 1);
    cluster_deinit(&cluster);
}

Test(raft_flow, row_77_pitfall_48_reordered_appends)
{
    struct cluster cluster;
    cluster_init(&cluster);
    struct node *leader = craft_node(&cluster, 2, "", 0, 0);
    struct node *follower = craft_node(&cluster, 2, "", 0, 0);
    uint64_t ids[] = {1, 2};
    raft_campaign(&leader->raft);
    cluster_stabilize(&cluster, ids, 2);
    propose_bytes(leader, 1);
    node_ready(leader);
    propose_bytes(leader, 1);
    node_ready(leader);
    cr_assert_eq(cluster.network_count, 2);
    cluster_message_step(&cluster, cluster_network_take(&cluster, 1)); /* the second first */
    craft_ready(follower);
    struct cluster_message *rejection = cluster_network_take(&cluster, 1);
    cr_assert(rejection->message.reject);
    cluster_deliver(&cluster, 2, 0, false);
    craft_ready(follower);
    cluster_deliver(&cluster, 1, 0, false);
    struct raft_peer *peer = raft_peer(&leader->raft, 2);
    cr_expect_eq(peer->match_index, 2);
    raft_report_unreachable(&leader->raft, 2);
    cluster_message_step(&cluster, rejection);
    cr_expect_eq(peer->next_index, 3, "from match on, not below");
    cluster_stabilize(&cluster, ids, 2);
    node_tick(leader, CLUSTER_TICK_NS);
    cluster_stabilize(&cluster, ids, 2);
    cr_expect_eq(follower->applied_index, 3);
    cluster_deinit(&cluster);
}

/* ---- the window of messages ---- */

static void fill_window(struct node *node)
{
    for (uint32_t i = 0; i < node->options.inflight_messages_max; i++) {
        propose_bytes(node, 8);
        craft_ready(node);
    }
}

Test(raft_flow, row_88_a_full_window_stops_sending)
{
    struct raft_options options = craft_options();
    struct cluster cluster;
    cluster_init(&cluster);
    struct node *node = replicating_leader(&cluster, &options);
    fill_window(node);
    cr_expect_eq(craft_count(&cluster, RAFT_MESSAGE_APPEND), 256);
    craft_drain(&cluster);
    for (int i = 0; i < 10; i++) {
        propose_bytes(node, 8);
        craft_ready(node);
        cr_expect_eq(cluster.network_count, 0);
    }
    cr_expect(progress_is_paused(raft_peer_find(&node->raft, 2)));
    cluster_deinit(&cluster);
}

Test(raft_flow, row_89_the_window_moves)
{
    struct raft_options options = craft_options();
    struct cluster cluster;
    options.inflight_messages_max = 32;
    cluster_init(&cluster);
    struct node *node = replicating_leader(&cluster, &options);
    fill_window(node);
    craft_drain(&cluster);
    for (uint64_t ack = 2; ack < 32; ack++) {
        propose_bytes(node, 8);
        craft_ready(node);
        cr_expect_eq(craft_count(&cluster, RAFT_MESSAGE_APPEND), 0, "full");
        for (uint64_t stale = 0; stale < ack; stale++)
            craft_ack(node, 2, stale);
        cr_expect_eq(craft_count(&cluster, RAFT_MESSAGE_APPEND), 0, "stale answers free nothing");
        craft_ack(node, 2, ack);
        cr_expect_eq(craft_count(&cluster, RAFT_MESSAGE_APPEND), 1, "one place, one message");
        craft_drain(&cluster);
    }
    craft_ack(node, 2, 40); /* several places at once: what waits leaves in one message */
    cr_expect_eq(raft_peer_find(&node->raft, 2)->next_index, node->raft.log.last_index + 1);
    cluster_deinit(&cluster);
}

Test(raft_flow, row_90_pitfall_45_a_heartbeat_answer_rescues_a_lost_window)
{
    struct raft_options options = craft_options();
    struct cluster cluster;
    options.inflight_messages_max = 8;
    cluster_init(&cluster);
    struct node *node = replicating_leader(&cluster, &options);
    fill_window(node);
    for (int round = 0; round < 5; round++) {
        craft_drain(&cluster); /* all is lost */
        craft_give(node, (struct raft_message){.kind = RAFT_MESSAGE_HEARTBEAT_RESPONSE, .term = 1});
        cr_assert_eq(craft_count(&cluster, RAFT_MESSAGE_APPEND), 1);
        cr_expect_eq(craft_newest(&cluster)->entry_count, 0);
        cr_expect(progress_is_paused(raft_peer_find(&node->raft, 2)));
        propose_bytes(node, 8);
        craft_ready(node);
        cr_expect_eq(craft_count(&cluster, RAFT_MESSAGE_APPEND), 1, "no more than that");
    }
    cluster_deinit(&cluster);
}

static void expect_sizes(struct cluster *cluster, const char *sizes)
{
    cr_assert_eq(cluster->network_count, strlen(sizes), "%s: %u", sizes, cluster->network_count);
    const struct cluster_message *m = cluster->network.first;
    for (; *sizes != '\0'; sizes++, m = m->next)
        cr_expect_eq(m->message.entry_count, (uint32_t)(*sizes - '0'));
}

Test(raft_flow, row_91_the_window_of_bytes)
{
    static const char *const after_each_ack[] = {"222", "211", "11", "11", "122", "2"};
    struct raft_options options = craft_options();
    struct cluster cluster;
    options.inflight_messages_max = 3;
    options.message_bytes_max = 2048;
    options.inflight_bytes_max = 9000;
    struct raft_snapshot snapshot = craft_voters(2);
    cluster_init(&cluster);
    struct node *node = cluster_add(&cluster, &options, &snapshot, false);
    raft_campaign(&node->raft);
    node_ready(node);
    struct raft_message vote = {.kind = RAFT_MESSAGE_VOTE_RESPONSE, .from = 2, .to = 1, .term = 1};
    cr_assert_eq(raft_step(&node->raft, &vote), 0);
    craft_drain(&cluster);
    for (int i = 0; i < 22; i++) {
        propose_bytes(node, i >= 10 && i < 16 ? 5000 : 1000);
        craft_ready(node);
    }
    cr_assert_eq(cluster.network_count, 1, "a probe");
    uint64_t acked = craft_newest(&cluster)->index + craft_newest(&cluster)->entry_count;
    cr_assert_eq(craft_newest(&cluster)->entry_count, 2, "the empty entry and one");
    for (size_t i = 0; i < ARRAY_COUNT(after_each_ack); i++) {
        craft_drain(&cluster);
        craft_ack(node, 2, acked);
        while (cluster.network.first != NULL && cluster.network.first->message.entry_count == 0)
            cluster_message_free(cluster_network_take(&cluster, 0)); /* only a commit index */
        expect_sizes(&cluster, after_each_ack[i]);
        acked = craft_newest(&cluster)->index + craft_newest(&cluster)->entry_count;
    }
    cluster_deinit(&cluster);
}

/* ---- what is proposed ---- */

Test(raft_flow, row_92_pitfall_46_uncommitted_bytes_are_bounded)
{
    struct cluster cluster;
    cluster_init(&cluster);
    struct raft_options options = craft_options();
    options.window_entries = 4096;
    options.uncommitted_bytes_max = 1024 * 8;
    struct raft_snapshot snapshot = craft_voters(3);
    struct node *node = cluster_add(&cluster, &options, &snapshot, false);
    craft_win(node);
    for (int i = 0; i < 1024; i++)
        propose_bytes(node, 8);
    cr_expect_eq(node_propose(node, ENTRY_NORMAL, blob, 8), ERR_TOO_MANY_REQUESTS);
    cr_expect_eq(node_propose(node, ENTRY_NORMAL, NULL, 0), 0, "empty entries always pass");
    cr_expect_eq(node->raft.log.last_index, 1 + 1024 + 1);
    craft_ready(node);
    craft_ack(node, 2, node->raft.log.last_index);
    cr_expect_eq(node->raft.log.unapplied_bytes, 0, "it is given back when it is applied");
    for (int i = 0; i < 2; i++)
        cr_expect_eq(node_propose(node, ENTRY_NORMAL, blob, 2 * 1024 * 8 / 2 - i * 8184),
                     i == 0 ? 0 : ERR_TOO_MANY_REQUESTS, "the first passes, whatever its size");
    cluster_deinit(&cluster);
}

Test(raft_flow, row_93_append_messages_are_bounded)
{
    struct raft_options options = craft_options();
    struct cluster cluster;
    options.message_bytes_max = 2048;
    cluster_init(&cluster);
    struct node *node = replicating_leader(&cluster, &options);
    for (int i = 0; i < 5; i++)
        propose_bytes(node, 1000);
    craft_ready(node);
    expect_sizes(&cluster, "221"); /* pages follow each other without waiting */
    for (const struct cluster_message *m = cluster.network.first; m != NULL; m = m->next)
        cr_expect_eq(m->message.commit, 1);
    cluster_deinit(&cluster);
}

Test(raft_flow, row_94_commits_come_in_pages)
{
    struct cluster cluster;
    cluster_init(&cluster);
    struct raft_options options = craft_options();
    options.apply_bytes_max = 2048;
    struct raft_snapshot snapshot = craft_voters(1);
    struct node *node = cluster_add(&cluster, &options, &snapshot, true);
    raft_campaign(&node->raft);
    while (node_ready(node) || node_append(node) || node_apply(node))
        ;
    for (int i = 0; i < 3; i++)
        propose_bytes(node, 1000);
    while (node_ready(node) || node_append(node))
        ;
    cr_expect_eq(node->raft.log.committed_index, 4);
    cr_expect_eq(node->raft.log.applying_index, 3, "two of three");
    cr_expect_not(node_ready(node), "the third waits for the first two");
    cr_assert(node_apply(node));
    cr_assert(node_ready(node));
    cr_expect_eq(node->raft.log.applying_index, 4);
    cluster_deinit(&cluster);
}

/* A log that is read back from disk, with sizes that change from call to call. */
static int moody_lookup(void *context, uint64_t index, struct entry *entry)
{
    const struct node *node = context;
    static uint32_t calls;
    *entry = node->disk.entries[index];
    entry->payload_bytes = 100 + 300 * (calls++ % 3 == 0);
    return 0;
}

Test(raft_flow, row_95_pitfall_47_pages_after_a_restart)
{
    struct cluster cluster;
    cluster_init(&cluster);
    struct node *node = craft_node(&cluster, 3, "", 0, 0);
    node->options.apply_bytes_max = 500;
    craft_log(node, "11111111111", 1, 0, 10);
    node->raft.log.storage.lookup = moody_lookup;
    uint64_t next = 1;
    struct raft_ready ready;
    for (int turn = 0; turn < 20; turn++) {
        if (turn == 2) {
            struct raft_message heartbeat = {
                .kind = RAFT_MESSAGE_HEARTBEAT, .from = 2, .to = 1, .term = 1, .commit = 11};
            cr_assert_eq(raft_step(&node->raft, &heartbeat), 0);
        }
        if (!raft_ready(&node->raft, &ready) || ready.apply_first == 0)
            continue;
        cr_expect_eq(ready.apply_first, next, "no entry twice, none left out");
        cr_expect_lt(ready.apply_last, ready.apply_first + 5);
        next = ready.apply_last + 1;
        raft_applied(&node->raft, ready.apply_last);
        cr_expect_eq(node->raft.log.applied_index, ready.apply_last);
    }
    cr_expect_eq(next, 12);
    cluster_deinit(&cluster);
}

Test(raft_flow, row_96_pitfall_46_growth_in_a_partition_is_bounded)
{
    struct cluster cluster;
    cluster_init(&cluster);
    struct node *node = craft_node(&cluster, 3, "", 0, 0);
    node->raft.options.uncommitted_bytes_max = 16 * 8;
    craft_win(node);
    uint32_t refused = 0;
    for (int i = 0; i < 1024; i++)
        refused += node_propose(node, ENTRY_NORMAL, blob, 8) == ERR_TOO_MANY_REQUESTS;
    cr_expect_eq(refused, 1024 - 16);
    cr_expect_eq(node->raft.log.last_index, 1 + 16);
    cr_expect_eq(node->raft.log.unapplied_bytes, 16 * 8);
    cr_expect_eq(node->raft.counters.proposals_dropped, refused);
    craft_ready(node);
    craft_ack(node, 2, 17);
    cr_expect_eq(node->raft.log.unapplied_bytes, 0);
    cluster_deinit(&cluster);
}

Test(raft_flow, row_97_proposals_need_a_quorum)
{
    static const struct {
        uint32_t size, down;
        bool leads;
    } cases[] = {{3, 0, true},  {3, 1, true}, {3, 2, false}, {4, 1, true},
                 {4, 2, false}, {5, 2, true}, {5, 3, false}};
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct raft_options options = craft_options();
        struct craft_group group;
        craft_group_init(&group, cases[i].size, &options);
        for (uint32_t down = 0; down < cases[i].down; down++)
            craft_isolate(&group, cases[i].size - down);
        craft_campaign(&group, 1);
        cr_expect_eq(craft_propose(&group, 1, "some data"), cases[i].leads ? 0 : ERR_NO_LEADER);
        for (uint64_t id = 1; id <= cases[i].size - cases[i].down && cases[i].leads; id++)
            cr_expect_eq(craft_of(&group, id)->raft.log.committed_index, 2, "%u of %u down",
                         cases[i].down, cases[i].size);
        if (!cases[i].leads)
            cr_expect_eq(craft_of(&group, 1)->raft.log.last_index, 0);
        craft_group_deinit(&group);
    }
}

/* The server forwards, with request ids; the core refuses, so that nothing is sent twice. */
Test(raft_flow, row_97_followers_refuse)
{
    struct raft_options options = craft_options();
    struct craft_group group;
    craft_group_init(&group, 3, &options);
    cr_expect_eq(craft_propose(&group, 2, "x"), ERR_NO_LEADER);
    craft_campaign(&group, 1);
    cr_expect_eq(craft_propose(&group, 2, "x"), ERR_NOT_LEADER);
    cr_expect_eq(craft_of(&group, 2)->raft.log.last_index, 1);
    craft_group_deinit(&group);
}
