#include "server/repair.h"

#include <stdlib.h>

#include "core/fiber.h"
#include "core/invariant.h"
#include "core/logger.h"
#include "server/message.h"
#include "server/node_private.h"
#include "server/peer_codec.h"
#include "server/peer_role.h"
#include "server/raft_driver.h"
#include "server/snapshot_send.h"
#include "storage/lsm/lsm.h"

#define POLL_NS         (20 * NS_PER_MS)
#define ANSWER_NS_MAX   (500 * NS_PER_MS) /* then the next member is asked */
#define BURN_TRIES_MAX  16
#define ROUND_PAUSE_NS  (250 * NS_PER_MS) /* after all of them said no */
#define SILENT_TIMEOUTS 10 /* election timeouts without a leader: who is silent may stay so */

struct question {
    uint64_t from; /* 0: free */
    struct peer_repair_request request;
};

/* Entries of one answer on their way into our log. */
struct copies {
    struct log_repair log;
    struct peer_body *body; /* NULL: a cut */
    struct entry entries[];
};

struct repair {
    struct node *node;
    struct core *core;
    struct faults faults;
    struct timer timer;
    bool stopping;
    struct fiber_event *stopped;

    /* Our question. */
    uint64_t asked; /* member; 0: none is under way */
    uint64_t asked_ns, asked_before;
    uint64_t sought;   /* the lowest faulty entry */
    uint64_t heard_ns; /* for how long we listened for it without a leader, up to... */
    uint64_t seen_ns;  /* ...this moment */
    struct peer_repair_request request;
    uint64_t burn;       /* the term in which answers count as final; 0: not that far */
    uint64_t burn_floor; /* the highest term that an answer told */
    uint32_t burn_tries; /* questions in it that were answered before the disk had it */
    uint64_t pause_until_ns;
    struct copies *copies; /* being written */

    /* Questions of others. */
    struct question questions[RAFT_MEMBERS_MAX];
    bool answering;

    struct repair_stats stats;
};

static struct raft *raft_of(const struct repair *repair)
{
    return &repair->node->raft->raft;
}

static struct peers *peers_of(const struct repair *repair)
{
    return repair->node->peers->peers;
}

/* ---- what is damaged ------------------------------------------------------------------------ */

/* What was released, or replaced by another leader, is nobody's concern any more. */
static void forget_gone(struct repair *repair)
{
    struct faults *faults = &repair->faults;
    const struct raft_log *log = &raft_of(repair)->log;
    faults_remove(faults, 1, log->compacted_index);
    while (faults->count > 0) {
        const struct fault *run = &faults->runs[faults->count - 1];
        uint64_t term = 0;
        if (run->last <= log->last_index && raft_log_term(log, run->last, &term) == 0 &&
            term == run->term)
            break;
        uint64_t from = run->last;
        if (run->last > log->last_index)
            from = u64_max(run->first, log->last_index + 1);
        faults_remove(faults, from, run->last);
    }
}

/* Consensus and metrics follow the list. What the apply lane has been given already is its own to
 * read. */
static void publish(struct repair *repair)
{
    struct raft *raft = raft_of(repair);
    forget_gone(repair);
    uint64_t count = faults_entry_count(&repair->faults);
    if (count == 0 && repair->stats.faulty > 0)
        log_info("the log is whole again", LOG_U64("repaired", repair->stats.repaired),
                 LOG_U64("dropped", repair->stats.dropped));
    repair->stats.faulty = count;
    raft_set_faulty(raft, faults_first_after(&repair->faults, raft->log.applying_index));
    if (count > 0 && !timer_is_armed(&repair->timer) && !repair->stopping)
        timer_start(core_timers(repair->core), &repair->timer, core_now_ns(repair->core));
}

/* ---- asking --------------------------------------------------------------------------------- */

static uint64_t next_member(const struct repair *repair)
{
    const struct peers *peers = peers_of(repair);
    uint64_t leader = raft_of(repair)->leader;
    if (leader != 0 && !faults_has_answer(&repair->faults, leader) &&
        peers_connected(peers, leader, PEER_LANE_CONTROL) && repair->asked_before != leader)
        return leader; /* it surely has what is committed */
    uint64_t id = repair->asked_before;
    for (uint32_t i = 0; i < PEERS_MAX; i++) {
        id = peers_next_connected(peers, id, PEER_LANE_CONTROL);
        if (id != 0 && !faults_has_answer(&repair->faults, id))
            return id;
    }
    return 0;
}

