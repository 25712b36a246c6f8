#include "consensus/config.h"

#include "core/err.h"
#include "core/invariant.h"

/* Encoding of a change: version u8, transition u8, count u16, count x {kind u8, 7 zero, id u64},
 * then the context. An empty payload is the empty change. */
#define CHANGE_VERSION      1
#define CHANGE_HEADER_BYTES 4
#define CHANGE_ITEM_BYTES   16
/* Encoding of a configuration: version u8, auto_leave u8, 6 zero,
 * 4 x {count u32, count x id u64}. */
#define CONFIG_VERSION      1
#define CONFIG_HEADER_BYTES 8
_Static_assert(RAFT_CONFIG_BYTES_MAX == CONFIG_HEADER_BYTES + 4 * (4 + 8 * RAFT_MEMBERS_MAX),
               "the bound covers four full sets");

bool raft_id_set_has(const struct raft_id_set *set, uint64_t id)
{
    for (uint32_t i = 0; i < set->count; i++)
        if (set->ids[i] == id)
            return true;
    return false;
}

bool raft_id_set_add(struct raft_id_set *set, uint64_t id)
{
    invariant(id != 0);
    if (raft_id_set_has(set, id))
        return true;
    if (set->count == RAFT_MEMBERS_MAX)
        return false;
    uint32_t at = set->count;
    while (at > 0 && set->ids[at - 1] > id) {
        set->ids[at] = set->ids[at - 1];
        at--;
    }
    set->ids[at] = id;
    set->count++;
    return true;
}

void raft_id_set_remove(struct raft_id_set *set, uint64_t id)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < set->count; i++)
        if (set->ids[i] != id)
            set->ids[kept++] = set->ids[i];
    for (uint32_t i = kept; i < set->count; i++)
        set->ids[i] = 0;
    set->count = kept;
}

/* The four sets in their order of encoding. */
static const struct raft_id_set *config_set(const struct raft_config *config, int which)
{
    const struct raft_id_set *sets[4] = {&config->voters, &config->outgoing, &config->learners,
                                         &config->learners_next};
    return sets[which];
}

struct raft_id_set raft_config_members(const struct raft_config *config)
{
    struct raft_id_set members = {0};
    for (int which = 0; which < 4; which++) {
        const struct raft_id_set *set = config_set(config, which);
        for (uint32_t i = 0; i < set->count; i++) {
            bool added = raft_id_set_add(&members, set->ids[i]);
            invariant(added); /* raft_config_validate() bounds the union */
        }
    }
    return members;
}

static bool id_set_equal(const struct raft_id_set *a, const struct raft_id_set *b)
{
    return a->count == b->count && memcmp(a->ids, b->ids, a->count * sizeof(a->ids[0])) == 0;
}

bool raft_config_equal(const struct raft_config *a, const struct raft_config *b)
{
    for (int which = 0; which < 4; which++)
        if (!id_set_equal(config_set(a, which), config_set(b, which)))
            return false;
    return a->auto_leave == b->auto_leave;
}

int raft_config_validate(const struct raft_config *config)
{
    struct raft_id_set members = {0};
    for (int which = 0; which < 4; which++) {
        const struct raft_id_set *set = config_set(config, which);
        if (set->count > RAFT_MEMBERS_MAX)
            return ERR_CONFIG;
        for (uint32_t i = 0; i < set->count; i++) {
            if (set->ids[i] == 0 || set->ids[i] > RAFT_ID_MAX)
                return ERR_CONFIG;
            if (i > 0 && set->ids[i - 1] >= set->ids[i])
                return ERR_CONFIG;
            if (!raft_id_set_add(&members, set->ids[i]))
                return ERR_LIMIT;
        }
    }
    for (uint32_t i = 0; i < config->learners.count; i++)
        if (raft_id_set_has(&config->voters, config->learners.ids[i]) ||
            raft_id_set_has(&config->outgoing, config->learners.ids[i]))
            return ERR_CONFIG; /* C1 */
    for (uint32_t i = 0; i < config->learners_next.count; i++)
        if (!raft_id_set_has(&config->outgoing, config->learners_next.ids[i]) ||
            raft_id_set_has(&config->voters, config->learners_next.ids[i]))
            return ERR_CONFIG; /* C2 */
    if (config->outgoing.count == 0 && (config->auto_leave || config->learners_next.count != 0))
        return ERR_CONFIG; /* C3 */
    if (config->voters.count == 0 && members.count != 0)
        return ERR_CONFIG; /* C4 */
    return 0;
}

