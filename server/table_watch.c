#include "server/table_watch.h"

#include <errno.h>

#include "core/invariant.h"
#include "core/logger.h"
#include "server/failover.h"
#include "server/kv_codec.h"
#include "server/leadership.h"
#include "server/member_request.h"
#include "server/node_private.h"
#include "server/raft_driver.h"
#include "storage/lsm/lsm.h"

void table_watch_init(struct table_watch *watch, struct node *node)
{
    *watch = (struct table_watch){.node = node};
}

/* ---- the alarm ------------------------------------------------------------------------------ */

/* Past the queue of requests, which waits for it. A change of members that waits there is overtaken
 * by it and fails at once (server/pending.h), where it would have waited for its deadline. Nobody
 * waits for the alarm's own result. Returns the index of its entry, or 0: later. */
static uint64_t raise_no_space(const struct node *node)
{
    struct raft_driver *driver = node->raft;
    uint8_t body[24];
    uint64_t index = 0;
    struct alarm_request alarm = {
        .action = ALARM_ACTIVATE, .member = node->identity.member_id, .kind = ALARM_NO_SPACE};
    uint8_t *end = kv_encode_alarm_request(body, &alarm);
    invariant((size_t)(end - body) <= sizeof(body));
    struct request request = {.kind = REQUEST_ALARM,
                              .origin = node->identity.member_id,
                              .stream = REQUEST_STREAM_MEMBERS,
                              .sequence = ++node->member_requests->sequence,
                              .body = bytes_make(body, (size_t)(end - body))};
    struct proposal *proposal = proposal_create(node->map.raft, (uint32_t)request.body.size);
    if (proposal == NULL)
        return 0;
    proposal_fill(proposal, &request);
    proposal->finished = true;
    struct entry entry = proposal_entry(proposal);
    if (raft_propose(&driver->raft, &entry, 1, &index) == 0)
        proposal_enter_log(proposal);
    else
        index = 0;
    proposal_destroy(proposal);
    return index;
}

/* Also when it is disarmed before there is room: else clients would wait for nothing again. */
static void keep_alarm_raised(struct table_watch *watch, int failure)
{
    const struct node *node = watch->node;
    if (err_is_no_room(failure) && alarm_admit_write(&node->shared, true) == 0 &&
        node->raft->raft.log.applied_index >= watch->alarm_index)
        watch->alarm_index = raise_no_space(node);
}

/* ---- leading -------------------------------------------------------------------------------- */

static void round_end(struct table_watch *watch)
{
    watch->offered = (struct raft_id_set){0};
    watch->round_ns = 0;
}

static void stay(struct table_watch *watch, int failure, uint64_t now_ns)
{
    log_error("tables cannot be written, and nobody else takes the leadership: writes wait",
              LOG_U64("full_ms", watch->idle_ns / NS_PER_MS), LOG_ERROR(failure));
    round_end(watch);
    watch->retry_ns = now_ns + TABLE_WATCH_RETRY_NS;
}

/* Voters that were not offered it may be silent for a moment only: after a pause of this process
 * nobody was heard yet. */
static bool is_hearing(const struct table_watch *watch)
{
    const struct raft *raft = &watch->node->raft->raft;
    uint64_t offers = watch->offered.count; /* they took a timeout each */
    uint64_t until_ns = watch->round_ns +
                        (offers + TABLE_WATCH_HEARING_TIMEOUTS) * raft->options.election_timeout_ns;
    return offers + 1 < raft->config.voters.count && watch->idle_ns < until_ns;
}

/* Consensus gives an offer up after an election timeout; then the next one gets it. */
static void offer(struct table_watch *watch, int failure, uint64_t now_ns)
{
    struct raft *raft = &watch->node->raft->raft;
    if (raft->transferee != 0)
        return;
    if (now_ns < watch->retry_ns) {
        keep_alarm_raised(watch, failure);
        return;
    }
    if (watch->round_ns == 0)
        watch->round_ns = watch->idle_ns;
    const struct raft_peer *heir = leadership_heir(raft, &watch->offered);
    if (heir == NULL) {
        if (!is_hearing(watch))
            stay(watch, failure, now_ns);
        return;
    }
    uint64_t to = heir->id;
    if (raft_transfer(raft, to) < 0 || !raft_id_set_add(&watch->offered, to))
        return; /* no room for the message: soon */
    watch->moves++;
    log_warn("tables cannot be written; handing leadership over", LOG_HEX("to", to),
             LOG_U64("full_ms", watch->idle_ns / NS_PER_MS), LOG_ERROR(failure));
}

/* ---- campaigning ---------------------------------------------------------------------------- */

static void restrict_campaigns(struct table_watch *watch, bool behind, uint64_t now_ns)
{
    struct raft *raft = &watch->node->raft->raft;
    uint64_t patience_ns = TABLE_WATCH_YIELD_TIMEOUTS * raft->options.election_timeout_ns;
    if (raft->leader != 0)
        watch->led_ns = now_ns;
    bool restricted =
        behind && raft->config.voters.count > 1 && now_ns - watch->led_ns < patience_ns;
    if (restricted == raft->restricted)
        return;
    if (behind)
        log_warn(restricted ? "tables are behind: this member does not campaign"
                            : "tables are behind, but nobody else leads: this member campaigns");
    raft_restrict(raft, restricted);
}

/* ---- looking -------------------------------------------------------------------------------- */

static bool is_stuck(struct table_watch *watch, const struct table_signs *signs, uint64_t now_ns)
{
    uint64_t ran_ns = u64_min(now_ns - watch->seen_ns, FAILOVER_WATCH_NS);
    bool gets_on = signs->pressure < LSM_PRESSURE_FULL || signs->installs != watch->installs;
    watch->seen_ns = now_ns;
    watch->installs = signs->installs;
    watch->idle_ns = gets_on ? 0 : watch->idle_ns + ran_ns;
    uint64_t timeout_ns = watch->node->raft->raft.options.election_timeout_ns;
    return watch->idle_ns > (signs->failure != 0 ? timeout_ns : TABLE_WATCH_STUCK_NS_MAX);
}

void table_watch_look(struct table_watch *watch, const struct table_signs *signs, uint64_t now_ns)
{
    const struct raft *raft = &watch->node->raft->raft;
    bool stuck = is_stuck(watch, signs, now_ns);
    if (signs->apply_waits)
        watch->waited_ns = now_ns;
    bool waited =
        watch->waited_ns != 0 && now_ns - watch->waited_ns < raft->options.election_timeout_ns;
    restrict_campaigns(watch, stuck || waited, now_ns);
    bool leads = raft->role == RAFT_ROLE_LEADER;
    if (stuck && leads) {
        offer(watch, signs->failure, now_ns);
        return;
    }
    round_end(watch);
    if (!leads || signs->pressure < LSM_PRESSURE_FULL) /* else one step was made, of many */
        watch->retry_ns = watch->alarm_index = 0;
}
