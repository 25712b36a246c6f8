#include "server/membership.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "consensus/config_change.h"
#include "consensus/raft.h"
#include "core/invariant.h"
#include "core/logger.h"
#include "storage/mvcc/mvcc.h"

/* Meta names: "member/" + id in hex: the member; "removed/" + id: empty; "config": the index of the
 * change that made it (u64), then raft_config_encode(). */
#define MEMBER_PREFIX  "member/"
#define REMOVED_PREFIX "removed/"
#define CONFIG_NAME    "config"

static bool name_id(struct bytes name, const char *prefix, uint64_t *id)
{
    char text[64];
    unsigned long long value;
    size_t prefix_bytes = strlen(prefix);
    if (name.size <= prefix_bytes || name.size >= sizeof(text))
        return false;
    memcpy(text, name.data, name.size);
    text[name.size] = '\0';
    if (sscanf(text + prefix_bytes, "%llx", &value) != 1)
        return false;
    *id = value;
    return true;
}

static struct bytes name_make(char text[64], const char *prefix, uint64_t id)
{
    snprintf(text, 64, "%s%llx", prefix, (unsigned long long)id);
    return bytes_from_text(text);
}

/* ---- loading -------------------------------------------------------------------------------- */

static int member_loaded(void *context, struct bytes name, struct bytes value)
{
    struct membership *membership = context;
    struct member member;
    uint64_t id;
    int error = name_id(name, MEMBER_PREFIX, &id) ? member_decode(value, &member) : ERR_CORRUPT;
    if (error == 0 && (member.id != id || member_find(&membership->set, id) != NULL))
        error = ERR_CORRUPT;
    return error < 0 ? error : member_insert(&membership->set, &member);
}

static int removed_add(struct membership *membership, uint64_t id)
{
    if (membership->removed_count == membership->removed_max) {
        uint32_t max = (uint32_t)u64_max(16, membership->removed_max * 2);
        uint64_t *grown = realloc(membership->removed, max * sizeof(*grown));
        if (grown == NULL)
            return -ENOMEM;
        membership->removed = grown;
        membership->removed_max = max;
    }
    membership->removed[membership->removed_count++] = id;
    return 0;
}

static int removed_loaded(void *context, struct bytes name, struct bytes value maybe_unused)
{
    uint64_t id;
    return name_id(name, REMOVED_PREFIX, &id) ? removed_add(context, id) : ERR_CORRUPT;
}

static int quorum_load(struct membership *membership, struct mvcc *mvcc)
{
    struct arena arena;
    struct bytes value;
    arena_init(&arena, 0);
    int error = mvcc_meta_get(mvcc, bytes_from_text(CONFIG_NAME), &arena, &value);
    if (error == 0 && value.size < 8)
        error = ERR_CORRUPT;
    if (error == 0) {
        membership->config_index = le64_load(value.data);
        error = raft_config_decode(bytes_make(value.data + 8, value.size - 8), &membership->config);
    }
    arena_deinit(&arena);
    return error;
}

/* M1 and M2. */
static void membership_verify(const struct membership *membership)
{
    struct raft_id_set ids = raft_config_members(&membership->config);
    invariant(ids.count == membership->set.count);
    for (uint32_t i = 0; i < ids.count; i++) {
        invariant(membership->set.members[i].id == ids.ids[i]);
        invariant(!membership_is_removed(membership, ids.ids[i]));
    }
}

int membership_load(struct membership *membership, struct mvcc *mvcc,
                    const struct member_set *first)
{
    membership_deinit(membership);
    int error = quorum_load(membership, mvcc);
    membership->version++;
    if (error == ERR_NOT_FOUND) {
        membership->set = *first;
        members_config(first, &membership->config);
        return 0;
    }
    if (error == 0)
        error = mvcc_meta_scan(mvcc, bytes_from_text(MEMBER_PREFIX), member_loaded, membership);
    if (error == 0)
        error = mvcc_meta_scan(mvcc, bytes_from_text(REMOVED_PREFIX), removed_loaded, membership);
    if (error < 0)
        return error;
    membership->stored = true;
    membership_verify(membership);
    return 0;
}

void membership_deinit(struct membership *membership)
{
    uint64_t version = membership->version;
    free(membership->removed);
    memset(membership, 0, sizeof(*membership));
    membership->version = version;
}

