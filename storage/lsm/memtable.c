#include "storage/lsm/memtable.h"

#include <stdlib.h>

#include "core/invariant.h"
#include "storage/lsm/bloom.h"

_Static_assert(sizeof(struct memtable_node) == 32, "header and first links share a cache line");
_Static_assert(MEMTABLE_HEIGHT_MAX <= ARRAY_COUNT(((struct lsm_position *)0)->previous),
               "a position holds a link per level");

/* ---- order -----------------------------------------------------------------------------------
 */

struct memtable_target {
    struct bytes key;
    uint64_t prefix;
    struct lsm_version version;
};

static inline uint64_t memtable_prefix(struct bytes key)
{
    if (likely(key.size >= 8))
        return be64_load(key.data);
    uint8_t padded[8] = {0};
    if (key.size > 0)
        memcpy(padded, key.data, key.size);
    return be64_load(padded);
}

static inline struct memtable_target memtable_target(struct bytes key, struct lsm_version version)
{
    return (struct memtable_target){key, memtable_prefix(key), version};
}

/* Negative: the node's key sorts before the target's. Equal prefixes with a key of up to eight
 * bytes
 * mean that the shorter is a prefix of the longer, so then the sizes decide. */
static inline int memtable_compare_key(const struct memtable_node *node,
                                       const struct memtable_target *target)
{
    if (node->prefix != target->prefix)
        return node->prefix < target->prefix ? -1 : 1;
    size_t shorter = node->key_bytes < target->key.size ? node->key_bytes : target->key.size;
    if (shorter > 8) {
        int order = memcmp(memtable_node_key(node).data + 8, target->key.data + 8, shorter - 8);
        if (order != 0)
            return order;
    }
    return (node->key_bytes > target->key.size) - (node->key_bytes < target->key.size);
}

/* Row order: key ascending, version descending. */
static inline int memtable_compare(const struct memtable_node *node,
                                   const struct memtable_target *target)
{
    int order = memtable_compare_key(node, target);
    if (order != 0)
        return order;
    return lsm_version_compare(target->version, memtable_node_version(node));
}

static inline struct memtable_node *memtable_link(const struct memtable_node *node, uint32_t level)
{
    return atomic_load_explicit(&((struct memtable_node *)(uintptr_t)node)->next[level],
                                memory_order_acquire);
}

/* ---- arena -----------------------------------------------------------------------------------
 */

/* Nodes start on a cache line when that costs little, so that a search touches one line a node;
 * small
 * ones at least do not split their header. */
static void *memtable_take(struct memtable *memtable, size_t bytes)
{
    size_t align = bytes > 192 ? 64 : 32;
    bytes = u64_round_up(bytes, 32);
    memtable->free += -(uintptr_t)memtable->free & (align - 1);
    if (unlikely(memtable->free + bytes > memtable->end)) {
        size_t header = u64_round_up(sizeof(struct memtable_chunk), 64);
        bool own = bytes + header > memtable->chunk_bytes / 2; /* a large row gets its own chunk */
        size_t size = own ? u64_round_up(bytes + header, 64) : memtable->chunk_bytes;
        bool huge = size == MEMTABLE_CHUNK_BYTES;
        struct memtable_chunk *chunk = aligned_alloc(huge ? MEMTABLE_CHUNK_BYTES : 64, size);
        if (chunk == NULL)
            fatal("out of memory for a memtable: %zu bytes", size);
        chunk->older = memtable->chunks;
        memtable->chunks = chunk;
        if (own)
            return (uint8_t *)chunk + header;
        memtable->free = (uint8_t *)chunk + header;
        memtable->end = (uint8_t *)chunk + size;
    }
    void *taken = memtable->free;
    memtable->free += bytes;
    return taken;
}

