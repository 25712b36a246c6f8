/* Host names on the io_uring backend. What the name service answers, and when, is this file's
 * getaddrinfo(), unless the name is none of its own. */
#include "tests/unit/test_reactor.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <netdb.h>
#include <semaphore.h>
#include <stdatomic.h>

#include "core/err.h"

#define PORT 2380

typedef int resolver(const char *host, const char *service, const struct addrinfo *hints,
                     struct addrinfo **found);

static sem_t slow_may_end; /* one post lets one lookup of "slow.test" go on */
static atomic_uint asked;  /* names of ours that were looked up */

static int two_families(resolver *real, const char *service, const struct addrinfo *hints,
                        struct addrinfo **found)
{
    struct addrinfo numeric = *hints;
    numeric.ai_flags |= AI_NUMERICHOST;
    int error = real("::1", service, &numeric, found);
    return error != 0 ? error : real("10.1.2.3", service, &numeric, &(*found)->ai_next);
}

int getaddrinfo(const char *host, const char *service, const struct addrinfo *hints,
                struct addrinfo **found)
{
    static const char suffix[] = ".test";
    resolver *real = (resolver *)(uintptr_t)dlsym(RTLD_NEXT, "getaddrinfo");
    size_t bytes = strlen(host);
    if ((hints->ai_flags & AI_NUMERICHOST) != 0 || bytes < sizeof(suffix) ||
        strcmp(host + bytes + 1 - sizeof(suffix), suffix) != 0)
        return real(host, service, hints, found);
    atomic_fetch_add(&asked, 1);
    if (strcmp(host, "slow.test") == 0)
        while (sem_wait(&slow_may_end) != 0) {
        }
    if (strcmp(host, "silent.test") == 0)
        return EAI_AGAIN;
    if (strcmp(host, "six.test") == 0)
        return real("fd00::7", service, hints, found);
    return strcmp(host, "none.test") == 0 ? EAI_NONAME : two_families(real, service, hints, found);
}

/* Threads that look a name up, by the name that they give themselves. */
static uint32_t lookups_running(void)
{
    uint32_t count = 0;
    DIR *tasks = opendir("/proc/self/task");
    cr_assert_not_null(tasks);
    for (struct dirent *task; (task = readdir(tasks)) != NULL;) {
        char path[300], name[32] = "";
        snprintf(path, sizeof(path), "/proc/self/task/%s/comm", task->d_name);
        FILE *file = fopen(path, "re");
        if (file != NULL && fgets(name, sizeof(name), file) != NULL)
            count += strcmp(name, "lookup\n") == 0;
        if (file != NULL)
            fclose(file);
    }
    closedir(tasks);
    return count;
}

/* Asks until it is over. */
static int resolve_aside(struct reactor *reactor, const char *host, struct io_address *address)
{
    struct io_lookup *lookup = NULL;
    uint64_t deadline_ns = reactor_clock_ns(reactor) + WAIT_NS_MAX;
    int error = reactor_resolve_aside(reactor, &lookup, host, PORT, address);
    while (error == -EINPROGRESS) {
        cr_assert_not_null(lookup);
        cr_assert_lt(reactor_clock_ns(reactor), deadline_ns, "%s: stalled", host);
        usleep(1000);
        error = reactor_resolve_aside(reactor, &lookup, host, PORT, address);
    }
    cr_assert_null(lookup);
    return error;
}

Test(reactor_resolve, numbers_are_resolved_at_once)
{
    static const struct {
        const char *host, *text;
    } cases[] = {{"127.0.0.1", "127.0.0.1:2380"}, {"::1", "[::1]:2380"}};
    struct reactor *reactor = reactor_open_default("");
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct io_lookup *lookup = NULL;
        struct io_address address;
        cr_assert_eq(reactor_resolve_aside(reactor, &lookup, cases[i].host, PORT, &address), 0);
        cr_assert_null(lookup);
        cr_assert_str_eq(address.text, cases[i].text);
    }
    reactor_destroy(reactor);
}

