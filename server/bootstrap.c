#include "server/bootstrap.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/invariant.h"
#include "core/logger.h"
#include "net/peer_link.h"
#include "proto/peer.pb-c.h"
#include "proto/rpc.pb-c.h"

#define ASK_ROUND_NS   (500 * NS_PER_MS)
#define ASK_ROUNDS     60
#define UNKNOWN_ROUNDS 10 /* in which members answered, and none knew this one */
#define ANSWER_NS_MAX  (3 * NS_PER_S)

/* ---- one question to one address ------------------------------------------------------------ */

struct ask {
    struct outbuf_pool chunks;
    struct bytes question;
    struct fiber_event closed;
    struct timer timeout;
    struct peer_link *link;
    uint8_t *answer; /* owned; NULL: none came */
    size_t answer_bytes;
};

static int ask_header(void *context, const struct peer_header *header)
{
    (void)context;
    return header->kind == PEER_KIND_ANSWER && header->payload_bytes == 0 ? 0 : ERR_MALFORMED;
}

static int ask_frame(void *context, const struct peer_input *input)
{
    struct ask *ask = ((struct peer_link *)context)->owner;
    ask->answer = malloc(input->header.meta_bytes + 1);
    if (ask->answer == NULL)
        return -ENOMEM;
    memcpy(ask->answer, input->meta, input->header.meta_bytes);
    ask->answer_bytes = input->header.meta_bytes;
    return ERR_CLOSED;
}

static void ask_opened(struct peer_link *link)
{
    struct ask *ask = link->owner;
    struct peer_header header = {.kind = PEER_KIND_QUESTION,
                                 .meta_bytes = (uint32_t)ask->question.size};
    uint8_t *meta = peer_link_frame_begin(link, header.meta_bytes, 0);
    memcpy(meta, ask->question.data, ask->question.size);
    peer_link_frame_end(link, &header);
}

static void ask_closed(struct peer_link *link, int error)
{
    struct ask *ask = link->owner;
    (void)error;
    fiber_event_signal(&ask->closed);
}

static void ask_timeout(struct timer *timer)
{
    struct ask *ask = container_of(timer, struct ask, timeout);
    peer_link_close(ask->link, -ETIMEDOUT);
}

static const struct peer_link_calls ask_calls = {
    .reader = {.header = ask_header, .frame = ask_frame},
    .opened = ask_opened,
    .closed = ask_closed};

/* Fiber. The answer, to be freed, or NULL. */
static uint8_t *ask_address(struct core *core, const struct peer_address *to, struct bytes question,
                            size_t *answer_bytes)
{
    struct io_address address;
    struct ask ask = {.question = question};
    if (reactor_resolve(core_reactor(core), to->host, to->port, &address) < 0)
        return NULL;
    ask.link = peer_link_create(core, &ask.chunks, &ask_calls, &ask);
    if (ask.link == NULL)
        return NULL;
    fiber_event_init(&ask.closed);
    timer_init(&ask.timeout, ask_timeout);
    timer_start(core_timers(core), &ask.timeout, core_now_ns(core) + ANSWER_NS_MAX);
    peer_link_dial(ask.link, &address);
    fiber_event_wait(&ask.closed);
    timer_stop(core_timers(core), &ask.timeout);
    outbuf_pool_deinit(&ask.chunks);
    *answer_bytes = ask.answer_bytes;
    return ask.answer;
}

/* ---- joining -------------------------------------------------------------------------------- */

static int members_from_messages(Etcdserverpb__Member **messages, size_t count,
                                 struct member_set *set)
{
    struct member member;
    int error = 0;
    set->count = 0;
    for (size_t i = 0; i < count && error == 0; i++) {
        error = member_from_message(messages[i], &member);
        if (error == 0 && (member.id == 0 || member_find(set, member.id) != NULL))
            error = ERR_MALFORMED;
        if (error == 0)
            error = member_insert(set, &member);
    }
    return error;
}

