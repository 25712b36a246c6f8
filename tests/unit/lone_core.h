/*
 * lone_core.h - one small core on the calling thread, for tests of what only needs a home.
 *
 * Owner     The test: create and destroy come in pairs.
 */
#ifndef TESTS_UNIT_LONE_CORE_H
#define TESTS_UNIT_LONE_CORE_H

#include <criterion/criterion.h>

#include "core/core.h"
#include "core/mesh.h"

static inline void lone_core_create(struct mesh **mesh, struct core **core)
{
    struct core_options options = {.reactor = {.core_count = 1,
                                               .files_max = 16,
                                               .buffer_bytes = 64 * KIB,
                                               .recv_buffer_bytes = 4096,
                                               .recv_buffer_count = 4},
                                   .fibers_max = 4};
    char reason[256] = "";
    cr_assert_eq(mesh_create(1, 16, mesh), 0);
    cr_assert_eq(core_create(&options, *mesh, core, reason, sizeof(reason)), 0, "%s", reason);
    core_set_current(*core);
}

static inline void lone_core_destroy(struct mesh *mesh, struct core *core)
{
    core_set_current(NULL);
    core_destroy(core);
    mesh_destroy(mesh);
}

#endif
