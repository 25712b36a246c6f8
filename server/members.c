#include "server/members.h"

#include <stdio.h>
#include <stdlib.h>

#include "core/invariant.h"
#include "core/sha1.h"
#include "proto/peer.pb-c.h"
#include "proto/rpc.pb-c.h"

/* ---- ids ------------------------------------------------------------------------------------ */

static int text_order(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static uint64_t id_of(const void *data, size_t bytes)
{
    uint8_t digest[SHA1_BYTES];
    sha1(data, bytes, digest);
    uint64_t id = be64_load(digest);
    return id == 0 ? 1 : u64_min(id, RAFT_ID_MAX);
}

uint64_t member_id_derive(const struct config_urls *peer, const char *token, int64_t added_s)
{
    char text[CONFIG_URLS_MAX * sizeof(peer->url[0].text) + CONFIG_TEXT_BYTES + 32];
    const char *sorted[CONFIG_URLS_MAX];
    size_t used = 0;
    for (uint32_t i = 0; i < peer->count; i++)
        sorted[i] = peer->url[i].text;
    qsort(sorted, peer->count, sizeof(*sorted), text_order);
    for (uint32_t i = 0; i < peer->count; i++)
        used += (size_t)snprintf(text + used, sizeof(text) - used, "%s", sorted[i]);
    used += (size_t)snprintf(text + used, sizeof(text) - used, "%s", token);
    if (added_s != 0)
        used += (size_t)snprintf(text + used, sizeof(text) - used, "%lld", (long long)added_s);
    invariant(used < sizeof(text));
    return id_of(text, used);
}

uint64_t cluster_id_derive(const struct member_set *set)
{
    uint8_t ids[8 * MEMBERS_MAX];
    for (uint32_t i = 0; i < set->count; i++)
        be64_store(ids + 8 * i, set->members[i].id);
    return id_of(ids, 8 * set->count);
}

/* ---- sets ----------------------------------------------------------------------------------- */

struct member *member_find(const struct member_set *set, uint64_t id)
{
    for (uint32_t i = 0; i < set->count; i++)
        if (set->members[i].id == id)
            return (struct member *)&set->members[i];
    return NULL;
}

static bool urls_have(const struct config_urls *urls, const char *text)
{
    for (uint32_t i = 0; i < urls->count; i++)
        if (strcmp(urls->url[i].text, text) == 0)
            return true;
    return false;
}

static uint32_t urls_common(const struct config_urls *a, const struct config_urls *b)
{
    uint32_t common = 0;
    for (uint32_t i = 0; i < a->count; i++)
        common += urls_have(b, a->url[i].text);
    return common;
}

struct member *member_find_urls(const struct member_set *set, const struct config_urls *peer)
{
    for (uint32_t i = 0; i < set->count; i++) {
        const struct config_urls *have = &set->members[i].peer;
        if (have->count == peer->count && urls_common(have, peer) == peer->count)
            return (struct member *)&set->members[i];
    }
    return NULL;
}

struct member *member_find_any_url(const struct member_set *set, const struct config_urls *peer)
{
    for (uint32_t i = 0; i < set->count; i++)
        if (urls_common(&set->members[i].peer, peer) > 0)
            return (struct member *)&set->members[i];
    return NULL;
}

int member_insert(struct member_set *set, const struct member *member)
{
    invariant(member_find(set, member->id) == NULL);
    if (set->count == MEMBERS_MAX)
        return ERR_LIMIT;
    uint32_t at = set->count++;
    for (; at > 0 && set->members[at - 1].id > member->id; at--)
        set->members[at] = set->members[at - 1];
    set->members[at] = *member;
    return 0;
}

void member_remove(struct member_set *set, uint64_t id)
{
    const struct member *member = member_find(set, id);
    if (member == NULL)
        return;
    uint32_t at = (uint32_t)(member - set->members);
    set->count--;
    memmove(&set->members[at], &set->members[at + 1], (set->count - at) * sizeof(set->members[0]));
}

void members_config(const struct member_set *set, struct raft_config *config)
{
    memset(config, 0, sizeof(*config));
    for (uint32_t i = 0; i < set->count; i++) {
        const struct member *member = &set->members[i];
        bool added =
            raft_id_set_add(member->learner ? &config->learners : &config->voters, member->id);
        invariant(added);
    }
}

uint32_t member_addresses(const struct config_urls *peer,
                          struct peer_address addresses[PEER_ADDRESSES_MAX])
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < peer->count && count < PEER_ADDRESSES_MAX; i++) {
        struct peer_address *address = &addresses[count++];
        snprintf(address->host, sizeof(address->host), "%.*s", (int)sizeof(address->host) - 1,
                 peer->url[i].host);
        address->port = peer->url[i].port;
    }
    return count;
}

