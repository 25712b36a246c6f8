#include "net/peer.h"

#include <errno.h>
#include <stdlib.h>

#include "core/err.h"
#include "core/invariant.h"
#include "core/logger.h"
#include "net/peer_link.h"

#define REDIAL_NS_MIN   (10 * NS_PER_MS)
#define REDIAL_NS_MAX   (1 * NS_PER_S)
#define TICK_NS         (20 * NS_PER_MS)
#define PING_NS         (500 * NS_PER_MS)
#define PAUSE_NS        (200 * NS_PER_MS) /* a tick that comes so late tells that we stood still */
#define GREETING_NS_MAX (5 * NS_PER_S)    /* for a whole greeting, from the first byte on */
#define BULK_SILENCES   4 /* a bulk lane may be silent for this many times silence_ns */
#define TARGET_NONE     UINT32_MAX

/* Kinds of the transport between PEER_KIND_ANSWER and PEER_KIND_USER. */
enum { KIND_PING = 6, KIND_PONG = 7 };

/* meta of a greeting: lane u8, zero u8 x 3, then the detail. Of a refusal: the error, i32. */
#define GREETING_FIXED_BYTES 4

static const uint64_t queued_bytes_max[PEER_LANE_COUNT] = {4 * MIB, 64 * MIB, 8 * MIB};

/* One URL of a member, and what its host was found to be.
 * T1  `fresh`: `known`, and no dial of it failed and no connection ended since it was found. */
struct peer_target {
    struct peer_address url;
    struct io_lookup *lookup;  /* under way; NULL: none */
    struct io_address address; /* the last good one, if `known` */
    bool known, fresh;
};

struct peer_dial {
    struct peer_link *link; /* NULL between attempts */
    uint32_t target;        /* that `link` was dialled at; TARGET_NONE: one it has no more */
    uint64_t due_ns;        /* of the next attempt */
    uint64_t backoff_ns;
};

struct peer {
    uint64_t id; /* 0: free slot */
    struct peer_target targets[PEER_ADDRESSES_MAX];
    uint32_t target_count, target_next;
    uint64_t incarnation; /* newest that greeted us */
    uint64_t heard_ns;
    struct peer_dial lanes[PEER_LANE_COUNT];
};

struct peers {
    struct core *core;
    struct peer_options options;
    struct outbuf_pool chunks;
    struct peer members[PEERS_MAX];
    struct peer_link *links; /* all, dialled and accepted */
    uint32_t link_count;
    struct timer tick;
    uint64_t ticked_ns;
    bool stopping;
    struct fiber_event *stopped;
    struct peer_stats stats;
};

static struct peer *peer_find(const struct peers *peers, uint64_t id)
{
    for (uint32_t i = 0; id != 0 && i < PEERS_MAX; i++)
        if (peers->members[i].id == id)
            return (struct peer *)&peers->members[i];
    return NULL;
}

static struct peer_link *lane_link(const struct peers *peers, uint64_t id, enum peer_lane lane)
{
    const struct peer *peer = peer_find(peers, id);
    struct peer_link *link = peer == NULL ? NULL : peer->lanes[lane].link;
    return link != NULL && link->greeted && !link->closing ? link : NULL;
}

static struct peer_header header_make(const struct peers *peers, uint16_t kind, uint64_t to,
                                      uint32_t meta_bytes)
{
    return (struct peer_header){.kind = kind,
                                .meta_bytes = meta_bytes,
                                .cluster = peers->options.cluster,
                                .from = peers->options.self,
                                .to = to,
                                .incarnation = peers->options.incarnation};
}

static void send_small(struct peers *peers, struct peer_link *link, uint16_t kind, const void *meta,
                       uint32_t meta_bytes)
{
    struct peer_header header = header_make(peers, kind, link->id, meta_bytes);
    uint8_t *to = peer_link_frame_begin(link, meta_bytes, 0);
    if (meta_bytes > 0)
        memcpy(to, meta, meta_bytes);
    peer_link_frame_end(link, &header);
    peer_link_flush(link);
}