static void ask(struct repair *repair, uint64_t member)
{
    const struct fault *run = &repair->faults.runs[0];
    repair->request = (struct peer_repair_request){
        .first = run->first,
        .last = run->last,
        .term = run->term,
        .burn = repair->burn,
        .wanted = run->first > raft_of(repair)->log.applied_index,
    };
    struct peer_frame_out frame = {.kind = PEER_MESSAGE_REPAIR_REQUEST,
                                   .lane = PEER_LANE_CONTROL,
                                   .to = member,
                                   .meta_bytes = PEER_REPAIR_REQUEST_BYTES};
    repair->asked_before = member;
    uint8_t *meta = peers_send_begin(peers_of(repair), &frame);
    if (meta == NULL)
        return;
    peer_codec_encode_repair_request(meta, &repair->request);
    peers_send_end(peers_of(repair), &frame);
    peers_flush(peers_of(repair));
    repair->asked = member;
    repair->asked_ns = core_now_ns(repair->core);
}

/* Time in which this process stood still does not count: nobody could be heard. */
static void note_time(struct repair *repair)
{
    uint64_t first = repair->faults.runs[0].first, now_ns = core_now_ns(repair->core);
    if (repair->sought != first || raft_of(repair)->leader != 0)
        repair->heard_ns = 0;
    else
        repair->heard_ns += u64_min(now_ns - repair->seen_ns, 2 * POLL_NS);
    repair->sought = first;
    repair->seen_ns = now_ns;
}

/* Nobody has the lowest faulty entry, as far as they said, and no leader will settle it. Who has
 * not said anything yet gets time to. */
static bool may_be_dropped(const struct repair *repair)
{
    const struct raft *raft = raft_of(repair);
    uint64_t first = repair->faults.runs[0].first;
    uint64_t patience_ns = SILENT_TIMEOUTS * raft->options.election_timeout_ns;
    bool heard = faults_all_told(&repair->faults, &raft->config, raft->options.id) ||
                 repair->heard_ns >= patience_ns;
    return heard && raft->leader == 0 && raft->role == RAFT_ROLE_FOLLOWER &&
           first > raft->log.committed_index &&
           !log_notes_has_config(&repair->node->raft->notes, raft->log.applied_index + 1, first) &&
           faults_dispensable(&repair->faults, &raft->config, raft->options.id);
}

/* Nothing of the tail may stay on disk: a leader that reads its log back for another member must
 * not find what stood there. It leads only when its vote is durable, and that is behind the cut. */
static void cut_log(struct repair *repair, uint64_t last)
{
    struct copies *cut = calloc(1, sizeof(*cut));
    if (cut == NULL)
        fatal("out of memory for a cut of the log");
    cut->log.cut_to = last;
    repair->copies = cut;
    struct mesh_message message = {.kind = MESSAGE_LOG_REPAIR, .word = {(uintptr_t)&cut->log}};
    core_post(repair->core, repair->node->map.log, &message);
}

static void drop_tail(struct repair *repair)
{
    struct raft *raft = raft_of(repair);
    invariant(repair->copies == NULL);
    uint64_t first = repair->faults.runs[0].first, last = raft->log.last_index;
    log_warn("log entries that no member has were never committed; the log ends before them",
             LOG_U64("kept_to", first - 1), LOG_U64("dropped_to", last));
    repair->stats.dropped += last - first + 1;
    raft_drop_tail(raft, first);
    cut_log(repair, first - 1);
    publish(repair);
}

/* Every connected member said no. */
static void round_ended(struct repair *repair)
{
    struct raft *raft = raft_of(repair);
    bool dispensable = may_be_dropped(repair);
    uint64_t term = u64_max(raft->term, repair->burn_floor) + 1;
    if (dispensable && repair->burn != 0 &&
        raft_term_is_burnt(raft, repair->burn, raft->options.id)) {
        repair->burn = 0;
        drop_tail(repair);
        return;
    }
    repair->burn = dispensable && raft_burn_term(raft, term, raft->options.id) ? term : 0;
    repair->burn_tries = 0;
    faults_forget_answers(&repair->faults);
    uint64_t pause_ns = repair->burn != 0 ? POLL_NS : ROUND_PAUSE_NS;
    uint64_t jitter_ns = reactor_random(core_reactor(repair->core)) % pause_ns; /* two may ask */
    repair->pause_until_ns = core_now_ns(repair->core) + pause_ns + jitter_ns;
}

