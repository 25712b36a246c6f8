#include "core/reactor_uring.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "core/err.h"
#include "core/logger.h"

#define HUGE_PAGE_BYTES    ((uint64_t)2 * 1024 * 1024)
#define REGISTER_BYTES_MAX GIB /* the kernel's limit for one registered buffer */
#define FILES_SPARE        64u /* descriptors besides files_max: rings, eventfds, log, libraries */

/* A multishot accept takes what waits in the backlog in one go, before anybody can refuse any of
 * it. With fewer descriptors than this, connections are accepted one by one. */
#define FILES_MULTISHOT_MIN 65536u

/* Workers for what io_uring cannot do without blocking: sync, allocate, names. Per ring. */
#define WORKERS_BOUNDED_MAX   4u
#define WORKERS_UNBOUNDED_MAX 4u

/* ---- features ------------------------------------------------------------------------------- */

static bool feature_disabled(const char *list, const char *name)
{
    size_t length = strlen(name);
    for (const char *at = list; at != NULL && *at != '\0';) {
        const char *end = strchrnul(at, ',');
        if ((size_t)(end - at) == length && memcmp(at, name, length) == 0)
            return true;
        at = *end == ',' ? end + 1 : end;
    }
    return false;
}

static void features_wanted(struct reactor *reactor)
{
    const char *list = reactor->options.disable_features;
    reactor->features = (struct uring_features){
        .defer_taskrun = !feature_disabled(list, "defer_taskrun"),
        .multishot_recv = !feature_disabled(list, "multishot_recv"),
        .multishot_accept = !feature_disabled(list, "multishot_accept"),
        .registered_buffers = !feature_disabled(list, "registered_buffers"),
        .msg_ring = !feature_disabled(list, "msg_ring"),
        .ftruncate = !feature_disabled(list, "ftruncate"),
    };
}

static int features_probe(struct reactor *reactor, char *reason, size_t reason_bytes)
{
    static const uint8_t needed[] = {
        IORING_OP_SEND,     IORING_OP_RECV,     IORING_OP_SENDMSG,  IORING_OP_ACCEPT,
        IORING_OP_CONNECT,  IORING_OP_READ,     IORING_OP_WRITE,    IORING_OP_FSYNC,
        IORING_OP_RENAMEAT, IORING_OP_UNLINKAT, IORING_OP_MKDIRAT,  IORING_OP_LINKAT,
        IORING_OP_STATX,    IORING_OP_OPENAT,   IORING_OP_POLL_ADD, IORING_OP_FALLOCATE,
    };
    struct io_uring_probe *probe = io_uring_get_probe_ring(&reactor->ring);
    if (probe == NULL) {
        snprintf(reason, reason_bytes,
                 "io_uring: the kernel does not tell which operations it has");
        return -ENOSYS;
    }
    int error = 0;
    for (size_t i = 0; i < ARRAY_COUNT(needed); i++)
        if (!io_uring_opcode_supported(probe, needed[i]))
            error = -ENOSYS;
    if (!io_uring_opcode_supported(probe, IORING_OP_MSG_RING))
        reactor->features.msg_ring = false;
    if (!io_uring_opcode_supported(probe, URING_OP_FTRUNCATE))
        reactor->features.ftruncate = false;
    io_uring_free_probe(probe);
    if (error != 0) {
        struct utsname name;
        uname(&name);
        snprintf(reason, reason_bytes,
                 "io_uring lacks operations that are needed; Linux >= 6.1 is required, found %s",
                 name.release);
    }
    return error;
}

/* ---- ring ----------------------------------------------------------------------------------- */

static void explain_setup(int error, char *reason, size_t reason_bytes)
{
    struct utsname name;
    uname(&name);
    char setting[16] = "?";
    FILE *file = fopen("/proc/sys/kernel/io_uring_disabled", "re");
    if (file != NULL) {
        if (fscanf(file, "%15s", setting) != 1)
            snprintf(setting, sizeof(setting), "?");
        fclose(file);
    }
    switch (-error) {
    case EPERM:
        snprintf(reason, reason_bytes,
                 "io_uring_setup: EPERM. io_uring is blocked: sysctl kernel.io_uring_disabled=%s; "
                 "in a container run with a seccomp profile that allows "
                 "io_uring_setup/enter/register (docker: --security-opt seccomp=<profile>).",
                 setting);
        break;
    case ENOSYS:
        snprintf(reason, reason_bytes,
                 "io_uring_setup: ENOSYS: this kernel or sandbox has no io_uring; Linux >= 6.1 is "
                 "required, found %s.",
                 name.release);
        break;
    case ENOMEM:
        snprintf(reason, reason_bytes,
                 "io_uring_setup: ENOMEM: out of memory, or ulimit -l is too low; raise it or "
                 "grant CAP_IPC_LOCK.");
        break;
    default:
        snprintf(reason, reason_bytes, "io_uring_setup: %s; Linux >= 6.1 is required, found %s.",
                 err_name(error), name.release);
        break;
    }
}