/* ---- where they are ------------------------------------------------------------------------- */

/* Finds the target's address again unless it is fresh. -EINPROGRESS: ask again in a later tick. */
static int target_refresh(struct peers *peers, struct peer_target *target)
{
    struct io_address found;
    if (target->fresh)
        return 0;
    int error = reactor_resolve_aside(core_reactor(peers->core), &target->lookup, target->url.host,
                                      target->url.port, &found);
    if (error == 0) {
        target->address = found;
        target->known = target->fresh = true;
    }
    return error;
}

static void target_drop_lookup(struct peer_target *target)
{
    io_lookup_drop(target->lookup);
    target->lookup = NULL;
}

/* It answers: a lookup of it, if one still runs, would be old news when it is needed. */
static void target_is_good(struct peer_target *target)
{
    target->fresh = target->known;
    target_drop_lookup(target);
}

/* It may have moved. Looked up at once: the next dial may know already. */
static void target_is_doubtful(struct peers *peers, struct peer_target *target)
{
    target->fresh = false;
    int error = target_refresh(peers, target);
    (void)error; /* that dial looks again */
}

static void targets_drop_lookups(struct peer *peer)
{
    for (uint32_t i = 0; i < peer->target_count; i++)
        target_drop_lookup(&peer->targets[i]);
}

/* ---- greeting ------------------------------------------------------------------------------- */

static void send_hello(struct peers *peers, struct peer_link *link)
{
    struct bytes detail = peers->options.detail;
    uint32_t meta_bytes = GREETING_FIXED_BYTES + (uint32_t)detail.size;
    struct peer_header header = header_make(peers, PEER_KIND_HELLO, link->id, meta_bytes);
    uint8_t *meta = peer_link_frame_begin(link, meta_bytes, 0);
    le32_store(meta, 0);
    meta[0] = link->lane;
    if (detail.size > 0)
        memcpy(meta + GREETING_FIXED_BYTES, detail.data, detail.size);
    peer_link_frame_end(link, &header);
}

static void refuse(struct peers *peers, struct peer_link *link, int error)
{
    uint8_t meta[4];
    le32_store(meta, (uint32_t)error);
    peers->stats.greetings_refused++;
    send_small(peers, link, PEER_KIND_REFUSAL, meta, sizeof(meta));
    peer_link_close_when_sent(link, error);
}

/* An older process of the same member may still have connections: they end here. */
static void close_older(struct peers *peers, const struct peer_link *link)
{
    for (struct peer_link *other = peers->links; other != NULL; other = other->next)
        if (other->id == link->id && other->greeted && other->incarnation < link->incarnation)
            peer_link_close(other, ERR_CLOSED);
}

static int on_hello(struct peers *peers, struct peer_link *link, const struct peer_input *input)
{
    const struct peer_header *header = &input->header;
    if (header->meta_bytes < GREETING_FIXED_BYTES || header->meta_bytes > PEER_HELLO_BYTES_MAX ||
        input->meta[0] >= PEER_LANE_COUNT || header->from == 0)
        return ERR_MALFORMED;
    link->id = header->from;
    link->incarnation = header->incarnation;
    link->lane = input->meta[0];
    struct peer_greeting greeting = {.id = header->from,
                                     .incarnation = header->incarnation,
                                     .detail =
                                         bytes_make(input->meta + GREETING_FIXED_BYTES,
                                                    header->meta_bytes - GREETING_FIXED_BYTES)};
    int error = 0;
    if (header->cluster != peers->options.cluster)
        error = ERR_CLUSTER_MISMATCH;
    else if (header->to != peers->options.self)
        error = ERR_MEMBER_NOT_FOUND;
    else
        error = peers->options.events.admit(peers->options.events.context, &greeting);
    struct peer *peer = peer_find(peers, link->id); /* admitting may have added it */
    if (error == 0 && peer != NULL && header->incarnation < peer->incarnation) {
        peers->stats.frames_stale++;
        return ERR_CLOSED;
    }
    if (error < 0) {
        refuse(peers, link, error);
        return 0;
    }
    link->greeted = true;
    close_older(peers, link);
    if (peer != NULL) {
        peer->incarnation = header->incarnation;
        for (uint32_t i = 0; i < PEER_LANE_COUNT; i++) { /* it is up: do not wait */
            peer->lanes[i].due_ns = 0;
            peer->lanes[i].backoff_ns = REDIAL_NS_MIN;
        }
    }
    send_small(peers, link, PEER_KIND_WELCOME, NULL, 0);
    return 0;
}

