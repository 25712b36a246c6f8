/*
 * main.c - raftd: reads the configuration, makes one thread per core, and waits for a signal.
 *
 * The only file of server/ that creates threads, handles signals and talks to the service manager;
 * the simulator does not link it. Exit codes: 0 stopped, 1 failed, 2 bad configuration, 78
 * (EX_CONFIG) when this machine cannot run it.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "core/core.h"
#include "core/disk_cpu.h"
#include "core/err.h"
#include "core/invariant.h"
#include "core/logger.h"
#include "server/node.h"
#include "server/node_private.h"

#define EXIT_MACHINE 78

struct core_thread {
    struct process *process;
    pthread_t thread;
    uint32_t core;
    int cpu; /* -1: not pinned */
};

struct process {
    struct config config;
    struct mesh *mesh;
    struct node *node;
    uint32_t core_count, cpu_count;
    pthread_barrier_t barrier;
    struct reactor *reactors[CONFIG_CORES_MAX];
    struct core *cores[CONFIG_CORES_MAX];
    struct core_thread threads[CONFIG_CORES_MAX];
    int create_error;
};

static struct process process;

static void thread_pin(const struct core_thread *self)
{
    if (self->cpu < 0)
        return;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)self->cpu, &set);
    pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
}

static void *thread_run(void *argument)
{
    struct core_thread *self = argument;
    struct process *owner = self->process;
    struct core_options options;
    struct core *core = NULL;
    char reason[512] = "";
    thread_pin(self);
    node_core_options(owner->node, self->core, owner->cpu_count, &options);
    int error = core_create(&options, owner->mesh, &core, reason, sizeof(reason));
    if (error < 0) {
        fprintf(stderr, "raftd: core %u: %s\n", self->core, reason);
        __atomic_store_n(&owner->create_error, error, __ATOMIC_RELEASE);
    } else {
        owner->reactors[self->core] = core_reactor(core);
        owner->cores[self->core] = core;
    }
    pthread_barrier_wait(&owner->barrier);
    if (__atomic_load_n(&owner->create_error, __ATOMIC_ACQUIRE) < 0)
        return NULL;
    reactor_link(core_reactor(core), owner->reactors, owner->core_count);
    pthread_barrier_wait(&owner->barrier);
    error = node_attach(owner->node, core);
    invariant(error == 0);
    core_run(core);
    return NULL;
}

static uint32_t usable_cpus(cpu_set_t *set)
{
    if (sched_getaffinity(0, sizeof(*set), set) < 0)
        CPU_ZERO(set);
    int count = CPU_COUNT(set);
    return count > 0 ? (uint32_t)count : 1;
}

/* Usable CPUs in their order; only the log's core changes places with the one that would have the
 * CPU that the log's disk interrupts. A lone core is left to the scheduler; more are pinned, one a
 * CPU. */
static void assign_cpus(struct process *self, const cpu_set_t *set, uint32_t cpu_count)
{
    struct role_map map;
    uint32_t assigned = 0;
    for (uint32_t i = 0; i < self->core_count; i++)
        self->threads[i].cpu = -1;
    if (self->core_count == 1 || self->core_count > cpu_count)
        return;
    for (int cpu = 0; cpu < CPU_SETSIZE && assigned < self->core_count; cpu++)
        if (CPU_ISSET((size_t)cpu, set))
            self->threads[assigned++].cpu = cpu;
    role_map_compute(&map, self->core_count);
    int wanted = disk_cpu(self->config.data_dir);
    for (uint32_t i = 0; i < assigned; i++)
        if (self->threads[i].cpu == wanted) {
            self->threads[i].cpu = self->threads[map.log].cpu;
            self->threads[map.log].cpu = wanted;
            break;
        }
}

/* As many descriptors as we are allowed. Returns how many that is. */
static uint64_t raise_descriptors(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        fatal("getrlimit: %s", strerror(errno));
    rlim_t now = limit.rlim_cur;
    limit.rlim_cur = limit.rlim_max;
    return setrlimit(RLIMIT_NOFILE, &limit) == 0 ? limit.rlim_max : now;
}

/* systemd's readiness protocol: one datagram to the socket it names. */
static void notify(const char *state)
{
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (path == NULL || strlen(path) >= sizeof(address.sun_path))
        return;
    memcpy(address.sun_path, path, strlen(path) + 1);
    if (address.sun_path[0] == '@')
        address.sun_path[0] = '\0';
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return;
    socklen_t bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
    sendto(fd, state, strlen(state), MSG_NOSIGNAL, (struct sockaddr *)&address, bytes);
    close(fd);
}

