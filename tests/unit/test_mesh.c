#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include "core/mesh.h"
#include "core/prng.h"

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define STRESS_MESSAGES ((uint64_t)200000)
#elif defined(__OPTIMIZE__) && !KV_VERIFY
#define STRESS_MESSAGES ((uint64_t)10000000)
#else
#define STRESS_MESSAGES ((uint64_t)1000000)
#endif

Test(mesh, messages_arrive_whole_in_order_and_only_where_they_were_sent)
{
    enum { CORES = 3, SLOTS = 8 };
    struct mesh *mesh = NULL;
    cr_assert_eq(mesh_create(CORES, SLOTS, &mesh), 0);
    cr_assert_eq(mesh_core_count(mesh), CORES);
    uint64_t sent[CORES][CORES] = {0}, received[CORES][CORES] = {0};
    struct prng prng;
    prng_init(&prng, 11);
    for (int step = 0; step < 100000; step++) {
        uint32_t from = (uint32_t)prng_below(&prng, CORES), to = (uint32_t)prng_below(&prng, CORES);
        struct mesh_message message = {.kind = (uint16_t)(from * CORES + to), .small = to};
        if (prng_chance(&prng, 1, 2)) {
            for (int i = 0; i < 7; i++)
                message.word[i] = sent[from][to] * 7 + i;
            bool fits = sent[from][to] - received[from][to] < SLOTS - 1;
            cr_assert_eq(mesh_send(mesh, from, to, &message), fits);
            sent[from][to] += fits;
        } else {
            bool any = sent[from][to] > received[from][to];
            cr_assert_eq(mesh_receive(mesh, from, to, &message), any);
            if (!any)
                continue;
            cr_assert(message.kind == from * CORES + to && message.from == from);
            cr_assert_eq(message.small, to);
            for (int i = 0; i < 7; i++)
                cr_assert_eq(message.word[i], received[from][to] * 7 + i);
            received[from][to]++;
        }
        bool mail = false;
        for (uint32_t i = 0; i < CORES; i++)
            mail |= sent[i][to] > received[i][to];
        cr_assert_eq(mesh_has_mail(mesh, to), mail);
    }
    mesh_destroy(mesh);
}

Test(mesh, one_wake_for_each_sleep)
{
    struct mesh *mesh = NULL;
    cr_assert_eq(mesh_create(3, 2, &mesh), 0);
    cr_expect_not(mesh_must_wake(mesh, 0, 1), "it is awake");
    mesh_sleep_begin(mesh, 1);
    cr_expect_not(mesh_must_wake(mesh, 0, 2), "another one sleeps");
    cr_expect(mesh_must_wake(mesh, 0, 1));
    cr_expect_not(mesh_must_wake(mesh, 2, 1), "somebody else wakes it already");
    mesh_sleep_end(mesh, 1);
    mesh_sleep_begin(mesh, 1);
    mesh_sleep_end(mesh, 1);
    cr_expect_not(mesh_must_wake(mesh, 0, 1), "it woke by itself");
    mesh_destroy(mesh);
}

/* Two threads each way. Each sleeps on a semaphore whenever it sees no mail, and is woken only as
 * mesh_must_wake() says: a wake-up that is lost shows as a sleep that times out beside mail. */
struct stress {
    struct mesh *mesh;
    sem_t wake[2];
    _Atomic uint64_t sleeps, lost;
};

struct stress_side {
    struct stress *stress;
    uint32_t id;
};

static void stress_sleep(struct stress *stress, uint32_t id)
{
    mesh_sleep_begin(stress->mesh, id);
    if (!mesh_has_mail(stress->mesh, id)) {
        struct timespec limit;
        clock_gettime(CLOCK_REALTIME, &limit);
        limit.tv_sec += 5;
        atomic_fetch_add(&stress->sleeps, 1);
        int result;
        do {
            result = sem_timedwait(&stress->wake[id], &limit);
        } while (result != 0 && errno == EINTR);
        if (result != 0 && mesh_has_mail(stress->mesh, id))
            atomic_fetch_add(&stress->lost, 1);
    }
    mesh_sleep_end(stress->mesh, id);
}

static void *stress_run(void *argument)
{
    struct stress_side *side = argument;
    struct stress *stress = side->stress;
    uint32_t self = side->id, peer = 1 - side->id;
    uint64_t sent = 0, received = 0;
    struct prng prng;
    prng_init(&prng, self + 1);
    while (received < STRESS_MESSAGES || sent < STRESS_MESSAGES) {
        /* At most `window` more than the peer has sent here: both can never be out of it at once,
         * so that a side which sleeps always has something to come. */
        uint64_t window = 1 + prng_below(&prng, 40), sent_before = sent;
        uint64_t limit = u64_min(received + window, STRESS_MESSAGES);
        struct mesh_message message;
        while (sent < limit) {
            uint64_t *payload = malloc(sizeof(*payload));
            *payload = sent;
            message = (struct mesh_message){.kind = 1, .word = {sent, (uintptr_t)payload, ~sent}};
            if (!mesh_send(stress->mesh, self, peer, &message)) {
                free(payload);
                break;
            }
            sent++;
        }
        if (sent > sent_before && mesh_must_wake(stress->mesh, self, peer))
            sem_post(&stress->wake[peer]);
        while (mesh_receive(stress->mesh, peer, self, &message)) {
            uint64_t *payload = (uint64_t *)(uintptr_t)message.word[1];
            cr_assert(message.word[0] == received && message.word[2] == ~received);
            cr_assert_eq(*payload, received, "what a message points to came with it");
            free(payload);
            received++;
        }
        if (received < STRESS_MESSAGES && sent >= u64_min(received + window, STRESS_MESSAGES))
            stress_sleep(stress, self);
        if (atomic_load(&stress->lost) > 0)
            break;
    }
    return NULL;
}

Test(mesh, no_wake_is_lost_between_threads, .timeout = 600)
{
    struct stress stress = {0};
    struct stress_side sides[2] = {{&stress, 0}, {&stress, 1}};
    pthread_t threads[2];
    cr_assert_eq(mesh_create(2, 64, &stress.mesh), 0);
    for (int i = 0; i < 2; i++)
        sem_init(&stress.wake[i], 0, 0);
    for (int i = 0; i < 2; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, stress_run, &sides[i]), 0);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    cr_expect_eq(stress.lost, 0, "%lu of %lu sleeps missed their wake-up",
                 (unsigned long)stress.lost, (unsigned long)stress.sleeps);
    cr_expect_gt(stress.sleeps, 0);
    mesh_destroy(stress.mesh);
}

Test(mesh, a_core_outside_of_the_grid_is_noticed, .signal = SIGABRT)
{
    struct mesh *mesh = NULL;
    cr_assert_eq(mesh_create(2, 4, &mesh), 0);
    struct mesh_message message = {0};
    bool sent = mesh_send(mesh, 0, 2, &message);
    (void)sent;
}
