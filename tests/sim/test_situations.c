/* Whole members in situations that seeds seldom make: both ways to be told to stop at once, an
 * answer to the process before, one that is late or lost, a log that is damaged where nobody would
 * look, where the others no longer have it, and where another leader just replaced it. */
#include "server/message.h"
#include "server/peer_codec.h"
#include "server/proposal.h"
#include "server/repair.h"
#include "storage/lsm/lsm.h"
#include "tests/sim/small_group.h"

enum { SEEDS = 8, ENTRIES = 12 };

/* ---- what members do ------------------------------------------------------------------------ */

/* So many entries: this member says again where it is. */
static void write_entries(struct machine *machine)
{
    struct node *node = machine->node;
    for (uint64_t i = 0; i < machine->argument; i++) {
        const struct member *own = member_find(&node->membership.set, node->identity.member_id);
        struct member again = {.id = own->id, .peer = own->peer};
        cr_assert_eq(member_request(node, REQUEST_MEMBER_UPDATE, &again), 0);
    }
}

static void proposal_over(struct proposal *proposal)
{
    proposal_destroy(proposal);
}

/* An entry of a leader that nobody hears. */
static void propose_entry(struct machine *machine)
{
    struct node *node = machine->node;
    const struct member *own = member_find(&node->membership.set, node->identity.member_id);
    struct proposal *proposal = member_request_make(node, REQUEST_MEMBER_UPDATE, own);
    cr_assert_not_null(proposal);
    proposal->done = proposal_over;
    proposal->deadline_ns = core_now_ns(core_current()) + LIMIT_S * NS_PER_S;
    pending_add(&node->raft->pending, proposal);
}

/* So many of them: each is a block of its log, and stays alone. */
static void propose_entries(struct machine *machine)
{
    for (uint64_t i = 0; i < machine->argument; i++) {
        propose_entry(machine);
        fiber_sleep_until(core_now_ns(core_current()) + 5 * NS_PER_MS);
    }
}

static void add_member(struct machine *machine)
{
    struct member added = {.id = 1000 + machine->argument, .peer = {.count = 1}};
    char url[64], reason[256];
    snprintf(url, sizeof(url), "http://10.0.0.%u:2380", (unsigned)machine->argument);
    cr_assert_eq(config_url_parse(&added.peer.url[0], url, reason, sizeof(reason)), 0);
    cr_assert_eq(member_request(machine->node, REQUEST_MEMBER_ADD, &added), 0);
}

/* All that was applied goes to the tables. */
static void flush(struct machine *machine)
{
    struct node *node = machine->node;
    uint64_t applied = node->raft->raft.log.applied_index;
    while (lsm_flushed_index(node->lsm) < applied) {
        lsm_flush_begin(node->lsm);
        fiber_sleep_until(core_now_ns(core_current()) + NS_PER_MS);
    }
}

/* Its log begins behind what its tables contain. */
static void flush_and_release(struct machine *machine)
{
    flush(machine);
    raft_driver_release(machine->node->raft, lsm_flushed_index(machine->node->lsm));
}

struct damage {
    struct machine *machine;
    uint32_t pages;
};

/* A page of each segment that has any: the next one is made ahead, and empty. */
static void damage_segment(void *context, const char *name)
{
    struct damage *damage = context;
    struct prng *prng = sim_prng(damage->machine->sim.world, SIM_STREAM_FAULTS);
    char file[64];
    uint64_t offset;
    snprintf(file, sizeof(file), "/data/log/%s", name);
    if (strcmp(name, "ring") != 0)
        damage->pages += sim_disk_rot(damage->machine->disk, file, 64, prng, &offset);
}

/* Of a member that is down. */
static void damage_log(struct machine *machine)
{
    struct damage damage = {.machine = machine};
    cr_assert_geq(sim_disk_list(machine->disk, "/data/log", damage_segment, &damage), 0);
    cr_assert_gt(damage.pages, 0);
}

