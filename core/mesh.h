/*
 * mesh.h - messages between the cores of one process: an N x N grid of single-producer,
 * single-consumer rings (Concurrency Kit).
 *
 * Story     A message is 64 bytes: a kind and up to seven words. What it points to changes owner
 *           with it, and goes home to its owner by another message to be freed. A core about to
 *           sleep sets its flag, fences, looks at its rings once more and only then waits; a
 *           producer publishes, fences, and wakes the consumer if the flag is set. Both fences are
 *           needed. The ring to oneself is drained in the same turn without a wake-up.
 * Owner     Ring (from, to): tail by `from`, head by `to`; each index has its own cache line.
 * Threads   mesh_send() by core `from`, mesh_receive() by core `to`.
 * Errors    mesh_send() answers false when the ring is full: back-pressure, never a drop.
 * Limits    ring_slots messages (a power of two; one slot stays empty).
 * Source    io_uring_prep_msg_ring(3); docs/internals/architecture.md.
 */
#ifndef CORE_MESH_H
#define CORE_MESH_H

#include "core/base.h"

#define MESH_MESSAGE_BYTES 64
#define MESH_CORES_MAX     64
#define MESH_KIND_MAX      64

struct mesh_message {
    uint16_t kind;  /* of the application's enum; indexes the receiver's handler table */
    uint16_t from;  /* set by mesh_send() */
    uint32_t small; /* free for the kind */
    uint64_t word[7];
};
_Static_assert(sizeof(struct mesh_message) == MESH_MESSAGE_BYTES, "one cache line");

struct mesh;

must_check int mesh_create(uint32_t core_count, uint32_t ring_slots, struct mesh **mesh);
void mesh_destroy(struct mesh *mesh); /* NULL is fine */
uint32_t mesh_core_count(const struct mesh *mesh);

must_check bool mesh_send(struct mesh *mesh, uint32_t from, uint32_t to,
                          const struct mesh_message *message);
bool mesh_receive(struct mesh *mesh, uint32_t from, uint32_t to, struct mesh_message *message);

/* Sleep protocol, consumer side: announce, then check mesh_has_mail() once more before waiting. */
void mesh_sleep_begin(struct mesh *mesh, uint32_t core);
void mesh_sleep_end(struct mesh *mesh, uint32_t core);
bool mesh_has_mail(const struct mesh *mesh, uint32_t core);

/* Producer side, once per turn after the sends: true when `to` sleeps and this caller must wake it
 * (exactly one caller is told so per sleep). */
bool mesh_must_wake(struct mesh *mesh, uint32_t from, uint32_t to);

#endif