struct memtable *memtable_create(uint64_t bytes_target, uint64_t seed, uint8_t point_table)
{
    struct memtable *memtable = calloc(1, sizeof(*memtable));
    if (memtable == NULL)
        return NULL;
    /* Small memtables (tests, small nodes) take small chunks. */
    memtable->chunk_bytes = MEMTABLE_CHUNK_BYTES;
    while (memtable->chunk_bytes > 16 * KIB && memtable->chunk_bytes > bytes_target / 4)
        memtable->chunk_bytes /= 2;
    prng_init(&memtable->prng, seed);
    size_t bytes = sizeof(struct memtable_node) + MEMTABLE_HEIGHT_MAX * sizeof(void *);
    memtable->head = memtable_take(memtable, bytes);
    memset(memtable->head, 0, bytes);
    memtable->head->height = memtable->head->links = MEMTABLE_HEIGHT_MAX;
    atomic_init(&memtable->height, 1);
    memtable_index_init(&memtable->index, bytes_target);
    memtable->point_table = point_table;
    return memtable;
}

void memtable_destroy(struct memtable *memtable)
{
    invariant(memtable->views == 0);
    while (memtable->chunks != NULL) {
        struct memtable_chunk *older = memtable->chunks->older;
        free(memtable->chunks);
        memtable->chunks = older;
    }
    memtable_index_deinit(&memtable->index);
    free(memtable);
}

/* ---- search ----------------------------------------------------------------------------------
 */

/* Walks to the last node before `target`; fills previous[] for every level when it is not NULL.
 * Returns the node after it, and through `before` the node itself (the head when there is none). */
static inline struct memtable_node *memtable_search(const struct memtable *memtable,
                                                    const struct memtable_target *target,
                                                    struct memtable_node **previous,
                                                    struct memtable_node **before)
{
    struct memtable_node *node = memtable->head;
    const struct memtable_node *known_after = NULL; /* already found to sort at or after target */
    struct memtable_node *next = NULL;
    uint32_t level = atomic_load_explicit(&memtable->height, memory_order_relaxed);
    invariant(level >= 1 && level <= MEMTABLE_HEIGHT_MAX);
    while (level-- > 0) {
        for (;;) {
            next = memtable_link(node, level);
            if (level > 0)
                __builtin_prefetch(
                    atomic_load_explicit(&node->next[level - 1], memory_order_relaxed));
            if (next == NULL || next == known_after)
                break;
            if (memtable_compare(next, target) >= 0) {
                known_after = next;
                break;
            }
            node = next;
        }
        if (previous != NULL)
            previous[level] = node;
    }
    *before = node;
    return next;
}

struct memtable_node *memtable_seek(const struct memtable *memtable, struct bytes key,
                                    struct lsm_version version)
{
    struct memtable_target target = memtable_target(key, version);
    struct memtable_node *before;
    return memtable_search(memtable, &target, NULL, &before);
}

/* A key under heavy change has many versions in a row; beyond a few, a search is quicker. */
#define MEMTABLE_VERSION_STEPS 8

const struct memtable_node *memtable_get(const struct memtable *memtable, struct bytes key,
                                         uint64_t hash, struct lsm_version version_max)
{
    const struct memtable_node *node;
    if (likely(memtable_is_indexed(memtable, key))) {
        node = memtable_index_find(&memtable->index, key, hash);
        for (uint32_t step = 0; step < MEMTABLE_VERSION_STEPS; step++) {
            if (node == NULL || (step > 0 && !bytes_equal(memtable_node_key(node), key)))
                return NULL;
            if (lsm_version_compare(memtable_node_version(node), version_max) <= 0)
                return node;
            node = memtable_next(node);
        }
    }
    node = memtable_seek(memtable, key, version_max);
    return node != NULL && bytes_equal(memtable_node_key(node), key) ? node : NULL;
}

struct memtable_node *memtable_seek_before(const struct memtable *memtable, struct bytes key,
                                           struct lsm_version version)
{
    struct memtable_target target = memtable_target(key, version);
    struct memtable_node *before;
    (void)memtable_search(memtable, &target, NULL, &before);
    return before == memtable->head ? NULL : before;
}

