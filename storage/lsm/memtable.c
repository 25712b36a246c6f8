#include "storage/lsm/memtable.h"

#include <stdlib.h>

#include "core/invariant.h"
#include "core/pages.h"
#include "storage/lsm/bloom.h"

#define MEMTABLE_SCAN_AHEAD 8 /* keys */

_Static_assert(sizeof(struct memtable_key) == 24, "header and first links share a line");

struct memtable_chunk {
    struct memtable_chunk *older;
};

/* ---- order -----------------------------------------------------------------------------------
 */

/* A key with its digest: a number that orders most keys of a memtable without looking at bytes.
 * Keys that begin with the memtable's common prefix have the eight bytes behind it, within
 * [1, UINT64_MAX - 1]; those that sort before all such keys have 0, those behind UINT64_MAX. So
 * digests never fall along the keys' order, and only equal ones leave it open. */
struct memtable_target {
    struct bytes key;
    uint64_t digest;
};

static inline uint64_t digest_tail(const uint8_t *from, size_t bytes)
{
    uint64_t digest;
    if (likely(bytes >= 8)) {
        digest = be64_load(from);
    } else {
        uint8_t padded[8] = {0};
        if (bytes > 0)
            memcpy(padded, from, bytes);
        digest = be64_load(padded);
    }
    return u64_min(u64_max(digest, 1), UINT64_MAX - 1);
}

static inline struct memtable_target memtable_target(const struct memtable *memtable,
                                                     struct bytes key)
{
    size_t common = memtable->common_bytes;
    if (likely(key.size >= common &&
               (common == 0 || memcmp(key.data, memtable->common, common) == 0)))
        return (struct memtable_target){key, digest_tail(key.data + common, key.size - common)};
    bool before = bytes_compare(key, bytes_make(memtable->common, common)) < 0;
    return (struct memtable_target){key, before ? 0 : UINT64_MAX};
}

/* Negative: `key` sorts before the target. */
static inline int memtable_compare(const struct memtable_key *key,
                                   const struct memtable_target *target)
{
    if (likely(key->digest != target->digest))
        return key->digest < target->digest ? -1 : 1;
    return bytes_compare(memtable_key_bytes(key), target->key);
}

static inline struct memtable_key *memtable_link(const struct memtable_key *key, uint32_t level)
{
    return atomic_load_explicit(&((struct memtable_key *)(uintptr_t)key)->next[level],
                                memory_order_acquire);
}

static inline struct memtable_version *memtable_newest(const struct memtable_key *key)
{
    return atomic_load_explicit(&((struct memtable_key *)(uintptr_t)key)->newest,
                                memory_order_acquire);
}

/* ---- arenas ----------------------------------------------------------------------------------
 */

static void *arena_take_chunk(struct memtable *memtable, struct memtable_arena *arena, size_t bytes)
{
    size_t header = u64_round_up(sizeof(struct memtable_chunk), 64);
    bool own = bytes + header > memtable->chunk_bytes / 2; /* a large row gets its own chunk */
    size_t size = own ? u64_round_up(bytes + header, 64) : memtable->chunk_bytes;
    bool huge = size == MEMTABLE_CHUNK_BYTES;
    struct memtable_chunk *chunk = aligned_alloc(huge ? MEMTABLE_CHUNK_BYTES : 64, size);
    if (chunk == NULL)
        fatal("out of memory for a memtable: %zu bytes", size);
    if (huge)
        pages_advise_huge(chunk, size);
    chunk->older = arena->chunks;
    arena->chunks = chunk;
    if (own)
        return (uint8_t *)chunk + header;
    arena->free = (uint8_t *)chunk + header + bytes;
    arena->end = (uint8_t *)chunk + size;
    return (uint8_t *)chunk + header;
}