static int on_welcome(struct peers *peers, struct peer_link *link, const struct peer_header *header)
{
    struct peer *peer = peer_find(peers, link->id);
    if (link->greeted || peer == NULL)
        return ERR_MALFORMED;
    link->greeted = true;
    link->incarnation = header->incarnation;
    peer->lanes[link->lane].backoff_ns = REDIAL_NS_MIN;
    const struct peer_dial *dialled = &peer->lanes[link->lane];
    if (dialled->link == link) {
        invariant(dialled->target != TARGET_NONE); /* else it was greeted before */
        target_is_good(&peer->targets[dialled->target]);
    }
    peers->options.events.connected(peers->options.events.context, link->id,
                                    (enum peer_lane)link->lane);
    return 0;
}

static int on_refusal(struct peers *peers, const struct peer_link *link,
                      const struct peer_input *input)
{
    if (link->greeted || input->header.meta_bytes != 4)
        return ERR_MALFORMED;
    int error = (int)le32_load(input->meta);
    peers->options.events.refused(peers->options.events.context, link->id, error);
    return ERR_CLOSED;
}

/* ---- frames in ------------------------------------------------------------------------------ */

/* May `kind` arrive on this connection, in its present state? */
static bool kind_expected(const struct peer_link *link, uint16_t kind)
{
    switch (kind) {
    case PEER_KIND_HELLO:
    case PEER_KIND_QUESTION:
        return link->inbound && link->id == 0;
    case PEER_KIND_WELCOME:
    case PEER_KIND_REFUSAL:
        return !link->inbound && !link->greeted;
    case KIND_PING:
        return link->inbound && link->greeted;
    case KIND_PONG:
        return !link->inbound && link->greeted;
    default:
        return kind >= PEER_KIND_USER && link->inbound && link->greeted;
    }
}

static int misdirected(struct peers *peers)
{
    peers->stats.frames_misdirected++;
    return ERR_CLUSTER_MISMATCH;
}

static int on_header(void *context, const struct peer_header *header)
{
    struct peer_link *link = context;
    struct peers *peers = link->owner;
    if (link->close_when_sent)
        return ERR_CLOSED;
    if (!kind_expected(link, header->kind))
        return ERR_MALFORMED; /* counted when the connection is closed */
    if (header->kind < PEER_KIND_USER &&
        (header->payload_bytes > 0 || header->meta_bytes > PEER_HELLO_BYTES_MAX))
        return ERR_MALFORMED;
    /* Greetings and refusals between strangers are answered, so that the other end learns why. */
    if (header->kind == PEER_KIND_QUESTION || header->kind == PEER_KIND_REFUSAL)
        return 0;
    if (header->kind == PEER_KIND_HELLO) {
        if (header->cluster != peers->options.cluster || header->to != peers->options.self)
            peers->stats.frames_misdirected++;
        return 0;
    }
    if (header->cluster != peers->options.cluster || header->to != peers->options.self ||
        header->from != link->id)
        return misdirected(peers);
    if (link->greeted && header->incarnation != link->incarnation) {
        peers->stats.frames_stale++;
        return ERR_CLOSED;
    }
    return 0;
}