struct memtable_node *memtable_last(const struct memtable *memtable)
{
    struct memtable_node *node = memtable->head;
    for (uint32_t level = MEMTABLE_HEIGHT_MAX; level-- > 0;)
        for (struct memtable_node *next; (next = memtable_link(node, level)) != NULL;)
            node = next;
    return node == memtable->head ? NULL : node;
}

static void memtable_previous_fill(const struct memtable *memtable, struct memtable_node **previous)
{
    uint32_t height = atomic_load_explicit(&memtable->height, memory_order_relaxed);
    for (uint32_t level = height; level < MEMTABLE_HEIGHT_MAX; level++)
        previous[level] = memtable->head;
}

struct memtable_node *memtable_find_newest(struct memtable *memtable, struct bytes key,
                                           struct memtable_node **previous)
{
    struct memtable_target target = memtable_target(key, LSM_VERSION_MAX);
    struct memtable_node *before;
    struct memtable_node *next = memtable_search(memtable, &target, previous, &before);
    memtable_previous_fill(memtable, previous);
    if (next == NULL || memtable_compare_key(next, &target) != 0)
        return NULL;
    return next;
}

/* One key's search as memtable_prefetch() interleaves it with others. */
struct memtable_walk {
    struct memtable_target target;
    const struct memtable_node *node, *next;
    uint32_t level; /* of `next` */
};

static void memtable_walk_look(struct memtable_walk *walk)
{
    walk->next = memtable_link(walk->node, walk->level);
    __builtin_prefetch(walk->next);
    if (walk->level > 0)
        __builtin_prefetch(memtable_link(walk->node, walk->level - 1));
}

/* The node ahead is in the cache by now: go there or down. False at the bottom. */
static bool memtable_walk_step(struct memtable_walk *walk)
{
    if (walk->next != NULL && memtable_compare(walk->next, &walk->target) < 0)
        walk->node = walk->next;
    else if (walk->level-- == 0)
        return false;
    memtable_walk_look(walk);
    return true;
}