Test(reactor_resolve, names_are_looked_up_aside_and_at_once_alike)
{
    static const struct {
        const char *why, *host;
        int error;
        const char *text;
    } cases[] = {
        {"the hosts file knows it", "localhost", 0, "127.0.0.1:2380"},
        {"of two families IPv4, though it comes second", "both.test", 0, "10.1.2.3:2380"},
        {"without IPv4 the first", "six.test", 0, "[fd00::7]:2380"},
        {"no such name", "none.test", ERR_NOT_FOUND, NULL},
        {"the servers do not answer", "silent.test", -EAGAIN, NULL},
    };
    struct reactor *reactor = reactor_open_default("");
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct io_address aside, blocking;
        cr_assert_eq(resolve_aside(reactor, cases[i].host, &aside), cases[i].error, "%s",
                     cases[i].why);
        cr_assert_eq(reactor_resolve(reactor, cases[i].host, PORT, &blocking), cases[i].error, "%s",
                     cases[i].why);
        if (cases[i].error == 0) {
            cr_assert_str_eq(aside.text, cases[i].text, "%s", cases[i].why);
            cr_assert_str_eq(blocking.text, cases[i].text, "%s", cases[i].why);
        }
    }
    reactor_destroy(reactor);
}

/* Returns when the thread is inside the lookup. */
static struct io_lookup *slow_begin(struct reactor *reactor)
{
    struct io_lookup *lookup = NULL;
    struct io_address address;
    unsigned before = atomic_load(&asked);
    cr_assert_eq(reactor_resolve_aside(reactor, &lookup, "slow.test", PORT, &address),
                 -EINPROGRESS);
    while (atomic_load(&asked) == before)
        usleep(1000);
    return lookup;
}

Test(reactor_resolve, who_asks_is_not_held_up, .timeout = 60)
{
    cr_assert_eq(sem_init(&slow_may_end, 0, 0), 0);
    struct reactor *reactor = reactor_open_default("");
    unsigned asked_before = atomic_load(&asked);
    struct io_lookup *lookup = slow_begin(reactor);
    struct io_address address;
    for (int i = 0; i < 3; i++)
        cr_assert_eq(reactor_resolve_aside(reactor, &lookup, "slow.test", PORT, &address),
                     -EINPROGRESS);
    cr_assert_eq(resolve_aside(reactor, "both.test", &address), 0, "others do not wait for it");
    cr_assert_eq(atomic_load(&asked), asked_before + 2, "asking again starts no other");
    sem_post(&slow_may_end);
    int error;
    while ((error = reactor_resolve_aside(reactor, &lookup, "slow.test", PORT, &address)) ==
           -EINPROGRESS)
        usleep(1000);
    cr_assert_eq(error, 0);
    cr_assert_null(lookup);
    cr_assert_str_eq(address.text, "10.1.2.3:2380");
    reactor_destroy(reactor);
}

/* In both orders; that nothing is lost or touched late is what the sanitizers say. */
Test(reactor_resolve, a_lookup_may_be_dropped_and_outlive_the_reactor, .timeout = 120)
{
    cr_assert_eq(sem_init(&slow_may_end, 0, 0), 0);
    io_lookup_drop(NULL);
    for (int round = 0; round < 20; round++) {
        struct reactor *reactor = reactor_open_default("");
        struct io_lookup *dropped = slow_begin(reactor), *found = slow_begin(reactor);
        cr_assert_geq(lookups_running(), 2);
        io_lookup_drop(dropped);
        reactor_destroy(reactor);
        sem_post(&slow_may_end);
        sem_post(&slow_may_end);
        if (round % 2 == 0)
            usleep(2000); /* most likely it is over by then */
        io_lookup_drop(found);
    }
    while (lookups_running() > 0)
        usleep(1000);
}