static int on_question(struct peers *peers, struct peer_link *link, const struct peer_input *input)
{
    const struct peer_events *events = &peers->options.events;
    if (events->question == NULL)
        return ERR_MALFORMED;
    uint8_t *answer = peer_link_frame_begin(link, PEER_META_BYTES_MAX, 0);
    int bytes = events->question(events->context, bytes_make(input->meta, input->header.meta_bytes),
                                 answer);
    if (bytes < 0)
        return bytes;
    struct peer_header header = header_make(peers, PEER_KIND_ANSWER, 0, (uint32_t)bytes);
    peer_link_frame_end(link, &header);
    peer_link_close_when_sent(link, ERR_CLOSED);
    return 0;
}

static int on_frame(void *context, const struct peer_input *input)
{
    struct peer_link *link = context;
    struct peers *peers = link->owner;
    struct peer *peer = peer_find(peers, link->id);
    if (peer != NULL)
        peer->heard_ns = core_now_ns(peers->core);
    peers->stats.frames_received++;
    peers->stats.bytes_received +=
        PEER_HEADER_BYTES + input->header.meta_bytes + input->header.payload_bytes;
    switch (input->header.kind) {
    case PEER_KIND_HELLO:
        return on_hello(peers, link, input);
    case PEER_KIND_WELCOME:
        return on_welcome(peers, link, &input->header);
    case PEER_KIND_REFUSAL:
        return on_refusal(peers, link, input);
    case PEER_KIND_QUESTION:
        return on_question(peers, link, input);
    case KIND_PING:
        send_small(peers, link, KIND_PONG, NULL, 0);
        return 0;
    case KIND_PONG:
        return 0;
    default:
        return peers->options.events.received(peers->options.events.context, input);
    }
}

/* ---- connections ---------------------------------------------------------------------------- */

static void on_opened(struct peer_link *link)
{
    struct peers *peers = link->owner;
    if (!link->inbound)
        send_hello(peers, link);
}

static void link_forget(struct peers *peers, struct peer_link *link)
{
    struct peer_link **at = &peers->links;
    while (*at != link)
        at = &(*at)->next;
    *at = link->next;
    peers->link_count--;
    if (peers->link_count == 0 && peers->stopped != NULL)
        fiber_event_signal(peers->stopped);
}

static void redial_later(struct peers *peers, struct peer_dial *dial)
{
    uint64_t jitter = reactor_random(core_reactor(peers->core)) % (dial->backoff_ns / 2 + 1);
    dial->due_ns = core_now_ns(peers->core) + dial->backoff_ns / 2 + jitter;
    dial->backoff_ns = u64_min(dial->backoff_ns * 2, REDIAL_NS_MAX);
}

static void on_closed(struct peer_link *link, int error)
{
    struct peers *peers = link->owner;
    struct peer *peer = peer_find(peers, link->id);
    if (error == ERR_MALFORMED || error == ERR_VERSION || error == ERR_LIMIT ||
        error == ERR_CORRUPT)
        peers->stats.frames_malformed++;
    link_forget(peers, link);
    if (peer != NULL && !link->inbound && peer->lanes[link->lane].link == link) {
        peer->lanes[link->lane].link = NULL;
        redial_later(peers, &peer->lanes[link->lane]);
        uint32_t target = peer->lanes[link->lane].target;
        if (!peers->stopping && target != TARGET_NONE)
            target_is_doubtful(peers, &peer->targets[target]);
        if (!link->greeted)
            peers->stats.dials_failed++;
    }
    if (!link->greeted)
        return;
    peers->stats.connections_lost++;
    if (!peers->stopping)
        log_info("peer connection lost", LOG_HEX("peer", link->id), LOG_U64("lane", link->lane),
                 LOG_TEXT("direction", link->inbound ? "in" : "out"), LOG_ERROR(error));
    if (!peers->stopping && peer != NULL)
        peers->options.events.lost(peers->options.events.context, link->id,
                                   (enum peer_lane)link->lane, link->inbound);
}