/* `align` divides 64. */
static void *arena_take(struct memtable *memtable, struct memtable_arena *arena, size_t bytes,
                        size_t align)
{
    uint8_t *at = arena->free + (-(uintptr_t)arena->free & (align - 1));
    uint64_t taken = atomic_load_explicit(&memtable->bytes, memory_order_relaxed);
    atomic_store_explicit(&memtable->bytes, taken + bytes, memory_order_relaxed);
    if (unlikely(arena->free == NULL || bytes > (size_t)(arena->end - arena->free) ||
                 at + bytes > arena->end))
        return arena_take_chunk(memtable, arena, bytes);
    arena->free = at + bytes;
    return at;
}

static void arena_destroy(struct memtable_arena *arena)
{
    while (arena->chunks != NULL) {
        struct memtable_chunk *older = arena->chunks->older;
        free(arena->chunks);
        arena->chunks = older;
    }
}

/* A key that fits one cache line lies in one. */
static struct memtable_key *key_take(struct memtable *memtable, uint32_t height, size_t key_bytes)
{
    size_t bytes = sizeof(struct memtable_key) + height * sizeof(void *) + key_bytes;
    size_t align = bytes <= 64 ? 64 : 32;
    return arena_take(memtable, &memtable->keys, u64_round_up(bytes, 32), align);
}

/* ---- life ------------------------------------------------------------------------------------
 */

struct memtable *memtable_create(const struct memtable_options *options)
{
    struct memtable *memtable = calloc(1, sizeof(*memtable));
    if (memtable == NULL)
        return NULL;
    /* Small memtables (tests, small nodes) take small chunks. */
    memtable->chunk_bytes = MEMTABLE_CHUNK_BYTES;
    while (memtable->chunk_bytes > 16 * KIB && memtable->chunk_bytes > options->bytes_target / 4)
        memtable->chunk_bytes /= 2;
    memtable->point_table = options->point_table;
    memtable->common_bytes = u64_min(options->common.size, sizeof(memtable->common));
    if (memtable->common_bytes > 0)
        memcpy(memtable->common, options->common.data, memtable->common_bytes);
    memtable_index_init(&memtable->index, options->bytes_target);
    prng_init(&memtable->prng, options->seed);
    memtable->head = key_take(memtable, MEMTABLE_HEIGHT_MAX, 0);
    memset(memtable->head, 0, sizeof(struct memtable_key) + MEMTABLE_HEIGHT_MAX * sizeof(void *));
    memtable->head->height = MEMTABLE_HEIGHT_MAX;
    atomic_init(&memtable->height, 1);
    return memtable;
}

void memtable_destroy(struct memtable *memtable)
{
    invariant(memtable->views == 0);
    arena_destroy(&memtable->keys);
    arena_destroy(&memtable->versions);
    memtable_index_deinit(&memtable->index);
    free(memtable);
}

/* ---- versions of one key ---------------------------------------------------------------------
 */

static inline int version_compare(const struct memtable_version *version, struct lsm_version other)
{
    return lsm_version_compare((struct lsm_version){version->main, version->sub}, other);
}

/* The newest of the chain that is at most `max`; NULL when all are newer. */
static const struct memtable_version *chain_find(const struct memtable_version *version,
                                                 struct lsm_version max)
{
    while (version != NULL && version_compare(version, max) > 0) {
        const struct memtable_version *jump = version->jump;
        version = jump != NULL && version_compare(jump, max) > 0 ? jump : version->older;
    }
    return version;
}

/* The oldest of the chain that is above `bound`; NULL when none is. */
static const struct memtable_version *chain_find_above(const struct memtable_version *version,
                                                       struct lsm_version bound)
{
    if (version_compare(version, bound) <= 0)
        return NULL;
    for (;;) {
        if (version->jump != NULL && version_compare(version->jump, bound) > 0)
            version = version->jump;
        else if (version->older != NULL && version_compare(version->older, bound) > 0)
            version = version->older;
        else
            return version;
    }
}