/* Serves, with everything that is committed, and nothing of its log is damaged. */
static bool is_whole(struct group *group, const struct machine *machine)
{
    const struct machine *leader = leader_of(group);
    const struct raft *raft = raft_of(machine);
    return leader != NULL && raft != NULL && is_in_state(machine, NODE_READY) &&
           machine->node->repair != NULL && repair_stats(machine->node->repair)->faulty == 0 &&
           raft->log.applied_index >= raft_of(leader)->log.committed_index;
}

static void start_all(struct group *group)
{
    for (uint32_t i = 0; i < MACHINES; i++)
        boot(&group->machines[i]);
    for (uint32_t i = 0; i < MACHINES; i++)
        for (uint32_t j = 0; j < MACHINES; j++)
            run_until(group, names(&group->machines[i], &group->machines[j]));
    for (uint32_t i = 0; i < MACHINES; i++)
        run_until(group, is_whole(group, &group->machines[i]));
}

/* Nobody hears it for so long; 0: from now on they do. */
static void silence(struct group *group, struct machine *machine, uint64_t for_ns)
{
    for (uint32_t i = 0; i < MACHINES; i++)
        if (&group->machines[i] != machine)
            block(group, machine, &group->machines[i], for_ns);
}

/* The first member that is neither. */
static struct machine *member_but(struct group *group, const struct machine *one,
                                  const struct machine *another)
{
    struct machine *machine = group->machines;
    while (machine == one || machine == another)
        machine++;
    return machine;
}

/* ---- stopping ------------------------------------------------------------------------------- */

/* A snapshot waits for a restart, and an operator or a signal ends the process: for good. */
Test(situations, who_is_told_to_stop_does_not_start_again)
{
    static const struct {
        const char *why;
        bool restart_first, stop, restart_last;
    } cases[] = {
        {"a restart alone", true, false, false},
        {"a stop while a restart is pending", true, true, false},
        {"a restart while it stops", false, true, true},
        {"a stop alone", false, true, false},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct group *group = group_create(1 + i);
        struct machine *machine = &group->machines[0];
        machine_configure(machine, 1, "new");
        boot(machine);
        run_until(group, is_in_state(machine, NODE_READY));
        if (cases[i].restart_first)
            node_request_restart(machine->node);
        if (cases[i].stop)
            node_request_stop(machine->node);
        if (cases[i].restart_last) {
            run_until(group, is_in_state(machine, NODE_STOPPING));
            node_request_restart(machine->node);
        }
        if (cases[i].stop) {
            run_until(group, stopped(machine));
            cr_expect_not(node_restart_wanted(machine->node), "%s", cases[i].why);
        } else {
            run_until(group, machine->restarts == 1 && is_in_state(machine, NODE_READY));
        }
        cr_expect_eq(machine->restarts, cases[i].stop ? 0 : 1, "%s", cases[i].why);
        group_destroy(group);
    }
}

/* A vote is on its way to a slow disk, and its answer needs connections. */
Test(situations, a_stop_waits_for_what_the_log_was_given)
{
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct group *group = group_create(seed);
        start_all(group);
        struct machine *leader = leader_of(group);
        struct machine *voter = member_but(group, leader, NULL);
        uint64_t term = raft_of(voter)->term;
        sim_disk_faults(voter->disk)->slow_factor = 2000;
        kill_machine(leader);
        run_until(group, raft_of(voter)->term > term);
        cr_assert_lt(raft_of(voter)->append_done, raft_of(voter)->append_issued);
        node_request_stop(voter->node);
        run_until(group, stopped(voter));
        group_destroy(group);
    }
}

/* ---- reads ---------------------------------------------------------------------------------- */

/* Of the newest linearizable read that was allowed: what its member had executed then. */
static struct {
    bool allowed;
    int error;
    uint64_t batch;
    uint64_t applied;
} read_result;

static void on_read_allowed(void *context, struct core *core maybe_unused,
                            const struct mesh_message *message)
{
    const struct machine *machine = context;
    read_result.allowed = true;
    read_result.error = (int)(int64_t)message->word[1];
    read_result.batch = message->word[0];
    read_result.applied = raft_of(machine)->log.applied_index;
}