static void print_version(void)
{
    printf("raftd Version: " RAFT_VERSION "\netcd Version: " NODE_ETCD_VERSION "\n");
}

/* Waits for the node's end or a signal to end it. Returns the exit code. A start may wait for
 * others, or read a long log, and leaves what a crash leaves: nobody needs to wait for its end. */
static int supervise(struct node *node, const sigset_t *signals)
{
    static const struct timespec tick = {.tv_nsec = 20 * 1000 * 1000};
    bool notified = false;
    for (;;) {
        if (sigtimedwait(signals, NULL, &tick) > 0) {
            notify("STOPPING=1");
            node_request_stop(node); /* also of one that stopped to start again */
            if (node_state(node) == NODE_STARTING) {
                log_info("stopped while it started");
                return EXIT_SUCCESS;
            }
        }
        switch (node_state(node)) {
        case NODE_READY:
            if (!notified)
                notify("READY=1");
            notified = true;
            break;
        case NODE_STARTING:
        case NODE_STOPPING:
            break;
        case NODE_STOPPED:
            return EXIT_SUCCESS;
        case NODE_FAILED:
            fprintf(stderr, "raftd: %s\n", node_failure(node));
            return EXIT_FAILURE;
        }
    }
}

static int run(struct process *self)
{
    cpu_set_t cpus;
    struct core_thread *threads = self->threads;
    uint32_t cpu_count = usable_cpus(&cpus);
    self->cpu_count = cpu_count;
    self->core_count = self->config.cores != 0        ? (uint32_t)self->config.cores
                       : cpu_count < CONFIG_CORES_MAX ? cpu_count
                                                      : CONFIG_CORES_MAX;
    uint64_t memory_bytes = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    if (mesh_create(self->core_count, 1024, &self->mesh) < 0 ||
        node_create(&self->config, self->core_count, memory_bytes, &self->node) < 0) {
        fprintf(stderr, "raftd: out of memory\n");
        return EXIT_FAILURE;
    }
    node_limit_descriptors(self->node, raise_descriptors());
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    pthread_sigmask(SIG_BLOCK, &signals, NULL); /* inherited by the cores */
    signal(SIGPIPE, SIG_IGN);
    pthread_barrier_init(&self->barrier, NULL, self->core_count + 1);
    assign_cpus(self, &cpus, cpu_count);
    for (uint32_t i = 0; i < self->core_count; i++) {
        threads[i].process = self;
        threads[i].core = i;
        int error = pthread_create(&threads[i].thread, NULL, thread_run, &threads[i]);
        if (error != 0) {
            fprintf(stderr, "raftd: cannot create a thread: %s\n", strerror(error));
            return EXIT_FAILURE;
        }
    }
    pthread_barrier_wait(&self->barrier); /* every core was created, or one failed */
    if (__atomic_load_n(&self->create_error, __ATOMIC_ACQUIRE) < 0)
        return EXIT_MACHINE;
    pthread_barrier_wait(&self->barrier);
    int code = supervise(self->node, &signals);
    if (node_state(self->node) != NODE_STOPPED)
        _exit(code); /* cores may be in the middle of anything: leave it to the kernel */
    for (uint32_t i = 0; i < self->core_count; i++)
        core_stop(self->cores[i]);
    for (uint32_t i = 0; i < self->core_count; i++)
        pthread_join(threads[i].thread, NULL);
    return code;
}

static void set_log_level(const char *name)
{
    static const char *const names[] = {"debug", "info", "warn", "error"};
    for (size_t i = 0; i < ARRAY_COUNT(names); i++)
        if (strcmp(name, names[i]) == 0)
            logger_set_level((enum log_level)i);
}

int main(int argc, char **argv, char **environment)
{
    char reason[1024];
    int error =
        config_load(&process.config, argc - 1, argv + 1, environment, reason, sizeof(reason));
    if (error < 0) {
        fprintf(stderr, "raftd: %s\n", reason);
        return 2;
    }
    if (process.config.help_wanted) {
        config_print_help();
        return EXIT_SUCCESS;
    }
    if (process.config.version_wanted) {
        print_version();
        return EXIT_SUCCESS;
    }
    set_log_level(process.config.log_level);
    for (uint32_t i = 0; i < process.config.warning_count; i++)
        log_warn(process.config.warnings[i]);
    int code = run(&process);
    if (code == EXIT_SUCCESS && process.node != NULL && node_restart_wanted(process.node)) {
        execv("/proc/self/exe", argv);
        fprintf(stderr, "raftd: cannot start again: %s\n", strerror(errno));
        return EXIT_FAILURE;
    }
    return code;
}