static const struct memtable_version *chain_oldest(const struct memtable_key *key)
{
    const struct memtable_version *version = memtable_newest(key);
    while (version->jump != NULL)
        version = version->jump;
    return version;
}

/* In front of `older`, the newest so far: jumps double as in the digits of a skew-binary number. */
static void chain_link(struct memtable_version *version, struct memtable_version *older)
{
    version->older = version->jump = older;
    version->depth = 0;
    if (older == NULL)
        return;
    version->depth = older->depth + 1;
    const struct memtable_version *jump = older->jump;
    if (jump != NULL && jump->jump != NULL &&
        older->depth - jump->depth == jump->depth - jump->jump->depth)
        version->jump = jump->jump;
}

/* ---- search ----------------------------------------------------------------------------------
 */

/* Walks to the last key before `target`; fills previous[] for the levels in use when it is not
 * NULL. Returns the key after it, and through `before` the key itself (the head when none is). */
static inline struct memtable_key *memtable_search(const struct memtable *memtable,
                                                   const struct memtable_target *target,
                                                   struct memtable_key **previous,
                                                   struct memtable_key **before)
{
    struct memtable_key *key = memtable->head;
    const struct memtable_key *known_after = NULL; /* already found to sort at or after target */
    struct memtable_key *next = NULL;
    uint32_t level = atomic_load_explicit(&memtable->height, memory_order_relaxed);
    invariant(level >= 1 && level <= MEMTABLE_HEIGHT_MAX);
    while (level-- > 0) {
        for (;;) {
            next = memtable_link(key, level);
            if (level > 0)
                __builtin_prefetch(
                    atomic_load_explicit(&key->next[level - 1], memory_order_relaxed));
            if (next == NULL || next == known_after)
                break;
            if (memtable_compare(next, target) >= 0) {
                known_after = next;
                break;
            }
            key = next;
        }
        if (previous != NULL)
            previous[level] = key;
    }
    *before = key;
    return next;
}

const struct memtable_version *memtable_find(const struct memtable *memtable, struct bytes key,
                                             uint64_t hash, struct lsm_version version_max)
{
    struct memtable_key *before, *found;
    if (likely(memtable_is_indexed(memtable, key))) {
        found = memtable_index_find(&memtable->index, key, hash);
    } else {
        struct memtable_target target = memtable_target(memtable, key);
        found = memtable_search(memtable, &target, NULL, &before);
        if (found != NULL && memtable_compare(found, &target) != 0)
            found = NULL;
    }
    return found == NULL ? NULL : chain_find(memtable_newest(found), version_max);
}

const struct memtable_version *memtable_seek(const struct memtable *memtable, struct bytes key,
                                             struct lsm_version version)
{
    struct memtable_target target = memtable_target(memtable, key);
    struct memtable_key *before;
    struct memtable_key *next = memtable_search(memtable, &target, NULL, &before);
    if (next == NULL)
        return NULL;
    if (memtable_compare(next, &target) != 0)
        return memtable_newest(next);
    const struct memtable_version *found = chain_find(memtable_newest(next), version);
    if (found != NULL)
        return found;
    next = memtable_link(next, 0);
    return next == NULL ? NULL : memtable_newest(next);
}

const struct memtable_version *memtable_seek_before(const struct memtable *memtable,
                                                    struct bytes key, struct lsm_version version)
{
    struct memtable_target target = memtable_target(memtable, key);
    struct memtable_key *before;
    const struct memtable_key *next = memtable_search(memtable, &target, NULL, &before);
    if (next != NULL && memtable_compare(next, &target) == 0) {
        const struct memtable_version *above = chain_find_above(memtable_newest(next), version);
        if (above != NULL)
            return above;
    }
    return before == memtable->head ? NULL : chain_oldest(before);
}

const struct memtable_version *memtable_first(const struct memtable *memtable)
{
    const struct memtable_key *first = memtable_link(memtable->head, 0);
    return first == NULL ? NULL : memtable_newest(first);
}