/* As a connection core asks for a batch of its reads, with its number. */
static void ask_to_read(struct machine *machine)
{
    struct core *core = core_current();
    struct mesh_message message = {.kind = MESSAGE_READ_INDEX, .word = {machine->argument}};
    read_result.allowed = false;
    core_handle(core, MESSAGE_READ_INDEX_DONE, on_read_allowed, machine);
    core_post(core, machine->node->map.raft, &message);
}

/* The leader's answer to a question finds another process of the member than asked: it comes right
 * after that one asked for the first time as well, and a write was acknowledged in between. */
Test(situations, an_answer_to_the_process_before_allows_no_read)
{
    enum { SLOW_MS = 150, BLOCK_MS = 400 };
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct group *group = group_create(seed);
        start_all(group);
        struct machine *leader = leader_of(group);
        struct machine *asker = member_but(group, leader, NULL);
        struct machine *other = member_but(group, leader, asker);
        const struct raft *raft = raft_of(leader);
        block(group, other, leader, BLOCK_MS * NS_PER_MS); /* nobody confirms the leadership */
        run_on(group, asker, ask_to_read, 1);
        run_until(group, raft->reads_count == 1);
        uint64_t asked_at = raft->log.committed_index;
        kill_machine(asker);
        path(group, leader, asker, SLOW_MS * NS_PER_MS);
        boot(asker);
        run_until(group, raft->reads_count == 0); /* the answer is on its way */
        uint64_t arrives_ns = group->world.now_ns + SLOW_MS * NS_PER_MS;
        cr_assert(peers_connected(leader->node->peers->peers, asker->node->identity.member_id,
                                  PEER_LANE_CONTROL));
        run_on(group, leader, write_entries, 1);
        run_until(group, raft_of(asker) != NULL && raft_of(asker)->leader != 0);
        uint64_t committed = raft->log.committed_index;
        cr_assert(committed > asked_at && raft_of(asker)->log.applied_index < committed);
        run_on(group, asker, ask_to_read, 1);
        cr_assert(group->world.now_ns < arrives_ns, "the answer came too early for this test");
        run_until(group, read_result.allowed);
        cr_expect_eq(read_result.error, 0);
        cr_expect_geq(read_result.applied, committed, "seed %lu", (unsigned long)seed);
        group_destroy(group);
    }
}

/* No question of another member has room here until these are confirmed. Nobody asked them: the
 * answers are to no question of this member either. */
static void fill_read_queue(struct machine *machine)
{
    struct raft *raft = &machine->node->raft->raft;
    while (raft_read_index(raft, UINT64_MAX) == 0)
        ;
    cr_assert_eq(raft->reads_count, raft->options.reads_max);
}

/* Exactly one question is lost and nothing else happens. The next one answers its read, or, when no
 * more reads come, the same read asks once more. */
Test(situations, a_lost_question_delays_one_read_and_no_later_one)
{
    enum { SLOW_MS = 150, PAUSE_MS = 100, RETRY_MS = 700 };
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct group *group = group_create(seed);
        start_all(group);
        struct machine *leader = leader_of(group);
        struct machine *asker = member_but(group, leader, NULL);
        struct machine *other = member_but(group, leader, asker);
        const struct raft *raft = raft_of(leader);
        uint64_t reads = seed % 2 == 0 ? 10 : 1;
        read_result.batch = 0;
        path(group, leader, asker, SLOW_MS * NS_PER_MS); /* confirmations take that long */
        path(group, leader, other, SLOW_MS * NS_PER_MS);
        run_on(group, leader, fill_read_queue, 0);
        uint64_t term = raft->term, stepped = leader->node->peers->counters.stepped;
        run_on(group, asker, ask_to_read, 1);
        run_for(group, PAUSE_MS * NS_PER_MS);
        cr_assert_eq(raft->reads_count, raft->options.reads_max, "there was room for the question");
        cr_assert_gt(leader->node->peers->counters.stepped, stepped);
        path(group, leader, asker, 0);
        path(group, leader, other, 0);
        run_until(group, raft->reads_count == 0);
        for (uint64_t batch = 2; batch <= reads; batch++) {
            run_on(group, asker, ask_to_read, batch);
            run_for(group, PAUSE_MS * NS_PER_MS);
            cr_expect_eq(read_result.batch, batch, "seed %lu", (unsigned long)seed);
        }
        if (reads == 1)
            run_for(group, RETRY_MS * NS_PER_MS);
        cr_expect_eq(read_result.batch, reads, "seed %lu", (unsigned long)seed);
        cr_expect_eq(read_result.error, 0);
        cr_assert_eq(raft->term, term, "another leader's answers prove nothing here");
        group_destroy(group);
    }
}