bool membership_is_removed(const struct membership *membership, uint64_t id)
{
    for (uint32_t i = 0; i < membership->removed_count; i++)
        if (membership->removed[i] == id)
            return true;
    return false;
}

/* ---- storing -------------------------------------------------------------------------------- */

static int member_store(struct mvcc *mvcc, const struct member *member)
{
    char name[64];
    uint8_t *bytes = malloc(MEMBER_BYTES_MAX);
    if (bytes == NULL)
        return -ENOMEM;
    size_t size = member_encode(member, bytes);
    int error =
        mvcc_meta_put(mvcc, name_make(name, MEMBER_PREFIX, member->id), bytes_make(bytes, size));
    free(bytes);
    return error;
}

static int quorum_store(const struct membership *membership, struct mvcc *mvcc)
{
    uint8_t value[8 + RAFT_CONFIG_BYTES_MAX];
    le64_store(value, membership->config_index);
    size_t size = 8 + raft_config_encode(&membership->config, value + 8);
    return mvcc_meta_put(mvcc, bytes_from_text(CONFIG_NAME), bytes_make(value, size));
}

int membership_store_first(struct membership *membership, struct mvcc *mvcc)
{
    int error = quorum_store(membership, mvcc);
    for (uint32_t i = 0; i < membership->set.count && error == 0; i++)
        error = member_store(mvcc, &membership->set.members[i]);
    membership->stored = error == 0;
    return error;
}

/* ---- rules ---------------------------------------------------------------------------------- */

static int check_add(const struct membership *membership, const struct member *member)
{
    if (membership_is_removed(membership, member->id))
        return ERR_MEMBER_NOT_FOUND; /* as etcd; it is gone for good */
    if (member_find(&membership->set, member->id) != NULL)
        return ERR_MEMBER_EXISTS;
    if (member->peer.count == 0)
        return ERR_MEMBER_BAD_URLS;
    if (member_find_any_url(&membership->set, &member->peer) != NULL)
        return ERR_PEER_URL_EXISTS;
    return membership->set.count == MEMBERS_MAX ? ERR_LIMIT : 0;
}

int membership_check(const struct membership *membership, enum request_kind kind,
                     const struct member *member)
{
    if (kind == REQUEST_MEMBER_ADD)
        return check_add(membership, member);
    const struct member *known = member_find(&membership->set, member->id);
    if (known == NULL)
        return ERR_MEMBER_NOT_FOUND;
    if (kind == REQUEST_MEMBER_PROMOTE && !known->learner)
        return ERR_NOT_A_LEARNER;
    if (kind == REQUEST_MEMBER_UPDATE) {
        const struct member *other = member_find_any_url(&membership->set, &member->peer);
        if (member->peer.count == 0)
            return ERR_MEMBER_BAD_URLS;
        if (other != NULL && other != known)
            return ERR_PEER_URL_EXISTS;
    }
    if (kind == REQUEST_MEMBER_PUBLISH && known->life != 0 && member->life != known->life)
        return ERR_MEMBER_EXISTS; /* told from a directory that took the place of a lost one */
    return 0;
}

/* ---- applying ------------------------------------------------------------------------------- */

int membership_decode_change(const struct entry *entry, struct raft_config_change *change,
                             struct request *request)
{
    int error = raft_config_change_decode(bytes_make(entry->payload, entry->payload_bytes), change);
    return error < 0 ? error : request_decode(request, change->context);
}

/* In memory. */
static int set_change(struct membership *membership, enum request_kind kind,
                      const struct member *member)
{
    switch (kind) {
    case REQUEST_MEMBER_ADD:
        return member_insert(&membership->set, member);
    case REQUEST_MEMBER_PROMOTE:
        member_find(&membership->set, member->id)->learner = false;
        return 0;
    case REQUEST_MEMBER_REMOVE:
        member_remove(&membership->set, member->id);
        return removed_add(membership, member->id);
    default:
        return ERR_MALFORMED;
    }
}

static int set_store(const struct membership *membership, struct mvcc *mvcc, uint64_t id)
{
    char name[64];
    const struct member *member = member_find(&membership->set, id);
    if (member != NULL)
        return member_store(mvcc, member);
    int error = mvcc_meta_delete(mvcc, name_make(name, MEMBER_PREFIX, id));
    return error < 0
               ? error
               : mvcc_meta_put(mvcc, name_make(name, REMOVED_PREFIX, id), bytes_make(NULL, 0));
}