static const struct peer_link_calls link_calls = {
    .reader = {.header = on_header, .frame = on_frame}, .opened = on_opened, .closed = on_closed};

static struct peer_link *link_add(struct peers *peers)
{
    struct peer_link *link = peer_link_create(peers->core, &peers->chunks, &link_calls, peers);
    if (link == NULL)
        return NULL;
    link->next = peers->links;
    peers->links = link;
    peers->link_count++;
    return link;
}

/* False: no room for one more accepted connection. Members greet at once, so among those that have
 * not greeted the oldest is the least likely to be one. */
static bool links_in_make_room(struct peers *peers)
{
    struct peer_link *oldest_stranger = NULL;
    uint32_t open = 0, closing = 0;
    for (struct peer_link *link = peers->links; link != NULL; link = link->next) {
        if (!link->inbound)
            continue;
        open += !link->closing;
        closing += link->closing;
        if (!link->greeted && !link->closing)
            oldest_stranger = link; /* the list begins with the newest */
    }
    invariant(open <= PEER_LINKS_IN_MAX);
    if (open < PEER_LINKS_IN_MAX && open + closing < PEER_LINKS_IN_MAX + PEER_LINKS_CLOSING_MAX)
        return true;
    peers->stats.links_refused++;
    if (oldest_stranger == NULL || closing >= PEER_LINKS_CLOSING_MAX)
        return false;
    peer_link_close(oldest_stranger, ERR_FULL);
    return true;
}

void peers_accept(struct peers *peers, int32_t fd)
{
    bool room = !peers->stopping && links_in_make_room(peers);
    struct peer_link *link = room ? link_add(peers) : NULL;
    if (link == NULL)
        reactor_discard_descriptor(core_reactor(peers->core), fd);
    else
        peer_link_accept(link, fd);
}

/* A name that is being looked up again is dialled where it was; one never found waits for that. */
static void dial(struct peers *peers, struct peer *peer, enum peer_lane lane)
{
    struct peer_dial *state = &peer->lanes[lane];
    state->target = peer->target_next++ % peer->target_count;
    struct peer_target *target = &peer->targets[state->target];
    int error = target_refresh(peers, target);
    if (error == -EINPROGRESS && !target->known)
        return;
    peers->stats.dials++;
    struct peer_link *link = target->known ? link_add(peers) : NULL;
    if (link == NULL) {
        peers->stats.dials_failed++;
        redial_later(peers, state);
        return;
    }
    link->id = peer->id;
    link->lane = (uint8_t)lane;
    state->link = link;
    peer_link_dial(link, &target->address);
}

static uint64_t silence_max_ns(const struct peers *peers, const struct peer_link *link)
{
    if (!link->greeted)
        return GREETING_NS_MAX;
    return peers->options.silence_ns * (link->lane == PEER_LANE_CONTROL ? 1 : BULK_SILENCES);
}

static void link_tick(struct peers *peers, struct peer_link *link, uint64_t now_ns)
{
    if (link->connecting || link->closing)
        return; /* connecting has a limit of its own */
    uint64_t since_ns = link->greeted ? link->heard_ns : link->opened_ns;
    if (now_ns - since_ns > silence_max_ns(peers, link)) {
        peer_link_close(link, -ETIMEDOUT);
        return;
    }
    if (!link->inbound && link->greeted && now_ns - link->pinged_ns >= PING_NS) {
        link->pinged_ns = now_ns;
        send_small(peers, link, KIND_PING, NULL, 0);
    }
}

/* Stopped from outside, with its machine perhaps: others were not silent, we did not listen. */
static void forgive_silence(struct peers *peers, uint64_t now_ns)
{
    uint64_t late_ns = now_ns - peers->ticked_ns;
    peers->ticked_ns = now_ns;
    if (late_ns < PAUSE_NS)
        return;
    for (struct peer_link *link = peers->links; link != NULL; link = link->next) {
        uint64_t *since_ns = link->greeted ? &link->heard_ns : &link->opened_ns;
        *since_ns = u64_min(*since_ns + late_ns, now_ns);
    }
}