/* It comes when the question was put again already, each time: it is an answer all the same. */
Test(situations, an_answer_that_takes_longer_than_the_next_question_is_one)
{
    enum { SLOW_MS = 600 };
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct group *group = group_create(seed);
        start_all(group);
        struct machine *leader = leader_of(group);
        struct machine *asker = member_but(group, leader, NULL);
        path(group, leader, asker, SLOW_MS * NS_PER_MS);
        read_result.batch = 0;
        run_on(group, asker, ask_to_read, 1);
        run_for(group, 2 * SLOW_MS * NS_PER_MS);
        cr_expect_eq(read_result.batch, 1, "seed %lu", (unsigned long)seed);
        cr_expect_eq(read_result.error, 0);
        group_destroy(group);
    }
}

/* ---- damaged logs --------------------------------------------------------------------------- */

/* A cluster that began with one member: its tables tell that others have copies by now, or, before
 * the first flush, what is sound of the log. */
Test(situations, a_damaged_log_of_a_group_that_grew_from_one_member)
{
    uint64_t repaired = 0;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct group *group = group_create(seed);
        struct machine *first = &group->machines[0];
        machine_configure(first, 1, "new");
        boot(first);
        run_until(group, is_in_state(first, NODE_READY));
        for (uint32_t i = 1; i < MACHINES; i++) {
            struct machine *joins = &group->machines[i];
            run_on(group, first, add_member, joins->sim.id);
            machine_configure(joins, i + 1, "existing");
            boot(joins);
            run_until(group, is_whole(group, joins) && names(first, joins));
        }
        if (seed % 2 == 0)
            run_on(group, first, flush, 0);
        run_on(group, first, write_entries, ENTRIES);
        for (uint32_t i = 1; i < MACHINES; i++)
            run_until(group, is_whole(group, &group->machines[i]));
        cr_assert_eq(first->node->identity.first->count, 1);
        kill_machine(first);
        damage_log(first);
        boot(first);
        run_until(group, is_in_state(first, NODE_FAILED) || is_whole(group, first));
        cr_assert(is_in_state(first, NODE_READY), "seed %lu: %s", (unsigned long)seed,
                  node_failure(first->node));
        repaired += repair_stats(first->node->repair)->repaired;
        group_destroy(group);
    }
    cr_expect_gt(repaired, 0);
}

/* Its log is complete but for one entry, which the leader let go of: no append will ever tell. */
Test(situations, a_repair_of_what_the_leader_no_longer_has_is_a_snapshot)
{
    uint64_t installs = 0, begun = 0;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct group *group = group_create(seed);
        start_all(group);
        struct machine *leader = leader_of(group);
        struct machine *damaged = member_but(group, leader, NULL);
        run_on(group, leader, write_entries, ENTRIES);
        for (uint32_t i = 0; i < MACHINES; i++)
            run_until(group, is_whole(group, &group->machines[i]));
        kill_machine(damaged);
        damage_log(damaged);
        for (uint32_t i = 0; i < MACHINES; i++)
            if (&group->machines[i] != damaged)
                run_on(group, &group->machines[i], flush_and_release, 0);
        cr_assert_gt(raft_of(leader)->log.compacted_index, ENTRIES);
        boot(damaged);
        run_until(group, is_in_state(damaged, NODE_FAILED) || is_whole(group, damaged));
        cr_assert(is_in_state(damaged, NODE_READY), "seed %lu: %s", (unsigned long)seed,
                  node_failure(damaged->node));
        installs += damaged->restarts;
        for (uint32_t i = 0; i < MACHINES; i++)
            if (&group->machines[i] != damaged)
                begun += repair_stats(group->machines[i].node->repair)->tables;
        group_destroy(group);
    }
    cr_expect_gt(installs, 0);
    cr_expect_geq(begun, installs);
}