static void go_on(struct repair *repair)
{
    uint64_t now_ns = core_now_ns(repair->core);
    if (repair->copies != NULL || repair->stopping)
        return;
    publish(repair);
    if (repair->faults.count == 0)
        return;
    note_time(repair);
    if (now_ns < repair->pause_until_ns)
        return;
    if (repair->asked != 0 && now_ns - repair->asked_ns < ANSWER_NS_MAX)
        return;
    if (repair->burn != 0 && raft_of(repair)->term != repair->burn) {
        repair->burn = 0; /* others moved on: what they said of it is void */
        faults_forget_answers(&repair->faults);
    }
    if (repair->asked != 0) /* no answer in time */
        faults_answered(&repair->faults, repair->asked, FAULT_ANSWER_LATER);
    repair->asked = 0;
    uint64_t member = next_member(repair);
    if (member != 0)
        ask(repair, member);
    else
        round_ended(repair);
}

static void on_timer(struct timer *timer)
{
    struct repair *repair = container_of(timer, struct repair, timer);
    raft_driver_see_time(repair->node->raft);
    if (repair->faults.count > 0 && !repair->stopping) /* before publish() starts it at once */
        timer_start(core_timers(repair->core), timer, core_now_ns(repair->core) + POLL_NS);
    go_on(repair);
}

/* ---- answers -------------------------------------------------------------------------------- */

static int write_copies(struct repair *repair, const struct peer_input *input,
                        const struct entry *entries, uint32_t count)
{
    struct copies *copies = malloc(sizeof(*copies) + count * sizeof(struct entry));
    if (copies == NULL)
        return ERR_FULL;
    *copies = (struct copies){.body = input->body};
    if (copies->body != NULL)
        peer_body_keep(copies->body);
    memcpy(copies->entries, entries, count * sizeof(struct entry));
    copies->log.entries = copies->entries;
    copies->log.entry_count = count;
    repair->copies = copies;
    struct mesh_message message = {.kind = MESSAGE_LOG_REPAIR, .word = {(uintptr_t)&copies->log}};
    core_post(repair->core, repair->node->map.log, &message);
    return 0;
}

static void on_repaired(void *context, struct core *core maybe_unused,
                        const struct mesh_message *message)
{
    struct repair *repair = context;
    struct copies *copies =
        container_of((struct log_repair *)(uintptr_t)message->word[0], struct copies, log);
    invariant(copies == repair->copies);
    repair->copies = NULL;
    forget_gone(repair);
    for (uint32_t i = 0; i < copies->log.entry_count; i++) {
        const struct entry *entry = &copies->entries[i];
        const struct fault *run = faults_find(&repair->faults, entry->index);
        if (run == NULL || run->term != entry->term)
            continue; /* replaced while it was written */
        log_notes_learn(&repair->node->raft->notes, entry->index, entry->type,
                        entry->payload_bytes);
        faults_remove(&repair->faults, entry->index, entry->index);
        repair->stats.repaired++;
    }
    if (copies->body != NULL)
        peer_body_release(copies->body);
    free(copies);
    publish(repair);
    if (repair->stopping)
        fiber_event_signal(repair->stopped);
    else
        go_on(repair);
}

/* Tables contain the entry, and another member's log begins after it: ours may too. */
static bool release_instead(struct repair *repair)
{
    const struct fault *run = &repair->faults.runs[0];
    uint64_t last = u64_min(run->last, lsm_flushed_index(repair->node->lsm));
    last = u64_min(last, raft_of(repair)->log.applied_index);
    if (last < run->first)
        return false;
    raft_driver_release(repair->node->raft, last);
    publish(repair);
    return true;
}

int repair_answered(struct repair *repair, const struct peer_input *input)
{
    struct peer_repair_answer answer;
    struct entry *entries = repair->node->peers->entries;
    int error = peer_codec_decode_repair_answer(input, &answer, entries);
    if (error < 0)
        return error;
    uint64_t from = input->header.from;
    repair->burn_floor = u64_max(repair->burn_floor, answer.own_term);
    forget_gone(repair);
    bool fits = repair->copies == NULL && !repair->stopping && repair->faults.count > 0 &&
                answer.first == repair->faults.runs[0].first &&
                answer.term == repair->faults.runs[0].term;
    if (!fits)
        return 0; /* of what is not missing, or not any more */
    const struct fault *run = &repair->faults.runs[0];
    if (answer.answer == FAULT_ANSWER_ENTRIES) { /* welcome, however late */
        uint64_t count = u64_min(answer.count, run->last - run->first + 1);
        repair->asked = from == repair->asked ? 0 : repair->asked;
        return write_copies(repair, input, entries, (uint32_t)count);
    }
    if (from != repair->asked || answer.burn != repair->burn)
        return 0; /* to an earlier question */
    repair->asked = 0;
    if (answer.answer == FAULT_ANSWER_COMPACTED && release_instead(repair))
        return 0;
    bool soon = answer.answer == FAULT_ANSWER_LATER && repair->burn != 0 &&
                answer.own_term == repair->burn && ++repair->burn_tries < BURN_TRIES_MAX;
    if (soon) /* it burns the term, and its disk is at work */
        repair->pause_until_ns = core_now_ns(repair->core) + POLL_NS;
    else
        faults_answered(&repair->faults, from, answer.answer);
    go_on(repair);
    return 0;
}