static int ring_try(struct reactor *reactor, uint32_t flags, struct io_uring_params *params)
{
    memset(params, 0, sizeof(*params));
    params->flags = flags | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP | IORING_SETUP_SUBMIT_ALL |
                    IORING_SETUP_TASKRUN_FLAG;
    params->cq_entries = URING_CQ_ENTRIES;
    return io_uring_queue_init_params(URING_SQ_ENTRIES, &reactor->ring, params);
}

static int ring_open(struct reactor *reactor, char *reason, size_t reason_bytes)
{
    struct io_uring_params params;
    int error = -EINVAL;
    if (reactor->features.defer_taskrun)
        error = ring_try(reactor, IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN, &params);
    if (error == -EINVAL) { /* 5.19 to 6.0, or asked to do without */
        reactor->features.defer_taskrun = false;
        error = ring_try(reactor, IORING_SETUP_COOP_TASKRUN, &params);
    }
    if (error != 0) {
        explain_setup(error, reason, reason_bytes);
        return error;
    }
    invariant((params.features & IORING_FEAT_NODROP) != 0);
    invariant((params.features & IORING_FEAT_SUBMIT_STABLE) != 0);
    invariant((params.features & IORING_FEAT_EXT_ARG) != 0);
    invariant(*reactor->ring.sq.kring_entries == URING_SQ_ENTRIES);
    /* Slot i of the queue always means SQE i; uring_flush() relies on it. */
    for (uint32_t i = 0; i < URING_SQ_ENTRIES; i++)
        reactor->ring.sq.array[i] = i;
    if ((params.features & URING_FEAT_NO_IOWAIT) != 0)
        reactor->enter_flags |= URING_ENTER_NO_IOWAIT;
    if (io_uring_register_ring_fd(&reactor->ring) == 1)
        reactor->enter_flags |= IORING_ENTER_REGISTERED_RING;
    io_uring_ring_dontfork(&reactor->ring);
    unsigned workers[2] = {WORKERS_BOUNDED_MAX, WORKERS_UNBOUNDED_MAX};
    io_uring_register_iowq_max_workers(&reactor->ring, workers); /* the default works too */
    return 0;
}

/* ---- memory --------------------------------------------------------------------------------- */

static uint8_t *map_aligned(uint64_t bytes, uint64_t alignment)
{
    uint8_t *mapping = mmap(NULL, bytes + alignment, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapping == MAP_FAILED)
        return NULL;
    uint8_t *aligned = (uint8_t *)u64_round_up((uintptr_t)mapping, alignment);
    if (aligned > mapping)
        munmap(mapping, (size_t)(aligned - mapping));
    uint8_t *end = mapping + bytes + alignment;
    if (end > aligned + bytes)
        munmap(aligned + bytes, (size_t)(end - (aligned + bytes)));
    return aligned;
}

/* The arena works without registration too, only slower: the kernel then pins pages per call. */
static void arena_register(struct reactor *reactor)
{
    if (!reactor->features.registered_buffers)
        return;
    struct iovec whole = {reactor->arena, reactor->arena_bytes};
    int error = reactor->arena_bytes > REGISTER_BYTES_MAX
                    ? -EFAULT
                    : io_uring_register_buffers(&reactor->ring, &whole, 1);
    if (error == 0)
        return;
    reactor->features.registered_buffers = false;
    struct rlimit limit = {0};
    getrlimit(RLIMIT_MEMLOCK, &limit);
    log_warn("registering the I/O buffers failed; raise ulimit -l or grant CAP_IPC_LOCK; "
             "continuing with unregistered buffers",
             LOG_U64("mib", reactor->arena_bytes / MIB), LOG_ERROR(error),
             LOG_U64("memlock_limit_kib", limit.rlim_cur / KIB));
}

static int arena_open(struct reactor *reactor)
{
    reactor->arena_bytes = u64_round_up(reactor->options.buffer_bytes, HUGE_PAGE_BYTES);
    if (reactor->arena_bytes == 0) {
        reactor->features.registered_buffers = false;
        return 0;
    }
    reactor->arena = map_aligned(reactor->arena_bytes, HUGE_PAGE_BYTES);
    if (reactor->arena == NULL)
        return -ENOMEM;
    madvise(reactor->arena, reactor->arena_bytes, MADV_HUGEPAGE); /* fewer pages to pin */
    arena_register(reactor);
    return buffer_pool_create(reactor->arena, reactor->arena_bytes, &reactor->buffers);
}

static int recv_ring_open(struct reactor *reactor)
{
    uint32_t count = reactor->options.recv_buffer_count;
    uint32_t bytes = reactor->options.recv_buffer_bytes;
    invariant(u64_is_power_of_two(count) && count <= 32768);
    invariant(bytes > 0);
    reactor->recv_ring_bytes = u64_round_up(count * sizeof(struct io_uring_buf), 4096);
    reactor->recv_memory_bytes = u64_round_up((uint64_t)count * bytes, 4096);
    reactor->recv_memory = map_aligned(reactor->recv_memory_bytes, 4096);
    struct io_uring_buf_ring *ring = (void *)map_aligned(reactor->recv_ring_bytes, 4096);
    reactor->recv_ring = ring;
    if (ring == NULL || reactor->recv_memory == NULL)
        return -ENOMEM;
    io_uring_buf_ring_init(ring);
    for (uint32_t id = 0; id < count; id++)
        uring_recv_buffer_return(reactor, id);
    struct io_uring_buf_reg registration = {
        .ring_addr = (uint64_t)(uintptr_t)ring,
        .ring_entries = count,
        .bgid = URING_RECV_GROUP,
    };
    return io_uring_register_buf_ring(&reactor->ring, &registration, 0);
}

