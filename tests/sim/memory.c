#include "tests/sim/memory.h"

#include <stdlib.h>

#include "core/invariant.h"

#if SIM_HEAPS
#include <mimalloc.h>
#include <stdio.h>

static mi_heap_t *world_heap(void)
{
    return mi_heap_get_backing();
}

void *sim_alloc(size_t bytes)
{
    void *memory = mi_heap_zalloc(world_heap(), bytes);
    invariant(memory != NULL);
    return memory;
}

void *sim_alloc_dirty(size_t bytes)
{
    void *memory = mi_heap_malloc(world_heap(), bytes);
    invariant(memory != NULL);
    return memory;
}

void *sim_realloc(void *memory, size_t bytes)
{
    void *grown = mi_heap_realloc(world_heap(), memory, bytes);
    invariant(grown != NULL);
    return grown;
}

struct sim_heap *sim_heap_create(void)
{
    return (struct sim_heap *)(void *)mi_heap_new();
}

void sim_heap_destroy(struct sim_heap *heap)
{
    mi_heap_destroy((mi_heap_t *)(void *)heap);
}

void sim_heap_enter(struct sim_heap *heap)
{
    mi_heap_set_default(heap == NULL ? world_heap() : (mi_heap_t *)(void *)heap);
}

static bool count_block(const mi_heap_t *heap, const mi_heap_area_t *area, void *block,
                        size_t bytes, void *argument)
{
    struct sim_heap_use *use = argument;
    (void)heap;
    (void)area;
    if (block == NULL) /* the area itself */
        return true;
    use->blocks++;
    use->bytes += bytes;
    use->one_bytes = bytes;
    return true;
}

struct sim_heap_use sim_heap_use(struct sim_heap *heap)
{
    struct sim_heap_use use = {0};
    mi_heap_visit_blocks((mi_heap_t *)(void *)heap, true, count_block, &use);
    return use;
}

#else

struct sim_heap {
    char unused;
};

void *sim_alloc(size_t bytes)
{
    void *memory = calloc(1, bytes);
    invariant(memory != NULL);
    return memory;
}

void *sim_alloc_dirty(size_t bytes)
{
    void *memory = malloc(bytes);
    invariant(memory != NULL);
    return memory;
}

void *sim_realloc(void *memory, size_t bytes)
{
    void *grown = realloc(memory, bytes);
    invariant(grown != NULL);
    return grown;
}

struct sim_heap *sim_heap_create(void)
{
    return sim_alloc(sizeof(struct sim_heap));
}

void sim_heap_destroy(struct sim_heap *heap)
{
    free(heap);
}

void sim_heap_enter(struct sim_heap *heap)
{
    (void)heap;
}

struct sim_heap_use sim_heap_use(struct sim_heap *heap)
{
    (void)heap;
    return (struct sim_heap_use){0};
}

#endif

char *sim_strdup(const char *text)
{
    size_t bytes = strlen(text) + 1;
    return memcpy(sim_alloc(bytes), text, bytes);
}