/* ---- others' questions ---------------------------------------------------------------------- */

static void answer_send(struct repair *repair, const struct question *question,
                        enum fault_answer what, const struct entry *const *entries, uint32_t count)
{
    struct peer_repair_answer answer = {.first = question->request.first,
                                        .term = question->request.term,
                                        .burn = question->request.burn,
                                        .own_term = raft_of(repair)->term,
                                        .answer = what,
                                        .count = count};
    uint64_t payload_bytes = 0;
    for (uint32_t i = 0; i < count; i++)
        payload_bytes += entries[i]->payload_bytes;
    struct peer_frame_out frame = {.kind = PEER_MESSAGE_REPAIR_ANSWER,
                                   .lane = PEER_LANE_BULK,
                                   .to = question->from,
                                   .meta_bytes = peer_codec_repair_answer_bytes(count),
                                   .payload_bytes = (uint32_t)payload_bytes};
    uint8_t *meta = peers_send_begin(peers_of(repair), &frame);
    if (meta == NULL)
        return; /* it asks again */
    uint8_t *at = peer_codec_encode_repair_answer(meta, &answer, entries);
    for (uint32_t i = 0; i < count; i++) {
        if (entries[i]->payload_bytes > 0)
            memcpy(at, entries[i]->payload, entries[i]->payload_bytes);
        at += entries[i]->payload_bytes;
    }
    peers_send_end(peers_of(repair), &frame);
    peers_flush(peers_of(repair));
    repair->stats.served += count;
}

/* FAULT_ANSWER_ENTRIES: to be read from the window or the log. */
static enum fault_answer answer_to(struct repair *repair, const struct question *question)
{
    struct raft *raft = raft_of(repair);
    const struct peer_repair_request *request = &question->request;
    const struct fault *own = faults_find(&repair->faults, request->first);
    uint64_t term = 0;
    if (request->first <= raft->log.compacted_index)
        return FAULT_ANSWER_COMPACTED;
    if (request->first <= raft->log.last_index &&
        raft_log_term(&raft->log, request->first, &term) != 0)
        return FAULT_ANSWER_LATER;
    if (term == request->term && own == NULL)
        return FAULT_ANSWER_ENTRIES;
    if (raft->leader != 0)
        return FAULT_ANSWER_LATER; /* it settles this; nobody's term needs to move */
    if (request->burn != 0 && !raft_term_is_burnt(raft, request->burn, question->from)) {
        bool begun = raft_burn_term(raft, request->burn, question->from);
        sometimes(begun, "repair: a term is burnt");
        return FAULT_ANSWER_LATER; /* when the disk has it; else the answer tells our term */
    }
    if (term != request->term)
        return FAULT_ANSWER_NEVER;
    invariant(own->term == term);
    return own->proven ? FAULT_ANSWER_LOST : FAULT_ANSWER_UNSURE;
}

/* As many as are in the window of consensus. */
static bool answer_from_window(struct repair *repair, const struct question *question)
{
    const struct entry **entries = repair->node->peers->entry_pointers;
    const struct peer_repair_request *request = &question->request;
    uint64_t bytes = 0;
    uint32_t count = 0;
    for (uint64_t index = request->first; index <= request->last; index++) {
        const struct entry *entry = raft_entry(raft_of(repair), index);
        if (entry == NULL || entry->term != request->term || count == PEER_ENTRIES_MAX ||
            (count > 0 && bytes + entry->payload_bytes > REPAIR_BYTES))
            break;
        bytes += entry->payload_bytes;
        entries[count++] = entry;
    }
    if (count > 0)
        answer_send(repair, question, FAULT_ANSWER_ENTRIES, entries, count);
    return count > 0;
}