/* ---- create and destroy --------------------------------------------------------------------- */

/* Returns how many descriptors there may be; whoever needs all of files_max looks. */
static uint64_t files_limit_raise(uint32_t files_max)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return 0;
    rlim_t now = limit.rlim_cur;
    if (now >= files_max + FILES_SPARE)
        return now;
    limit.rlim_cur = limit.rlim_max;
    return setrlimit(RLIMIT_NOFILE, &limit) == 0 ? limit.rlim_max : now;
}

static uint64_t random_seed(uint64_t wanted)
{
    uint64_t seed = wanted;
    if (seed == 0 && getrandom(&seed, sizeof(seed), 0) != (ssize_t)sizeof(seed))
        fatal("getrandom: %s", strerror(errno));
    return seed;
}

static void log_features(const struct reactor *reactor)
{
    const struct uring_features *features = &reactor->features;
    log_debug("io_uring ready", LOG_U64("core", reactor->options.core),
              LOG_BOOL("defer_taskrun", features->defer_taskrun),
              LOG_BOOL("multishot_recv", features->multishot_recv),
              LOG_BOOL("multishot_accept", features->multishot_accept),
              LOG_BOOL("registered_buffers", features->registered_buffers),
              LOG_BOOL("msg_ring", features->msg_ring), LOG_BOOL("ftruncate", features->ftruncate));
}

/* Undoes any prefix of reactor_create(). */
static void reactor_free(struct reactor *reactor, bool ring_is_open)
{
    if (ring_is_open)
        io_uring_queue_exit(&reactor->ring); /* ends the poll of interrupt_fd */
    buffer_pool_destroy(reactor->buffers);
    if (reactor->arena != NULL)
        munmap(reactor->arena, reactor->arena_bytes);
    if (reactor->recv_ring != NULL)
        munmap(reactor->recv_ring, reactor->recv_ring_bytes);
    if (reactor->recv_memory != NULL)
        munmap(reactor->recv_memory, reactor->recv_memory_bytes);
    if (reactor->interrupt_fd >= 0)
        close(reactor->interrupt_fd);
    free(reactor->send_headers);
    free(reactor->stash);
    free(reactor);
}

int reactor_create(const struct reactor_options *options, struct reactor **reactor_out,
                   char *reason, size_t reason_bytes)
{
    struct reactor *reactor = calloc(1, sizeof(*reactor));
    if (reactor == NULL)
        return -ENOMEM;
    const char *doing = "io_uring";
    bool ring_is_open = false;
    reactor->options = *options;
    reactor->interrupt_fd = -1;
    queue_init(&reactor->deferred, QUEUE_UNBOUNDED);
    queue_init(&reactor->starved, QUEUE_UNBOUNDED);
    prng_init(&reactor->prng, random_seed(options->random_seed));
    features_wanted(reactor);
    if (files_limit_raise(options->files_max) < FILES_MULTISHOT_MIN)
        reactor->features.multishot_accept = false;
    reason[0] = '\0';

    int error = ring_open(reactor, reason, reason_bytes);
    if (error != 0)
        goto fail;
    ring_is_open = true;
    error = features_probe(reactor, reason, reason_bytes);
    if (error != 0)
        goto fail;
    doing = "allocating send headers";
    reactor->send_headers = calloc(URING_SQ_ENTRIES, sizeof(reactor->send_headers[0]));
    error = reactor->send_headers == NULL ? -ENOMEM : 0;
    if (error != 0)
        goto fail;
    doing = "mapping the I/O buffers";
    error = arena_open(reactor);
    if (error != 0)
        goto fail;
    doing = "registering the ring of receive buffers (Linux >= 5.19)";
    error = recv_ring_open(reactor);
    if (error != 0)
        goto fail;
    doing = "eventfd";
    reactor->interrupt_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    error = reactor->interrupt_fd < 0 ? -errno : 0;
    if (error != 0)
        goto fail;
    uring_arm_interrupt(reactor);
    reactor->now_ns = reactor_clock_ns(reactor);
    log_features(reactor);
    *reactor_out = reactor;
    return 0;

fail:
    if (reason[0] == '\0')
        snprintf(reason, reason_bytes, "%s: %s", doing, err_text(error));
    reactor_free(reactor, ring_is_open);
    return error;
}

void reactor_destroy(struct reactor *reactor)
{
    if (reactor == NULL)
        return;
    invariant(reactor->ops_pending == 0);
    invariant(queue_is_empty(&reactor->deferred));
    reactor_free(reactor, true);
}