static void on_tick(struct timer *timer)
{
    struct peers *peers = container_of(timer, struct peers, tick);
    uint64_t now_ns = core_now_ns(peers->core);
    forgive_silence(peers, now_ns);
    for (struct peer_link *link = peers->links, *next; link != NULL; link = next) {
        next = link->next; /* closing never frees inside the call */
        link_tick(peers, link, now_ns);
    }
    for (uint32_t i = 0; i < PEERS_MAX; i++) {
        struct peer *peer = &peers->members[i];
        for (uint32_t lane = 0; peer->id != 0 && lane < PEER_LANE_COUNT; lane++)
            if (peer->lanes[lane].link == NULL && peer->lanes[lane].due_ns <= now_ns &&
                peer->target_count > 0)
                dial(peers, peer, (enum peer_lane)lane);
    }
    timer_start(core_timers(peers->core), timer, now_ns + TICK_NS);
}

/* ---- members -------------------------------------------------------------------------------- */

static bool addresses_equal(const struct peer *peer, const struct peer_address *addresses,
                            uint32_t count)
{
    bool equal = peer->target_count == count;
    for (uint32_t i = 0; i < count && equal; i++)
        equal = strcmp(peer->targets[i].url.host, addresses[i].host) == 0 &&
                peer->targets[i].url.port == addresses[i].port;
    return equal;
}

int peers_add(struct peers *peers, uint64_t id, const struct peer_address *addresses,
              uint32_t address_count)
{
    invariant(id != 0 && id != peers->options.self && address_count <= PEER_ADDRESSES_MAX);
    struct peer *peer = peer_find(peers, id);
    if (peer != NULL && addresses_equal(peer, addresses, address_count))
        return 0;
    if (peer == NULL) {
        for (uint32_t i = 0; i < PEERS_MAX && peer == NULL; i++)
            if (peers->members[i].id == 0)
                peer = &peers->members[i];
        if (peer == NULL)
            return ERR_FULL;
        memset(peer, 0, sizeof(*peer));
        peer->id = id;
    }
    targets_drop_lookups(peer);
    memset(peer->targets, 0, sizeof(peer->targets));
    for (uint32_t i = 0; i < address_count; i++)
        peer->targets[i].url = addresses[i];
    peer->target_count = address_count;
    for (uint32_t lane = 0; lane < PEER_LANE_COUNT; lane++) {
        struct peer_dial *dial = &peer->lanes[lane];
        dial->backoff_ns = REDIAL_NS_MIN;
        dial->due_ns = 0;
        dial->target = TARGET_NONE;
        if (dial->link != NULL && !dial->link->greeted) /* to where it was, perhaps */
            peer_link_close(dial->link, ERR_CLOSED);
    }
    return 0;
}

void peers_remove(struct peers *peers, uint64_t id)
{
    struct peer *peer = peer_find(peers, id);
    if (peer == NULL)
        return;
    for (struct peer_link *link = peers->links; link != NULL; link = link->next)
        if (link->id == id) {
            peer_link_flush(link); /* what tells it of its removal may be queued */
            peer_link_close_when_sent(link, ERR_CLOSED);
        }
    targets_drop_lookups(peer);
    memset(peer, 0, sizeof(*peer));
}

bool peers_connected(const struct peers *peers, uint64_t id, enum peer_lane lane)
{
    return lane_link(peers, id, lane) != NULL;
}

uint64_t peers_next_connected(const struct peers *peers, uint64_t after, enum peer_lane lane)
{
    uint64_t next = 0;
    for (uint32_t i = 0; i < PEERS_MAX; i++) {
        uint64_t id = peers->members[i].id;
        if (id > after && (next == 0 || id < next) && peers_connected(peers, id, lane))
            next = id;
    }
    return next;
}