/* A damaged entry that is not applied, and what another leader put in its place. */
static struct {
    uint64_t index, term, replaced_by;
    uint64_t served, asked;
} replaced;

/* Until the lowest damage is replaced, or there is none any more. */
static bool is_replaced(struct group *group, const struct machine *machine)
{
    const struct raft *raft = raft_of(machine);
    if (raft == NULL || machine->node->repair == NULL)
        return false;
    const struct raft_log *log = &raft->log;
    if (log->faulty_index != 0) {
        replaced.index = log->faulty_index;
        cr_assert_eq(raft_log_term(log, replaced.index, &replaced.term), 0);
        replaced.replaced_by = replaced.term;
    } else if (replaced.index != 0 && replaced.index <= log->last_index) {
        cr_assert_eq(raft_log_term(log, replaced.index, &replaced.replaced_by), 0);
    }
    return replaced.replaced_by != replaced.term || is_whole(group, machine);
}

/* As another member does that lost its copy of the new entry; in time means before this one looked
 * through its list of damage. */
static void ask_for_replaced(struct machine *machine)
{
    struct node *node = machine->node;
    const struct repair_stats *stats = repair_stats(node->repair);
    struct peer_repair_request request = {
        .first = replaced.index, .last = replaced.index, .term = replaced.replaced_by};
    uint8_t meta[PEER_REPAIR_REQUEST_BYTES];
    struct peer_input input = {.header = {.kind = PEER_MESSAGE_REPAIR_REQUEST,
                                          .from = node->raft->raft.leader,
                                          .meta_bytes = sizeof(meta)},
                               .meta = meta};
    if (stats->faulty == 0 ||
        !peers_connected(node->peers->peers, node->raft->raft.leader, PEER_LANE_BULK))
        return;
    uint64_t before = stats->served;
    peer_codec_encode_repair_request(meta, &request);
    cr_assert_eq(repair_requested(node->repair, &input), 0);
    replaced.asked++;
    replaced.served += stats->served - before;
}

/* The damage is gone with the entry, at once: a member that asks now gets the good one. */
Test(situations, what_replaced_a_damaged_entry_is_given_to_others)
{
    enum { SLOW_MS = 150, PAGES = 8 };
    memset(&replaced, 0, sizeof(replaced));
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct group *group = group_create(seed);
        start_all(group);
        struct machine *damaged = leader_of(group);
        const struct raft_log *log = &raft_of(damaged)->log;
        replaced.index = replaced.term = replaced.replaced_by = 0;
        run_on(group, damaged, flush_and_release, 0);
        silence(group, damaged, LIMIT_S * NS_PER_S);
        run_on(group, damaged, propose_entries, ENTRIES);
        run_until(group, log->durable_index == log->last_index);
        cr_assert_geq(log->last_index, log->committed_index + ENTRIES);
        kill_machine(damaged);
        for (uint32_t i = 0; i < PAGES; i++)
            damage_log(damaged);
        run_until(group, leader_of(group) != NULL);
        run_on(group, leader_of(group), write_entries, 2 * ENTRIES);
        silence(group, damaged, 0);
        for (uint32_t i = 0; i < MACHINES; i++)
            path(group, &group->machines[i], damaged, SLOW_MS * NS_PER_MS);
        boot(damaged);
        run_until(group, is_replaced(group, damaged));
        if (replaced.replaced_by != replaced.term)
            run_on(group, damaged, ask_for_replaced, 0);
        run_until(group, is_whole(group, damaged));
        group_destroy(group);
    }
    cr_expect_gt(replaced.asked, 0);
    cr_expect_eq(replaced.served, replaced.asked);
}