const struct memtable_version *memtable_last(const struct memtable *memtable)
{
    const struct memtable_key *key = memtable->head;
    for (uint32_t level = MEMTABLE_HEIGHT_MAX; level-- > 0;)
        for (struct memtable_key *next; (next = memtable_link(key, level)) != NULL;)
            key = next;
    return key == memtable->head ? NULL : chain_oldest(key);
}

const struct memtable_version *memtable_next(const struct memtable_version *version)
{
    if (version->older != NULL)
        return version->older;
    const struct memtable_key *next = memtable_link(version->key, 0);
    return next == NULL ? NULL : memtable_newest(next);
}

/* ---- walking ahead ---------------------------------------------------------------------------
 */

static void scan_look_ahead(struct memtable_scan *scan)
{
    if (scan->ahead == NULL)
        return;
    const uint8_t *version = (const uint8_t *)memtable_newest(scan->ahead);
    for (size_t line = 0; line < 5; line++) /* as much as a value of a few hundred bytes has */
        __builtin_prefetch(version + line * 64);
    scan->ahead = memtable_link(scan->ahead, 0);
    __builtin_prefetch(scan->ahead);
}

void memtable_scan_begin(const struct memtable *memtable, struct memtable_scan *scan)
{
    scan->at = memtable_first(memtable);
    scan->ahead = memtable_link(memtable->head, 0);
    for (uint32_t i = 0; i < MEMTABLE_SCAN_AHEAD; i++)
        scan_look_ahead(scan);
}

bool memtable_scan_next(struct memtable_scan *scan, struct lsm_row *row)
{
    if (scan->at == NULL)
        return false;
    memtable_row(scan->at, row);
    if (scan->at->older == NULL)
        scan_look_ahead(scan);
    scan->at = memtable_next(scan->at);
    return true;
}

/* One key's search as memtable_prefetch() interleaves it with others. */
struct memtable_walk {
    struct memtable_target target;
    const struct memtable_key *key, *next;
    uint32_t level; /* of `next` */
};

static void memtable_walk_look(struct memtable_walk *walk)
{
    walk->next = memtable_link(walk->key, walk->level);
    __builtin_prefetch(walk->next);
    if (walk->level > 0)
        __builtin_prefetch(memtable_link(walk->key, walk->level - 1));
}

/* The key ahead is in the cache by now: go there or down. False at the bottom. */
static bool memtable_walk_step(struct memtable_walk *walk)
{
    if (walk->next != NULL && memtable_compare(walk->next, &walk->target) < 0)
        walk->key = walk->next;
    else if (walk->level-- == 0)
        return false;
    memtable_walk_look(walk);
    return true;
}

/* The keys that the index does not have; they need their place in the list. */
static uint32_t memtable_prefetch_indexed(const struct memtable *memtable, const struct bytes *keys,
                                          uint32_t count, struct bytes *missing)
{
    uint64_t hashes[MEMTABLE_PREFETCH_MAX];
    const struct memtable_key *found[MEMTABLE_PREFETCH_MAX];
    uint32_t missing_count = 0;
    for (uint32_t i = 0; i < count; i++) {
        hashes[i] = bloom_hash(keys[i]);
        memtable_index_prefetch(&memtable->index, hashes[i]);
    }
    for (uint32_t i = 0; i < count; i++) {
        found[i] = memtable_index_peek(&memtable->index, hashes[i]);
        __builtin_prefetch(found[i], 1);
    }
    for (uint32_t i = 0; i < count; i++) {
        if (found[i] != NULL)
            __builtin_prefetch(memtable_newest(found[i]));
        else
            missing[missing_count++] = keys[i];
    }
    return missing_count;
}