bool peers_any_connection(const struct peers *peers, uint64_t id)
{
    for (const struct peer_link *link = peers->links; link != NULL; link = link->next)
        if (link->id == id && link->greeted && !link->closing)
            return true;
    return false;
}

uint64_t peers_connected_since_ns(const struct peers *peers, uint64_t id)
{
    const struct peer_link *link = lane_link(peers, id, PEER_LANE_CONTROL);
    return link == NULL ? 0 : link->opened_ns;
}

uint64_t peers_heard_ns(const struct peers *peers, uint64_t id)
{
    const struct peer *peer = peer_find(peers, id);
    return peer == NULL ? 0 : peer->heard_ns;
}

uint64_t peers_queued_bytes(const struct peers *peers, uint64_t id, enum peer_lane lane)
{
    const struct peer_link *link = lane_link(peers, id, lane);
    return link == NULL ? 0 : peer_link_queued_bytes(link);
}

/* ---- frames out ----------------------------------------------------------------------------- */

uint8_t *peers_send_begin(struct peers *peers, const struct peer_frame_out *frame)
{
    invariant(frame->kind >= PEER_KIND_USER);
    struct peer_link *link = lane_link(peers, frame->to, frame->lane);
    if (link == NULL) {
        peers->stats.dropped_disconnected++;
        return NULL;
    }
    if (peer_link_queued_bytes(link) > queued_bytes_max[frame->lane]) {
        peers->stats.dropped_full++;
        return NULL;
    }
    return peer_link_frame_begin(link, frame->meta_bytes, frame->payload_bytes);
}

void peers_send_end(struct peers *peers, const struct peer_frame_out *frame)
{
    struct peer_link *link = lane_link(peers, frame->to, frame->lane);
    invariant(link != NULL);
    struct peer_header header = header_make(peers, frame->kind, frame->to, frame->meta_bytes);
    header.payload_bytes = frame->payload_bytes;
    peers->stats.frames_sent++;
    peers->stats.bytes_sent += PEER_HEADER_BYTES + frame->meta_bytes + frame->payload_bytes;
    peer_link_frame_end(link, &header);
}

void peers_flush(struct peers *peers)
{
    for (struct peer_link *link = peers->links; link != NULL; link = link->next)
        peer_link_flush(link);
}

const struct peer_stats *peers_stats(const struct peers *peers)
{
    return &peers->stats;
}

/* ---- life ----------------------------------------------------------------------------------- */

int peers_create(struct core *core, const struct peer_options *options, struct peers **out)
{
    invariant(options->detail.size + GREETING_FIXED_BYTES <= PEER_HELLO_BYTES_MAX);
    struct peers *peers = calloc(1, sizeof(*peers));
    if (peers == NULL)
        return -ENOMEM;
    peers->core = core;
    peers->options = *options;
    peers->ticked_ns = core_now_ns(core);
    timer_init(&peers->tick, on_tick);
    timer_start(core_timers(core), &peers->tick, core_now_ns(core));
    *out = peers;
    return 0;
}

void peers_stop(struct peers *peers)
{
    struct fiber_event stopped;
    peers->stopping = true;
    timer_stop(core_timers(peers->core), &peers->tick);
    for (struct peer_link *link = peers->links; link != NULL; link = link->next)
        peer_link_close(link, ERR_CLOSED);
    for (uint32_t i = 0; i < PEERS_MAX; i++)
        targets_drop_lookups(&peers->members[i]);
    fiber_event_init(&stopped);
    peers->stopped = &stopped;
    if (peers->link_count > 0)
        fiber_event_wait(&stopped);
    peers->stopped = NULL;
}

void peers_destroy(struct peers *peers)
{
    invariant(peers->link_count == 0);
    outbuf_pool_deinit(&peers->chunks);
    free(peers);
}
