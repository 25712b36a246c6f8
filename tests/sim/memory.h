/*
 * memory.h - who owns which memory: each running node has a heap that vanishes with it; the world's
 * own structures live outside.
 *
 * Story     Production code calls malloc(). While a node is entered, that is the node's heap, so a
 *           crash frees all of it at once. What the simulator allocates meanwhile (an operation in
 *           flight, a page of a disk) must come from sim_alloc(). Under a sanitizer there are no
 *           heaps: a crashed node's memory then stays allocated until the process ends.
 * Threads   One.
 */
#ifndef TESTS_SIM_MEMORY_H
#define TESTS_SIM_MEMORY_H

#include "core/base.h"

struct sim_heap;

void *sim_alloc(size_t bytes);       /* zeroed, of the world; freed by free() */
void *sim_alloc_dirty(size_t bytes); /* the same, not zeroed: to be filled at once */
void *sim_realloc(void *memory, size_t bytes);
char *sim_strdup(const char *text);

struct sim_heap *sim_heap_create(void);
void sim_heap_destroy(struct sim_heap *heap); /* with everything in it */
void sim_heap_enter(struct sim_heap *heap);   /* NULL: back to the world's */

/* What is allocated in it and not freed: how many blocks, of how many bytes, and how large one of
 * them is; all zero where there are no heaps. */
struct sim_heap_use {
    uint64_t blocks, bytes, one_bytes;
};
struct sim_heap_use sim_heap_use(struct sim_heap *heap);

#endif