void memtable_prefetch(const struct memtable *memtable, const struct bytes *keys, uint32_t count)
{
    struct bytes missing[MEMTABLE_PREFETCH_MAX];
    struct memtable_walk walks[MEMTABLE_PREFETCH_MAX];
    invariant(count <= MEMTABLE_PREFETCH_MAX);
    uint32_t live = memtable_prefetch_indexed(memtable, keys, count, missing);
    uint32_t level = atomic_load_explicit(&memtable->height, memory_order_relaxed) - 1;
    for (uint32_t i = 0; i < live; i++) {
        walks[i] = (struct memtable_walk){
            .target = memtable_target(memtable, missing[i]), .key = memtable->head, .level = level};
        memtable_walk_look(&walks[i]);
    }
    while (live > 0)
        for (uint32_t i = 0; i < live;) {
            if (memtable_walk_step(&walks[i]))
                i++;
            else
                walks[i] = walks[--live];
        }
}

/* ---- insertion -------------------------------------------------------------------------------
 */

static uint32_t memtable_draw_height(struct memtable *memtable)
{
    uint64_t bits = prng_next(&memtable->prng) | ((uint64_t)1 << (2 * (MEMTABLE_HEIGHT_MAX - 1)));
    return 1 + (uint32_t)__builtin_ctzll(bits) / 2; /* each further level with probability 1/4 */
}

static inline struct memtable_finger *memtable_finger(struct memtable *memtable, struct bytes key)
{
    return &memtable->fingers[key.data[0] % MEMTABLE_FINGERS];
}

/* True when the key follows the finger's directly: then previous[] is set. A link high up may have
 * been overtaken by keys of other tables; a few steps forward repair it. */
static bool memtable_follow_finger(const struct memtable_finger *finger,
                                   const struct memtable_target *target,
                                   struct memtable_key **previous)
{
    if (finger->last == NULL || finger->table != target->key.data[0])
        return false;
    struct memtable_key *next = memtable_link(finger->last, 0);
    if (memtable_compare(finger->last, target) >= 0 ||
        (next != NULL && memtable_compare(next, target) <= 0))
        return false;
    for (uint32_t level = 0; level < MEMTABLE_HEIGHT_MAX; level++) {
        struct memtable_key *key = finger->previous[level];
        uint32_t steps = 0;
        while ((next = memtable_link(key, level)) != NULL && memtable_compare(next, target) < 0) {
            if (++steps > 8)
                return false;
            key = next;
        }
        previous[level] = key;
    }
    return true;
}

/* The key's node, or NULL and previous[] for every level. */
static struct memtable_key *memtable_locate(struct memtable *memtable,
                                            const struct memtable_target *target, uint64_t hash,
                                            struct memtable_key **previous)
{
    bool indexed = memtable_is_indexed(memtable, target->key);
    struct memtable_key *before, *key = NULL;
    if (indexed)
        key = memtable_index_find(&memtable->index, target->key, hash);
    if (key != NULL ||
        memtable_follow_finger(memtable_finger(memtable, target->key), target, previous))
        return key;
    key = memtable_search(memtable, target, previous, &before);
    uint32_t height = atomic_load_explicit(&memtable->height, memory_order_relaxed);
    for (uint32_t level = height; level < MEMTABLE_HEIGHT_MAX; level++)
        previous[level] = memtable->head;
    if (key == NULL || memtable_compare(key, target) != 0)
        return NULL;
    invariant(!indexed); /* else the index would have known it */
    return key;
}

static struct memtable_version *memtable_build_version(struct memtable *memtable,
                                                       struct memtable_key *key,
                                                       struct lsm_version version,
                                                       enum lsm_kind kind, struct bytes value)
{
    size_t bytes = offsetof(struct memtable_version, value) + value.size;
    struct memtable_version *built =
        arena_take(memtable, &memtable->versions, u64_round_up(bytes, 8), 8);
    built->key = key;
    built->main = version.main;
    built->sub = version.sub;
    built->value_bytes = (uint32_t)value.size;
    built->kind = (uint8_t)kind;
    if (value.size != 0)
        memcpy(built->value, value.data, value.size);
    return built;
}