/* Takes over ids and first members, if this process is one that was added and never started. */
static int answer_judge(const struct config *config, const Raftpb__JoinAnswer *message,
                        const struct member_set *now, struct identity *identity, char *reason,
                        size_t reason_bytes)
{
    const struct member *own = member_find_urls(now, &config->advertise_peer);
    if (identity->cluster_id != 0 && identity->cluster_id != message->cluster_id) {
        snprintf(reason, reason_bytes,
                 "--initial-cluster names members of two clusters, %llx and %llx",
                 (unsigned long long)identity->cluster_id, (unsigned long long)message->cluster_id);
        return ERR_CONFIG;
    }
    if (own == NULL) {
        snprintf(reason, reason_bytes,
                 "--initial-cluster-state existing: no member of the cluster has the address %s; "
                 "add it first (etcdctl member add)",
                 config->advertise_peer.url[0].text);
        return ERR_NOT_FOUND;
    }
    if (own->name[0] != '\0') {
        snprintf(reason, reason_bytes,
                 "--initial-cluster-state existing: member %llx (%s) has already been "
                 "bootstrapped; its data directory was lost: remove it and add it again",
                 (unsigned long long)own->id, own->name);
        return ERR_CONFIG;
    }
    identity->member_id = own->id;
    identity->cluster_id = message->cluster_id;
    return members_from_messages(message->first->members, message->first->n_members,
                                 identity->first);
}

int bootstrap_take_answer(const struct config *config, struct bytes answer,
                          struct identity *identity, char *reason, size_t reason_bytes)
{
    struct member_set *now = calloc(1, sizeof(*now));
    Raftpb__JoinAnswer *message = raftpb__join_answer__unpack(NULL, answer.size, answer.data);
    int error = now == NULL ? -ENOMEM : 0;
    if (error == 0 && (message == NULL || message->first == NULL || message->cluster_id == 0))
        error = ERR_MALFORMED;
    if (error == 0)
        error = members_from_messages(message->members, message->n_members, now);
    if (error < 0)
        snprintf(reason, reason_bytes, "a member's answer does not decode: %s", err_text(error));
    else
        error = answer_judge(config, message, now, identity, reason, reason_bytes);
    if (message != NULL)
        raftpb__join_answer__free_unpacked(message, NULL);
    free(now);
    return error;
}

/* ERR_UNAVAILABLE: it has no answer for us. */
static int ask_member(struct core *core, const struct config *config, const struct member *member,
                      struct bytes question, struct identity *identity, char *reason,
                      size_t reason_bytes)
{
    struct peer_address addresses[PEER_ADDRESSES_MAX];
    uint32_t count = member_addresses(&member->peer, addresses);
    for (uint32_t i = 0; i < count; i++) {
        size_t bytes;
        uint8_t *answer = ask_address(core, &addresses[i], question, &bytes);
        if (answer == NULL)
            continue;
        int error = bootstrap_take_answer(config, bytes_make(answer, bytes), identity, reason,
                                          reason_bytes);
        free(answer);
        return error;
    }
    return ERR_UNAVAILABLE;
}

/* Asks all: one that lags may not know yet that this member was added, or that it had started. */
static int join_round(struct core *core, const struct config *config,
                      const struct member_set *flagged, struct bytes question,
                      struct identity *identity, char *reason, size_t reason_bytes)
{
    int result = ERR_UNAVAILABLE;
    for (uint32_t i = 0; i < flagged->count; i++) {
        const struct member *member = &flagged->members[i];
        if (strcmp(member->name, config->name) == 0)
            continue;
        int error = ask_member(core, config, member, question, identity, reason, reason_bytes);
        if (error == 0 || (error == ERR_NOT_FOUND && result == ERR_UNAVAILABLE))
            result = error;
        else if (error != ERR_UNAVAILABLE && error != ERR_NOT_FOUND)
            return error;
    }
    return result;
}

static int join(struct core *core, const struct config *config, const struct member_set *flagged,
                struct identity *identity, char *reason, size_t reason_bytes)
{
    uint8_t bytes[CONFIG_URLS_MAX * sizeof(struct config_url)];
    char *texts[CONFIG_URLS_MAX];
    uint32_t unknown = 0;
    Raftpb__JoinQuestion question = RAFTPB__JOIN_QUESTION__INIT;
    for (uint32_t i = 0; i < config->advertise_peer.count; i++)
        texts[question.n_peer_urls++] = (char *)config->advertise_peer.url[i].text;
    question.peer_urls = texts;
    invariant(raftpb__join_question__get_packed_size(&question) <= sizeof(bytes));
    size_t size = raftpb__join_question__pack(&question, bytes);
    for (uint32_t round = 0; round < ASK_ROUNDS; round++) {
        int error = join_round(core, config, flagged, bytes_make(bytes, size), identity, reason,
                               reason_bytes);
        unknown += error == ERR_NOT_FOUND;
        if (unknown == UNKNOWN_ROUNDS)
            return ERR_CONFIG;
        if (error != ERR_UNAVAILABLE && error != ERR_NOT_FOUND)
            return error;
        if (round == 0)
            log_warn(error == ERR_UNAVAILABLE
                         ? "no member of the existing cluster answers; asking again"
                         : "no member of the existing cluster knows this one yet; asking again");
        fiber_sleep_until(core_now_ns(core) + ASK_ROUND_NS);
    }
    snprintf(reason, reason_bytes,
             "--initial-cluster-state existing: no member of --initial-cluster answered");
    return ERR_UNAVAILABLE;
}