static void answer_from_log(struct repair *repair, const struct question *question)
{
    const struct peer_repair_request *request = &question->request;
    struct log_copy copy;
    int64_t read = log_role_read(repair->node, request->first, request->last, REPAIR_BYTES, &copy);
    if (read <= 0) {
        answer_send(repair, question, FAULT_ANSWER_LATER, NULL, 0);
        if (read == ERR_CORRUPT)
            repair_found(repair, request->first);
        return;
    }
    const struct entry **entries = repair->node->peers->entry_pointers;
    uint32_t count = 0;
    while (count < copy.entry_count && count < PEER_ENTRIES_MAX &&
           copy.entries[count].term == request->term) {
        entries[count] = &copy.entries[count];
        count++;
    }
    answer_send(repair, question, count > 0 ? FAULT_ANSWER_ENTRIES : FAULT_ANSWER_LATER, entries,
                count);
    log_copy_destroy(&copy);
}

static void answer_run(void *argument)
{
    struct repair *repair = argument;
    for (uint32_t i = 0; i < RAFT_MEMBERS_MAX; i++) {
        struct question question = repair->questions[i];
        repair->questions[i].from = 0;
        if (question.from != 0 && !repair->stopping)
            answer_from_log(repair, &question);
    }
    repair->answering = false;
    if (repair->stopping)
        fiber_event_signal(repair->stopped);
}

static void answer_later(struct repair *repair, const struct question *question)
{
    struct question *free = NULL;
    for (uint32_t i = 0; i < RAFT_MEMBERS_MAX; i++)
        if (repair->questions[i].from == question->from ||
            (repair->questions[i].from == 0 && free == NULL))
            free = &repair->questions[i];
    if (free == NULL || repair->stopping)
        return;
    *free = *question;
    if (!repair->answering)
        repair->answering = fiber_spawn(repair->core, FIBER_BACKGROUND, answer_run, repair) == 0;
}

int repair_requested(struct repair *repair, const struct peer_input *input)
{
    struct question question = {.from = input->header.from};
    struct snapshot_send *tables = repair->node->peers->snapshot_send;
    int error = peer_codec_decode_repair_request(input, &question.request);
    if (error < 0)
        return error;
    forget_gone(repair); /* publish() may not have run since; what is said may be final */
    enum fault_answer answer = answer_to(repair, &question);
    if (answer != FAULT_ANSWER_ENTRIES) {
        answer_send(repair, &question, answer, NULL, 0);
        if (answer == FAULT_ANSWER_COMPACTED && question.request.wanted &&
            raft_of(repair)->role == RAFT_ROLE_LEADER && snapshot_send_is_idle(tables)) {
            snapshot_send_start(tables, question.from);
            repair->stats.tables++;
        }
    } else if (!answer_from_window(repair, &question)) {
        answer_later(repair, &question);
    }
    return 0;
}

/* ---- life ----------------------------------------------------------------------------------- */

struct repair *repair_create(struct node *node, struct core *core)
{
    struct repair *repair = calloc(1, sizeof(*repair));
    if (repair == NULL)
        return NULL;
    repair->node = node;
    repair->core = core;
    faults_init(&repair->faults);
    timer_init(&repair->timer, on_timer);
    core_handle(core, MESSAGE_LOG_REPAIRED, on_repaired, repair);
    log_role_faults(node, &repair->faults);
    return repair;
}

void repair_start(struct repair *repair)
{
    uint64_t count = faults_entry_count(&repair->faults);
    if (count > 0)
        log_warn("log entries are damaged here; the other members are asked for them",
                 LOG_U64("entries", count), LOG_U64("first", repair->faults.runs[0].first),
                 LOG_U64("ranges", repair->faults.count));
    publish(repair);
}

void repair_found(struct repair *repair, uint64_t index)
{
    uint64_t term = 0;
    const struct raft_log *log = &raft_of(repair)->log;
    if (repair->stopping || index > log->applied_index ||
        faults_find(&repair->faults, index) != NULL || raft_log_term(log, index, &term) != 0)
        return; /* on its way to the disk maybe, or known, or gone meanwhile */
    struct fault fault = {.first = index, .last = index, .term = term, .proven = true};
    log_error("a log entry cannot be read back; the other members are asked for it",
              LOG_U64("index", index));
    faults_add(&repair->faults, &fault);
    publish(repair);
}

void repair_stop(struct repair *repair)
{
    struct fiber_event stopped;
    fiber_event_init(&stopped);
    repair->stopped = &stopped;
    repair->stopping = true;
    timer_stop(core_timers(repair->core), &repair->timer);
    while (repair->answering || repair->copies != NULL)
        fiber_event_wait(&stopped);
}

void repair_destroy(struct repair *repair)
{
    if (repair == NULL)
        return;
    faults_deinit(&repair->faults);
    free(repair);
}

const struct repair_stats *repair_stats(const struct repair *repair)
{
    return &repair->stats;
}
