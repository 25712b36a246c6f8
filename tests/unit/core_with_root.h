/*
 * core_with_root.h - a core on which functions run as fibers, and a scratch directory, for tests of
 * what works on real files.
 *
 * Owner     The test program that includes it; one such world at a time.
 */
#ifndef TESTS_UNIT_CORE_WITH_ROOT_H
#define TESTS_UNIT_CORE_WITH_ROOT_H

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/core.h"
#include "core/fiber.h"

static struct core *core;
static struct mesh *mesh;
static char root[64];

static inline void core_with_root_open(void)
{
    struct core_options options = {.reactor = {.core_count = 1,
                                               .files_max = 1024,
                                               .buffer_bytes = 16 * MIB,
                                               .recv_buffer_bytes = 4096,
                                               .recv_buffer_count = 16,
                                               .random_seed = 7},
                                   .fibers_max = 32};
    char reason[256] = "";
    cr_assert_eq(mesh_create(1, 256, &mesh), 0);
    cr_assert_eq(core_create(&options, mesh, &core, reason, sizeof(reason)), 0, "%s", reason);
    core_set_current(core);
    snprintf(root, sizeof(root), "/var/tmp/raft_test.XXXXXX");
    cr_assert_not_null(mkdtemp(root));
}

static inline void core_with_root_close(void)
{
    char command[128];
    snprintf(command, sizeof(command), "rm -rf %s", root);
    cr_assert_eq(system(command), 0);
    core_set_current(NULL);
    core_destroy(core);
    mesh_destroy(mesh);
}

/* A path in the scratch directory; good for the next seven calls. */
static inline const char *in_root(const char *name)
{
    static char paths[8][128];
    static int next;
    char *path = paths[next++ % 8];
    snprintf(path, 128, "%s/%s", root, name);
    return path;
}

struct job {
    void (*run)(void);
    bool finished;
};

static inline void job_main(void *argument)
{
    struct job *job = argument;
    job->run();
    job->finished = true;
}

/* Runs `function` in a fiber until it returns; should it hang, the suite has its timeout. */
static inline void in_fiber(void (*function)(void))
{
    struct job job = {.run = function};
    cr_assert_eq(fiber_spawn(core, FIBER_LATENCY, job_main, &job), 0);
    while (!job.finished)
        core_turn(core, true);
}

#endif