/* ---- a new cluster -------------------------------------------------------------------------- */

static int found_cluster(const struct config *config, const struct member_set *flagged,
                         struct identity *identity, char *reason, size_t reason_bytes)
{
    const struct member *own = NULL;
    for (uint32_t i = 0; i < flagged->count; i++)
        if (strcmp(flagged->members[i].name, config->name) == 0)
            own = &flagged->members[i];
    if (own == NULL) {
        snprintf(reason, reason_bytes,
                 "couldn't find local name \"%s\" in the initial cluster "
                 "configuration",
                 config->name);
        return ERR_CONFIG;
    }
    if (member_find_urls(flagged, &config->advertise_peer) != own) {
        snprintf(reason, reason_bytes,
                 "--initial-cluster has %s=%s, but --initial-advertise-peer-urls is %s", own->name,
                 own->peer.url[0].text, config->advertise_peer.url[0].text);
        return ERR_CONFIG;
    }
    *identity->first = *flagged;
    for (uint32_t i = 0; i < identity->first->count; i++)
        identity->first->members[i].name[0] = '\0'; /* each tells its own when it starts */
    identity->member_id = own->id;
    identity->cluster_id = cluster_id_derive(flagged);
    return 0;
}

int bootstrap_identity(struct core *core, const struct config *config, struct identity *identity,
                       char *reason, size_t reason_bytes)
{
    struct member_set *flagged = calloc(1, sizeof(*flagged));
    if (flagged == NULL)
        return -ENOMEM;
    int error = members_from_config(config, flagged, reason, reason_bytes);
    if (error == 0 && strcmp(config->initial_cluster_state, "existing") == 0)
        error = join(core, config, flagged, identity, reason, reason_bytes);
    else if (error == 0)
        error = found_cluster(config, flagged, identity, reason, reason_bytes);
    free(flagged);
    return error;
}

/* ---- answering ------------------------------------------------------------------------------ */

int bootstrap_answer(struct bytes question, uint64_t cluster_id, const struct member_set *first,
                     const struct member_set *members, uint8_t *answer, size_t answer_bytes_max)
{
    Raftpb__JoinQuestion *asked = raftpb__join_question__unpack(NULL, question.size, question.data);
    if (asked == NULL)
        return ERR_MALFORMED;
    raftpb__join_question__free_unpacked(asked, NULL);
    Etcdserverpb__Member messages[2 * MEMBERS_MAX], *pointers[2 * MEMBERS_MAX];
    char *texts[2 * MEMBERS_MAX][2 * CONFIG_URLS_MAX];
    Raftpb__FirstMembers began = RAFTPB__FIRST_MEMBERS__INIT;
    Raftpb__JoinAnswer reply = RAFTPB__JOIN_ANSWER__INIT;
    uint32_t used = 0;
    began.members = pointers;
    for (uint32_t i = 0; i < first->count; i++, used++) {
        member_to_message(&first->members[i], &messages[used], texts[used]);
        pointers[used] = &messages[used];
    }
    began.n_members = first->count;
    reply.members = pointers + used;
    for (uint32_t i = 0; i < members->count; i++, used++) {
        member_to_message(&members->members[i], &messages[used], texts[used]);
        pointers[used] = &messages[used];
    }
    reply.n_members = members->count;
    reply.first = &began;
    reply.cluster_id = cluster_id;
    size_t bytes = raftpb__join_answer__get_packed_size(&reply);
    if (bytes > answer_bytes_max)
        return ERR_LIMIT;
    raftpb__join_answer__pack(&reply, answer);
    return (int)bytes;
}