/* ---- flags ---------------------------------------------------------------------------------- */

/* One "name=url" of --initial-cluster; a name may come again with a further address. */
static int pair_add(struct member_set *set, const char *pair, size_t bytes, char *reason,
                    size_t reason_bytes)
{
    struct member member = {0};
    struct config_url url;
    char text[sizeof(url.text) + MEMBER_NAME_BYTES];
    snprintf(text, sizeof(text), "%.*s", (int)bytes, pair);
    char *equals = strchr(text, '=');
    if (bytes >= sizeof(text) || equals == NULL || equals == text ||
        (size_t)(equals - text) >= sizeof(member.name)) {
        snprintf(reason, reason_bytes, "--initial-cluster: '%s': expected name=http://host:port",
                 text);
        return ERR_CONFIG;
    }
    char why[CONFIG_TEXT_BYTES];
    *equals = '\0';
    if (config_url_parse(&url, equals + 1, why, sizeof(why)) < 0) {
        snprintf(reason, reason_bytes, "--initial-cluster: %s", why);
        return ERR_CONFIG;
    }
    for (uint32_t i = 0; i < set->count; i++)
        if (strcmp(set->members[i].name, text) == 0) {
            struct config_urls *urls = &set->members[i].peer;
            if (urls->count == CONFIG_URLS_MAX) {
                snprintf(reason, reason_bytes, "--initial-cluster: %s has too many addresses",
                         text);
                return ERR_CONFIG;
            }
            urls->url[urls->count++] = url;
            return 0;
        }
    if (set->count == MEMBERS_MAX) {
        snprintf(reason, reason_bytes, "--initial-cluster: more than %d members", MEMBERS_MAX);
        return ERR_CONFIG;
    }
    memcpy(member.name, text, strlen(text) + 1);
    member.peer.url[member.peer.count++] = url;
    set->members[set->count++] = member;
    return 0;
}

static int by_id(const void *a, const void *b)
{
    uint64_t left = ((const struct member *)a)->id, right = ((const struct member *)b)->id;
    return (left > right) - (left < right);
}

static int ids_assign(struct member_set *set, const char *token, char *reason, size_t reason_bytes)
{
    for (uint32_t i = 0; i < set->count; i++)
        set->members[i].id = member_id_derive(&set->members[i].peer, token, 0);
    qsort(set->members, set->count, sizeof(set->members[0]), by_id);
    for (uint32_t i = 1; i < set->count; i++)
        if (set->members[i].id == set->members[i - 1].id) {
            snprintf(reason, reason_bytes, "--initial-cluster: %s and %s have the same addresses",
                     set->members[i - 1].name, set->members[i].name);
            return ERR_CONFIG;
        }
    return 0;
}

int members_from_config(const struct config *config, struct member_set *set, char *reason,
                        size_t reason_bytes)
{
    set->count = 0;
    for (const char *at = config->initial_cluster; *at != '\0';) {
        const char *comma = strchrnul(at, ',');
        int error = pair_add(set, at, (size_t)(comma - at), reason, reason_bytes);
        if (error < 0)
            return error;
        at = *comma == ',' ? comma + 1 : comma;
    }
    if (set->count == 0) {
        struct member *own = &set->members[set->count++];
        memset(own, 0, sizeof(*own));
        memcpy(own->name, config->name, sizeof(own->name));
        own->peer = config->advertise_peer;
    }
    return ids_assign(set, config->initial_cluster_token, reason, reason_bytes);
}

/* ---- codec ---------------------------------------------------------------------------------- */

