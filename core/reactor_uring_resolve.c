/* Host names. getaddrinfo() blocks, for many seconds when no server answers: what a core cannot
 * wait for runs on a thread of its own, detached, which shares one struct io_lookup with who asked.
 */
#include "core/reactor_uring.h"

#include <errno.h>
#include <netdb.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/err.h"

#define STACK_BYTES ((size_t)1 * MIB) /* name service modules are not ours; reserved, not touched */

/* L1  UNDER_WAY: the thread alone writes `error` and `address`, who asked looks at neither.
 * L2  whoever comes second frees it: the thread on DROPPED, who asked on FOUND. */
enum lookup_state { LOOKUP_UNDER_WAY, LOOKUP_FOUND, LOOKUP_DROPPED };

struct io_lookup {
    _Atomic(enum lookup_state) state;
    int error;
    struct io_address address;
    uint16_t port;
    char host[]; /* ends with a zero byte */
};

static int resolve(const char *host, uint16_t port, int flags, struct io_address *address)
{
    char service[8];
    snprintf(service, sizeof(service), "%u", port);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV | flags};
    struct addrinfo *found = NULL;
    int error = getaddrinfo(host, service, &hints, &found);
    switch (error) {
    case 0:
        break;
    case EAI_SYSTEM:
        return errno != 0 ? -errno : -EIO;
    case EAI_AGAIN:
        return -EAGAIN;
    case EAI_MEMORY:
        return -ENOMEM;
    default:
        return ERR_NOT_FOUND;
    }
    const struct addrinfo *chosen = found; /* clients that know "localhost" mean 127.0.0.1 */
    while (chosen != NULL && chosen->ai_family != AF_INET)
        chosen = chosen->ai_next;
    uring_address_from_socket(address, chosen != NULL ? chosen->ai_addr : found->ai_addr);
    freeaddrinfo(found);
    return 0;
}

int reactor_resolve(struct reactor *reactor, const char *host, uint16_t port,
                    struct io_address *address)
{
    (void)reactor;
    return resolve(host, port, 0, address);
}

/* A core that is pinned started us; its CPU has better things to do. */
static void leave_pinned_cpu(void)
{
    cpu_set_t set;
    if (sched_getaffinity(getpid(), sizeof(set), &set) == 0) /* of the first thread */
        (void)sched_setaffinity(0, sizeof(set), &set);
}

static void *lookup_run(void *argument)
{
    struct io_lookup *lookup = argument;
    pthread_setname_np(pthread_self(), "lookup");
    leave_pinned_cpu();
    lookup->error = resolve(lookup->host, lookup->port, 0, &lookup->address);
    enum lookup_state before =
        atomic_exchange_explicit(&lookup->state, LOOKUP_FOUND, memory_order_acq_rel);
    invariant(before != LOOKUP_FOUND);
    if (before == LOOKUP_DROPPED)
        free(lookup);
    return NULL;
}

static int lookup_start(const char *host, uint16_t port, struct io_lookup **out)
{
    size_t host_bytes = strlen(host) + 1;
    struct io_lookup *lookup = calloc(1, sizeof(*lookup) + host_bytes);
    if (lookup == NULL)
        return -ENOMEM;
    atomic_init(&lookup->state, LOOKUP_UNDER_WAY);
    lookup->port = port;
    memcpy(lookup->host, host, host_bytes);
    pthread_t thread;
    pthread_attr_t attributes;
    int error = pthread_attr_init(&attributes);
    if (error == 0) {
        (void)pthread_attr_setstacksize(&attributes, STACK_BYTES);
        (void)pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
        error = pthread_create(&thread, &attributes, lookup_run, lookup);
        pthread_attr_destroy(&attributes);
    }
    if (error != 0) {
        free(lookup);
        return -error;
    }
    *out = lookup;
    return -EINPROGRESS;
}

int reactor_resolve_aside(struct reactor *reactor, struct io_lookup **out, const char *host,
                          uint16_t port, struct io_address *address)
{
    (void)reactor;
    struct io_lookup *lookup = *out;
    if (lookup == NULL) {
        int error = resolve(host, port, AI_NUMERICHOST, address); /* touches no file, no socket */
        return error == ERR_NOT_FOUND ? lookup_start(host, port, out) : error;
    }
    invariant(lookup->port == port && strcmp(lookup->host, host) == 0);
    if (atomic_load_explicit(&lookup->state, memory_order_acquire) != LOOKUP_FOUND)
        return -EINPROGRESS;
    int error = lookup->error;
    if (error == 0)
        *address = lookup->address;
    *out = NULL;
    free(lookup);
    return error;
}

void io_lookup_drop(struct io_lookup *lookup)
{
    if (lookup == NULL)
        return;
    enum lookup_state before =
        atomic_exchange_explicit(&lookup->state, LOOKUP_DROPPED, memory_order_acq_rel);
    invariant(before != LOOKUP_DROPPED);
    if (before == LOOKUP_FOUND)
        free(lookup);
}
