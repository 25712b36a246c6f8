#include "core/mesh.h"

#include <ck_ring.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "core/invariant.h"

/* ck_ring publishes its indices in assembly, which ThreadSanitizer cannot see. These tell it that
 * what happened before a send happened before its receipt, and to trust the ring with its slots. */
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
extern void AnnotateIgnoreReadsBegin(const char *file, int line);
extern void AnnotateIgnoreReadsEnd(const char *file, int line);
#define mesh_hand_over(ring) __tsan_release(ring)
#define mesh_take_over(ring) __tsan_acquire(ring)
#define mesh_ignore_begin()  AnnotateIgnoreReadsBegin(__FILE__, __LINE__)
#define mesh_ignore_end()    AnnotateIgnoreReadsEnd(__FILE__, __LINE__)
#else
#define mesh_hand_over(ring) ((void)(ring))
#define mesh_take_over(ring) ((void)(ring))
#define mesh_ignore_begin()  ((void)0)
#define mesh_ignore_end()    ((void)0)
#endif

CK_RING_PROTOTYPE(mesh, mesh_message)

struct mesh_ring {
    _Alignas(CACHE_LINE_BYTES) struct ck_ring ring;
    struct mesh_message *slots;
};

/* One per core, alone on its line: producers read it once per turn and destination. */
struct mesh_sleeper {
    _Alignas(CACHE_LINE_BYTES) _Atomic uint32_t sleeping;
};

struct mesh {
    uint32_t core_count;
    uint32_t ring_slots;
    struct mesh_sleeper *sleepers;
    struct mesh_ring *rings; /* [from * core_count + to] */
    struct mesh_message *messages;
};

/* Orders an earlier store before a later load of another variable, on both sides of the sleep
 * protocol. ThreadSanitizer has no model of fences; nothing it checks depends on these. */
static inline void mesh_fence(void)
{
#pragma GCC diagnostic push
#if defined(__SANITIZE_THREAD__)
#pragma GCC diagnostic ignored "-Wtsan"
#endif
    atomic_thread_fence(memory_order_seq_cst);
#pragma GCC diagnostic pop
}

static inline struct mesh_ring *mesh_ring_of(const struct mesh *mesh, uint32_t from, uint32_t to)
{
    invariant(from < mesh->core_count && to < mesh->core_count);
    return &mesh->rings[from * mesh->core_count + to];
}

int mesh_create(uint32_t core_count, uint32_t ring_slots, struct mesh **mesh_out)
{
    invariant(core_count > 0 && core_count <= MESH_CORES_MAX);
    invariant(ring_slots >= 2 && u64_is_power_of_two(ring_slots));
    size_t ring_count = (size_t)core_count * core_count;
    size_t slot_bytes = (size_t)ring_slots * sizeof(struct mesh_message);

    struct mesh *mesh = calloc(1, sizeof(*mesh));
    if (mesh == NULL)
        return -ENOMEM;
    mesh->core_count = core_count;
    mesh->ring_slots = ring_slots;
    mesh->sleepers = aligned_alloc(CACHE_LINE_BYTES, core_count * sizeof(*mesh->sleepers));
    mesh->rings = aligned_alloc(CACHE_LINE_BYTES, ring_count * sizeof(*mesh->rings));
    mesh->messages = aligned_alloc(CACHE_LINE_BYTES, ring_count * slot_bytes);
    if (mesh->sleepers == NULL || mesh->rings == NULL || mesh->messages == NULL) {
        mesh_destroy(mesh);
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < core_count; i++)
        atomic_init(&mesh->sleepers[i].sleeping, 0);
    for (size_t i = 0; i < ring_count; i++) {
        ck_ring_init(&mesh->rings[i].ring, ring_slots);
        mesh->rings[i].slots = mesh->messages + i * ring_slots;
    }
    *mesh_out = mesh;
    return 0;
}

void mesh_destroy(struct mesh *mesh)
{
    if (mesh == NULL)
        return;
    free(mesh->messages);
    free(mesh->rings);
    free(mesh->sleepers);
    free(mesh);
}

uint32_t mesh_core_count(const struct mesh *mesh)
{
    return mesh->core_count;
}

bool mesh_send(struct mesh *mesh, uint32_t from, uint32_t to, const struct mesh_message *message)
{
    invariant(message->kind < MESH_KIND_MAX);
    struct mesh_ring *ring = mesh_ring_of(mesh, from, to);
    struct mesh_message *slot = ck_ring_enqueue_reserve_spsc_mesh(&ring->ring, ring->slots);
    if (slot == NULL)
        return false;
    mesh_ignore_begin();
    *slot = *message;
    slot->from = (uint16_t)from;
    mesh_ignore_end();
    mesh_hand_over(ring);
    ck_ring_enqueue_commit_spsc(&ring->ring);
    return true;
}

bool mesh_receive(struct mesh *mesh, uint32_t from, uint32_t to, struct mesh_message *message)
{
    struct mesh_ring *ring = mesh_ring_of(mesh, from, to);
    if (ck_ring_size(&ring->ring) == 0)
        return false;
    if (from != to && buggify("mesh: the producer's index is seen late"))
        return false;
    mesh_take_over(ring);
    mesh_ignore_begin();
    bool received = ck_ring_dequeue_spsc_mesh(&ring->ring, ring->slots, message);
    mesh_ignore_end();
    invariant(received); /* nobody else takes from it */
    invariant(message->from == from && message->kind < MESH_KIND_MAX);
    return true;
}

void mesh_sleep_begin(struct mesh *mesh, uint32_t core)
{
    invariant(core < mesh->core_count);
    atomic_store_explicit(&mesh->sleepers[core].sleeping, 1, memory_order_relaxed);
    mesh_fence();
}

void mesh_sleep_end(struct mesh *mesh, uint32_t core)
{
    invariant(core < mesh->core_count);
    atomic_store_explicit(&mesh->sleepers[core].sleeping, 0, memory_order_relaxed);
}

bool mesh_has_mail(const struct mesh *mesh, uint32_t core)
{
    for (uint32_t from = 0; from < mesh->core_count; from++) {
        if (ck_ring_size(&mesh_ring_of(mesh, from, core)->ring) > 0)
            return true;
    }
    return false;
}

bool mesh_must_wake(struct mesh *mesh, uint32_t from, uint32_t to)
{
    invariant(from != to); /* the ring to oneself is drained before sleeping */
    _Atomic uint32_t *sleeping = &mesh->sleepers[to].sleeping;
    mesh_fence();
    if (atomic_load_explicit(sleeping, memory_order_relaxed) == 0)
        return false;
    return atomic_exchange_explicit(sleeping, 0, memory_order_relaxed) == 1;
}