/* Does the change do to the quorum what the request says, at once? Both come in one entry. A joint
 * configuration would keep a removed member for a while. */
static bool change_matches(const struct raft_config_change *change, enum request_kind kind,
                           const struct member *member)
{
    if (change->count != 1 || change->changes[0].id != member->id ||
        change->transition != RAFT_TRANSITION_AUTO)
        return false;
    switch (change->changes[0].kind) {
    case RAFT_CHANGE_ADD_VOTER:
        return kind == REQUEST_MEMBER_PROMOTE || (kind == REQUEST_MEMBER_ADD && !member->learner);
    case RAFT_CHANGE_ADD_LEARNER:
        return kind == REQUEST_MEMBER_ADD && member->learner;
    case RAFT_CHANGE_REMOVE:
        return kind == REQUEST_MEMBER_REMOVE;
    case RAFT_CHANGE_UPDATE:
        return false;
    }
    return false;
}

/* What an entry asks for. */
struct asked {
    struct raft_config_change change;
    struct request request;
    struct member member;
    bool ends_joint; /* nothing else: the members are who they were */
};

/* 0 when it may happen now. */
static int asked_read(struct asked *asked, const struct membership *membership,
                      const struct entry *entry)
{
    asked->ends_joint = entry->payload_bytes == 0;
    if (asked->ends_joint) {
        asked->change = (struct raft_config_change){.transition = RAFT_TRANSITION_AUTO};
        return 0;
    }
    int error = membership_decode_change(entry, &asked->change, &asked->request);
    if (error == 0)
        error = member_decode(asked->request.body, &asked->member);
    if (error == 0 && !change_matches(&asked->change, asked->request.kind, &asked->member))
        error = ERR_MALFORMED;
    return error < 0 ? error : membership_check(membership, asked->request.kind, &asked->member);
}

int membership_apply_config(struct membership *membership, struct mvcc *mvcc, struct raft *raft,
                            const struct entry *entry)
{
    struct asked asked;
    int error = asked_read(&asked, membership, entry);
    if (error == 0)
        error = raft_apply_config(raft, entry->index, &asked.change);
    if (error < 0)
        return error;
    membership->config = raft->config;
    membership->config_index = entry->index;
    membership->version++;
    if (!asked.ends_joint) {
        error = set_change(membership, asked.request.kind, &asked.member);
        if (error == 0)
            error = set_store(membership, mvcc, asked.member.id);
        log_info("membership changed", LOG_TEXT("change", request_kind_name(asked.request.kind)),
                 LOG_HEX("member", asked.member.id),
                 LOG_U64("voters", membership->config.voters.count),
                 LOG_U64("learners", membership->config.learners.count));
    }
    if (error == 0)
        error = quorum_store(membership, mvcc);
    if (error == 0)
        membership_verify(membership);
    return error;
}

int membership_foresee(struct membership *ahead, const struct entry *entry)
{
    struct asked asked;
    struct raft_config next;
    int error = asked_read(&asked, ahead, entry);
    if (error == 0)
        error = config_change_apply(&ahead->config, &asked.change, &next);
    if (error < 0)
        return error;
    ahead->config = next;
    ahead->config_index = entry->index;
    if (!asked.ends_joint)
        error = set_change(ahead, asked.request.kind, &asked.member);
    if (error == 0)
        membership_verify(ahead);
    return error;
}

int membership_copy(struct membership *to, const struct membership *from)
{
    *to = *from;
    to->removed = NULL;
    to->removed_count = to->removed_max = 0;
    for (uint32_t i = 0; i < from->removed_count; i++) {
        int error = removed_add(to, from->removed[i]);
        if (error < 0)
            return error;
    }
    return 0;
}

int membership_apply(struct membership *membership, struct mvcc *mvcc,
                     const struct request *request)
{
    struct member member;
    int error = member_decode(request->body, &member);
    if (error == 0)
        error = membership_check(membership, request->kind, &member);
    if (error < 0)
        return error;
    struct member *known = member_find(&membership->set, member.id);
    if (request->kind == REQUEST_MEMBER_UPDATE) {
        known->peer = member.peer;
    } else {
        memcpy(known->name, member.name, sizeof(known->name));
        known->client = member.client;
        known->life = member.life;
    }
    membership->version++;
    return member_store(mvcc, known);
}