/* A power failure while it writes a block: what lands of that is cut into sectors. */
static void lose_power(struct machine *machine)
{
    struct prng *prng = sim_prng(machine->sim.world, SIM_STREAM_FAULTS);
    sim_requests_land(&machine->sim, machine->disk, false, SIM_LOSS_TORN, prng);
    sim_node_crash(&machine->sim);
    sim_disk_power_cut(machine->disk, SIM_LOSS_TORN, prng);
    machine->node = NULL;
}

/* The leader loses power while it writes an entry that nobody else has. */
static void tear_entry_of(struct group *group, struct machine *leader)
{
    const struct raft_log *log = &raft_of(leader)->log;
    silence(group, leader, LIMIT_S * NS_PER_S);
    run_on(group, leader, propose_entry, 0);
    run_until(group, log->issued_index > log->durable_index);
    lose_power(leader);
    silence(group, leader, 0);
}

/* One of three stays dark after a power failure, another tore its last entry, the third never had
 * it: the two wait for the one, not for ever. */
Test(situations, a_torn_entry_waits_for_a_member_that_stays_away_but_not_for_ever)
{
    enum { MORE_SEEDS = 64 };
    uint64_t dropped = 0;
    for (uint64_t seed = 1; seed <= MORE_SEEDS; seed++) {
        struct group *group = group_create(seed);
        start_all(group);
        struct machine *torn = leader_of(group);
        struct machine *other = member_but(group, torn, NULL);
        struct machine *away = member_but(group, torn, other);
        kill_machine(away);
        tear_entry_of(group, torn);
        kill_machine(other);
        boot(torn);
        boot(other);
        run_until(group, leader_of(group) != NULL);
        dropped += repair_stats(torn->node->repair)->dropped;
        group_destroy(group);
    }
    cr_expect_gt(dropped, 0);
}

/* It does not hear the leader, whom the other one follows: it waits, and its term stays what it is,
 * or it would depose the leader once it hears it. */
Test(situations, who_has_a_torn_entry_and_does_not_hear_the_leader_moves_no_term)
{
    uint32_t waited = 0;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct group *group = group_create(seed);
        start_all(group);
        struct machine *torn = leader_of(group);
        tear_entry_of(group, torn);
        run_until(group, leader_of(group) != NULL);
        struct machine *leader = leader_of(group);
        block(group, torn, leader, LIMIT_S * NS_PER_S);
        block(group, leader, torn, LIMIT_S * NS_PER_S);
        boot(torn);
        run_until(group, raft_of(torn) != NULL);
        uint64_t term = raft_of(leader)->term;
        run_for(group, LIMIT_S / 2 * NS_PER_S);
        waited += repair_stats(torn->node->repair)->faulty > 0;
        cr_expect_leq(raft_of(torn)->term, term, "seed %lu", (unsigned long)seed);
        block(group, torn, leader, 0);
        block(group, leader, torn, 0);
        run_until(group, is_whole(group, torn));
        cr_expect_eq(leader_of(group), leader);
        cr_expect_eq(raft_of(leader)->term, term);
        group_destroy(group);
    }
    cr_expect_gt(waited, 0);
}

/* Nobody answers, for as long as it takes: it waits, and leaves the processor to others. */
Test(situations, who_waits_for_copies_does_not_spin)
{
    enum { EVENTS_MAX = 20000 }; /* a second; without pause it takes thirty times as many */
    uint32_t waited = 0;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct group *group = group_create(seed);
        struct machine *damaged = &group->machines[0];
        start_all(group);
        run_on(group, leader_of(group), write_entries, ENTRIES);
        run_until(group, is_whole(group, damaged));
        for (uint32_t i = 0; i < MACHINES; i++)
            kill_machine(&group->machines[i]);
        damage_log(damaged);
        boot(damaged);
        run_until(group, raft_of(damaged) != NULL);
        uint64_t before = group->world.events;
        run_for(group, NS_PER_S);
        waited += repair_stats(damaged->node->repair)->faulty > 0;
        cr_expect_lt(group->world.events - before, EVENTS_MAX);
        group_destroy(group);
    }
    cr_expect_gt(waited, 0);
}