static int urls_decode(char **texts, size_t count, struct config_urls *urls)
{
    char reason[CONFIG_TEXT_BYTES];
    urls->count = 0;
    if (count > CONFIG_URLS_MAX)
        return ERR_LIMIT;
    for (size_t i = 0; i < count; i++) {
        int error = config_url_parse(&urls->url[urls->count], texts[i], reason, sizeof(reason));
        if (error < 0)
            return error;
        urls->count++;
    }
    return 0;
}

int member_from_message(const Etcdserverpb__Member *from, struct member *member)
{
    memset(member, 0, sizeof(*member));
    member->id = from->id;
    member->learner = from->islearner;
    if (strlen(from->name) >= sizeof(member->name))
        return ERR_LIMIT;
    memcpy(member->name, from->name, strlen(from->name) + 1);
    int error = urls_decode(from->peerurls, from->n_peerurls, &member->peer);
    if (error == 0)
        error = urls_decode(from->clienturls, from->n_clienturls, &member->client);
    return error;
}

static size_t url_texts(const struct config_urls *urls, char **texts)
{
    for (uint32_t i = 0; i < urls->count; i++)
        texts[i] = (char *)urls->url[i].text;
    return urls->count;
}

void member_to_message(const struct member *member, Etcdserverpb__Member *to, char **texts)
{
    etcdserverpb__member__init(to);
    to->id = member->id;
    to->name = (char *)member->name;
    to->islearner = member->learner;
    to->peerurls = texts;
    to->n_peerurls = url_texts(&member->peer, texts);
    to->clienturls = texts + CONFIG_URLS_MAX;
    to->n_clienturls = url_texts(&member->client, texts + CONFIG_URLS_MAX);
}

size_t member_encode(const struct member *member, uint8_t to[MEMBER_BYTES_MAX])
{
    Etcdserverpb__Member message;
    char *texts[2 * CONFIG_URLS_MAX];
    Raftpb__MemberLife life = RAFTPB__MEMBER_LIFE__INIT;
    member_to_message(member, &message, texts);
    life.life = member->life;
    invariant(etcdserverpb__member__get_packed_size(&message) +
                  raftpb__member_life__get_packed_size(&life) <=
              MEMBER_BYTES_MAX);
    size_t bytes = etcdserverpb__member__pack(&message, to);
    return bytes + raftpb__member_life__pack(&life, to + bytes);
}

int member_decode(struct bytes from, struct member *member)
{
    Etcdserverpb__Member *message = etcdserverpb__member__unpack(NULL, from.size, from.data);
    Raftpb__MemberLife *life = raftpb__member_life__unpack(NULL, from.size, from.data);
    int error = message == NULL || life == NULL ? ERR_MALFORMED : 0;
    if (error == 0)
        error = member_from_message(message, member);
    if (error == 0)
        member->life = life->life;
    if (message != NULL)
        etcdserverpb__member__free_unpacked(message, NULL);
    if (life != NULL)
        raftpb__member_life__free_unpacked(life, NULL);
    return error;
}

size_t members_encode(const struct member_set *set, uint8_t *to)
{
    Raftpb__FirstMembers first = RAFTPB__FIRST_MEMBERS__INIT;
    Etcdserverpb__Member messages[MEMBERS_MAX], *pointers[MEMBERS_MAX];
    char *texts[MEMBERS_MAX][2 * CONFIG_URLS_MAX];
    for (uint32_t i = 0; i < set->count; i++) {
        member_to_message(&set->members[i], &messages[i], texts[i]);
        pointers[i] = &messages[i];
    }
    first.n_members = set->count;
    first.members = pointers;
    invariant(raftpb__first_members__get_packed_size(&first) <= MEMBERS_BYTES_MAX);
    return raftpb__first_members__pack(&first, to);
}

int members_decode(struct bytes from, struct member_set *set)
{
    Raftpb__FirstMembers *first = raftpb__first_members__unpack(NULL, from.size, from.data);
    struct member member;
    int error = first == NULL ? ERR_MALFORMED : 0;
    set->count = 0;
    for (size_t i = 0; error == 0 && i < first->n_members; i++) {
        error = member_from_message(first->members[i], &member);
        if (error == 0 && (member.id == 0 || member_find(set, member.id) != NULL))
            error = ERR_MALFORMED;
        if (error == 0)
            error = member_insert(set, &member);
    }
    if (first != NULL)
        raftpb__first_members__free_unpacked(first, NULL);
    return error;
}