bool raft_config_change_leaves(const struct raft_config_change *change)
{
    return change->transition == RAFT_TRANSITION_AUTO && change->count == 0;
}

size_t raft_config_change_bytes(const struct raft_config_change *change)
{
    return CHANGE_HEADER_BYTES + (size_t)change->count * CHANGE_ITEM_BYTES + change->context.size;
}

void raft_config_change_encode(const struct raft_config_change *change, uint8_t *to)
{
    invariant(change->count <= RAFT_MEMBERS_MAX);
    to[0] = CHANGE_VERSION;
    to[1] = (uint8_t)change->transition;
    le16_store(to + 2, (uint16_t)change->count);
    to += CHANGE_HEADER_BYTES;
    for (uint32_t i = 0; i < change->count; i++) {
        memset(to, 0, CHANGE_ITEM_BYTES);
        to[0] = (uint8_t)change->changes[i].kind;
        le64_store(to + 8, change->changes[i].id);
        to += CHANGE_ITEM_BYTES;
    }
    if (change->context.size > 0)
        memcpy(to, change->context.data, change->context.size);
}

int raft_config_change_decode(struct bytes payload, struct raft_config_change *change)
{
    memset(change, 0, sizeof(*change));
    if (payload.size == 0)
        return 0;
    if (payload.size < CHANGE_HEADER_BYTES || payload.data[0] != CHANGE_VERSION ||
        payload.data[1] > RAFT_TRANSITION_EXPLICIT)
        return ERR_MALFORMED;
    uint32_t count = le16_load(payload.data + 2);
    if (count > RAFT_MEMBERS_MAX ||
        payload.size < CHANGE_HEADER_BYTES + (size_t)count * CHANGE_ITEM_BYTES)
        return ERR_MALFORMED;
    change->transition = (enum raft_transition)payload.data[1];
    change->count = count;
    const uint8_t *at = payload.data + CHANGE_HEADER_BYTES;
    for (uint32_t i = 0; i < count; i++, at += CHANGE_ITEM_BYTES) {
        uint64_t id = le64_load(at + 8);
        if (at[0] > RAFT_CHANGE_UPDATE || id > RAFT_ID_MAX)
            return ERR_MALFORMED;
        change->changes[i] = (struct raft_change){.kind = (enum raft_change_kind)at[0], .id = id};
    }
    change->context = bytes_make(at, (size_t)(payload.data + payload.size - at));
    return 0;
}

size_t raft_config_encode(const struct raft_config *config, uint8_t to[RAFT_CONFIG_BYTES_MAX])
{
    memset(to, 0, CONFIG_HEADER_BYTES);
    to[0] = CONFIG_VERSION;
    to[1] = config->auto_leave;
    uint8_t *at = to + CONFIG_HEADER_BYTES;
    for (int which = 0; which < 4; which++) {
        const struct raft_id_set *set = config_set(config, which);
        invariant(set->count <= RAFT_MEMBERS_MAX);
        le32_store(at, set->count);
        at += 4;
        for (uint32_t i = 0; i < set->count; i++, at += 8)
            le64_store(at, set->ids[i]);
    }
    invariant(at <= to + RAFT_CONFIG_BYTES_MAX);
    return (size_t)(at - to);
}

int raft_config_decode(struct bytes from, struct raft_config *config)
{
    memset(config, 0, sizeof(*config));
    if (from.size < CONFIG_HEADER_BYTES || from.data[0] != CONFIG_VERSION || from.data[1] > 1)
        return ERR_MALFORMED;
    config->auto_leave = from.data[1] == 1;
    size_t at = CONFIG_HEADER_BYTES;
    struct raft_id_set *sets[4] = {&config->voters, &config->outgoing, &config->learners,
                                   &config->learners_next};
    for (int which = 0; which < 4; which++) {
        if (from.size - at < 4)
            return ERR_MALFORMED;
        uint32_t count = le32_load(from.data + at);
        at += 4;
        if (count > RAFT_MEMBERS_MAX || (from.size - at) / 8 < count)
            return ERR_MALFORMED;
        sets[which]->count = count;
        for (uint32_t i = 0; i < count; i++, at += 8)
            sets[which]->ids[i] = le64_load(from.data + at);
    }
    if (at != from.size)
        return ERR_MALFORMED;
    return raft_config_validate(config);
}