/* Keeps what all keys of the index begin with. */
static void memtable_observe(struct memtable *memtable, const struct memtable_key *key)
{
    struct bytes bytes = memtable_key_bytes(key);
    if (memtable->sample == NULL) {
        memtable->sample = key;
        memtable->sample_common_bytes = bytes.size;
        return;
    }
    const uint8_t *sample = memtable_key_bytes(memtable->sample).data;
    size_t common = u64_min(memtable->sample_common_bytes, bytes.size);
    if (memcmp(sample, bytes.data, common) != 0)
        for (size_t i = 0; i < common; i++)
            if (sample[i] != bytes.data[i])
                common = i;
    memtable->sample_common_bytes = common;
}

struct bytes memtable_common(const struct memtable *memtable)
{
    if (memtable->sample == NULL)
        return bytes_make(&memtable->point_table, memtable->point_table != 0);
    return bytes_make(memtable_key_bytes(memtable->sample).data, memtable->sample_common_bytes);
}

/* Publishes a new key with its first version already in place. */
static void memtable_link_key(struct memtable *memtable, struct memtable_key *key,
                              struct memtable_key *const *previous, uint64_t hash)
{
    struct bytes bytes = memtable_key_bytes(key);
    struct memtable_finger *finger = memtable_finger(memtable, bytes);
    if (key->height > atomic_load_explicit(&memtable->height, memory_order_relaxed))
        atomic_store_explicit(&memtable->height, key->height, memory_order_relaxed);
    for (uint32_t level = 0; level < key->height; level++) {
        atomic_init(&key->next[level], memtable_link(previous[level], level));
        atomic_store_explicit(&previous[level]->next[level], key, memory_order_release);
        finger->previous[level] = key;
    }
    for (uint32_t level = key->height; level < MEMTABLE_HEIGHT_MAX; level++)
        finger->previous[level] = previous[level];
    finger->last = key;
    finger->table = bytes.data[0];
    if (memtable_is_indexed(memtable, bytes)) {
        memtable_index_publish(&memtable->index, key, hash);
        memtable_observe(memtable, key);
    }
}

void memtable_insert(struct memtable *memtable, struct bytes key, struct lsm_version version,
                     enum lsm_kind kind, struct bytes value)
{
    invariant(key.size > 0 && key.size <= LSM_KEY_BYTES_MAX && value.size <= LSM_VALUE_BYTES_MAX);
    invariant(kind == LSM_VALUE || (kind == LSM_TOMBSTONE && value.size == 0));
    struct memtable_target target = memtable_target(memtable, key);
    struct memtable_key *previous[MEMTABLE_HEIGHT_MAX];
    uint64_t hash = memtable_is_indexed(memtable, key) ? bloom_hash(key) : 0;
    struct memtable_key *found = memtable_locate(memtable, &target, hash, previous);
    struct memtable_version *older = found == NULL ? NULL : memtable_newest(found);
    invariant(older == NULL || version_compare(older, version) < 0); /* K1 */
    struct memtable_key *node = found;
    if (found == NULL) {
        uint32_t height = memtable_draw_height(memtable);
        node = key_take(memtable, height, key.size);
        node->digest = target.digest;
        node->key_bytes = (uint32_t)key.size;
        node->height = height;
        memcpy(&node->next[height], key.data, key.size);
    }
    struct memtable_version *built = memtable_build_version(memtable, node, version, kind, value);
    chain_link(built, older);
    atomic_store_explicit(&node->newest, built, memory_order_release);
    if (found == NULL)
        memtable_link_key(memtable, node, previous, hash);
    uint64_t logical = atomic_load_explicit(&memtable->logical_bytes, memory_order_relaxed);
    atomic_store_explicit(&memtable->logical_bytes, logical + key.size + value.size,
                          memory_order_relaxed);
    memtable->row_count++;
}