void memtable_prefetch(const struct memtable *memtable, const struct bytes *keys, uint32_t count)
{
    struct memtable_walk walks[MEMTABLE_PREFETCH_MAX];
    uint32_t live = 0;
    uint32_t level = atomic_load_explicit(&memtable->height, memory_order_relaxed) - 1;
    invariant(count <= MEMTABLE_PREFETCH_MAX);
    for (uint32_t i = 0; i < count; i++) {
        struct memtable_walk *walk = &walks[live++];
        *walk = (struct memtable_walk){.target = memtable_target(keys[i], LSM_VERSION_MAX),
                                       .node = memtable->head,
                                       .level = level};
        memtable_walk_look(walk);
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

/* True when the row follows the finger's directly: then previous[] below `height` is set. A link
 * high
 * up may have been overtaken by rows of other tables; a few steps forward repair it. */
static bool memtable_follow_finger(const struct memtable_finger *finger,
                                   const struct memtable_target *target, uint32_t height,
                                   struct memtable_node **previous)
{
    if (finger->last == NULL || finger->table != target->key.data[0])
        return false;
    struct memtable_node *next = memtable_link(finger->last, 0);
    if (memtable_compare(finger->last, target) >= 0 ||
        (next != NULL && memtable_compare(next, target) <= 0))
        return false;
    for (uint32_t level = 0; level < height; level++) {
        struct memtable_node *node = finger->previous[level];
        uint32_t steps = 0;
        while ((next = memtable_link(node, level)) != NULL && memtable_compare(next, target) < 0) {
            if (++steps > 8)
                return false;
            node = next;
        }
        previous[level] = node;
    }
    for (uint32_t level = height; level < MEMTABLE_HEIGHT_MAX; level++)
        previous[level] = finger->previous[level];
    return true;
}

static struct memtable_node *memtable_build(struct memtable *memtable, uint32_t height,
                                            const struct memtable_target *target,
                                            enum lsm_kind kind, struct bytes value)
{
    uint32_t links = height + memtable_is_indexed(memtable, target->key);
    size_t bytes =
        sizeof(struct memtable_node) + links * sizeof(void *) + target->key.size + value.size;
    struct memtable_node *node = memtable_take(memtable, bytes);
    node->prefix = target->prefix;
    node->version_main = target->version.main;
    node->version_sub = target->version.sub;
    node->value_bytes = (uint32_t)value.size;
    node->key_bytes = (uint32_t)target->key.size;
    node->kind = (uint8_t)kind;
    node->height = (uint8_t)height;
    node->links = (uint8_t)links;
    node->reserved = 0;
    uint8_t *tail = (uint8_t *)&node->next[links];
    memcpy(tail, target->key.data, target->key.size);
    if (value.size != 0)
        memcpy(tail + target->key.size, value.data, value.size);
    uint64_t taken = atomic_load_explicit(&memtable->bytes, memory_order_relaxed);
    atomic_store_explicit(&memtable->bytes, taken + bytes, memory_order_relaxed);
    taken = atomic_load_explicit(&memtable->logical_bytes, memory_order_relaxed);
    atomic_store_explicit(&memtable->logical_bytes, taken + target->key.size + value.size,
                          memory_order_relaxed);
    return node;
}

static void memtable_check_place(const struct memtable *memtable,
                                 const struct memtable_node *before,
                                 const struct memtable_node *after,
                                 const struct memtable_target *target)
{
    /* Within a key versions only rise, so its newest row is what follows. */
    invariant(before == memtable->head || memtable_compare_key(before, target) < 0);
    invariant(after == NULL || memtable_compare(after, target) > 0);
}

void memtable_insert(struct memtable *memtable, struct memtable_node *const *found,
                     struct bytes key, struct lsm_version version, enum lsm_kind kind,
                     struct bytes value)
{
    invariant(key.size > 0 && key.size <= LSM_KEY_BYTES_MAX && value.size <= LSM_VALUE_BYTES_MAX);
    invariant(kind == LSM_VALUE || (kind == LSM_TOMBSTONE && value.size == 0));
    struct memtable_target target = memtable_target(key, version);
    uint32_t height = memtable_draw_height(memtable);
    struct memtable_finger *finger = memtable_finger(memtable, key);
    struct memtable_node *searched[MEMTABLE_HEIGHT_MAX];
    struct memtable_node *const *previous = found;
    if (previous == NULL) {
        if (!memtable_follow_finger(finger, &target, height, searched)) {
            struct memtable_node *before;
            (void)memtable_search(memtable, &target, searched, &before);
            memtable_previous_fill(memtable, searched);
        }
        previous = searched;
    }
    memtable_check_place(memtable, previous[0], memtable_link(previous[0], 0), &target);

    struct memtable_node *node = memtable_build(memtable, height, &target, kind, value);
    if (height > atomic_load_explicit(&memtable->height, memory_order_relaxed))
        atomic_store_explicit(&memtable->height, height, memory_order_relaxed);
    for (uint32_t level = 0; level < height; level++) {
        atomic_init(&node->next[level], memtable_link(previous[level], level));
        atomic_store_explicit(&previous[level]->next[level], node, memory_order_release);
        finger->previous[level] = node;
    }
    if (memtable_is_indexed(memtable, key))
        memtable_index_publish(&memtable->index, node, bloom_hash(key));
    for (uint32_t level = height; level < MEMTABLE_HEIGHT_MAX; level++)
        finger->previous[level] = previous[level];
    finger->last = node;
    finger->table = key.data[0];
    memtable->row_count++;
    memtable->stamp++;
}
