#include "server/remote.h"

#include "core/invariant.h"
#include "server/message.h"

struct remote_job {
    void (*function)(void *argument);
    void *argument;
    struct fiber_event done;
    uint32_t from;
    bool of_request;
};

static void remote_send(struct core *core, uint32_t to, uint16_t kind, struct remote_job *job)
{
    struct mesh_message message = {.kind = kind, .word = {(uintptr_t)job}};
    core_post(core, to, &message);
}

static void remote_run(void *argument)
{
    struct remote_job *job = argument;
    job->function(job->argument);
    remote_send(core_current(), job->from, MESSAGE_CALL_DONE, job);
}

static void on_call(void *context maybe_unused, struct core *core,
                    const struct mesh_message *message)
{
    struct remote_job *job = (struct remote_job *)(uintptr_t)message->word[0];
    /* With every fiber busy the call goes round once more; fibers end, so it gets its turn. */
    int error = job->of_request ? fiber_spawn_request(core, FIBER_LATENCY, remote_run, job)
                                : fiber_spawn(core, FIBER_LATENCY, remote_run, job);
    if (error < 0)
        remote_send(core, core_id(core), MESSAGE_CALL, job);
}

static void on_call_done(void *context maybe_unused, struct core *core maybe_unused,
                         const struct mesh_message *message)
{
    struct remote_job *job = (struct remote_job *)(uintptr_t)message->word[0];
    fiber_event_signal(&job->done);
}

void remote_init(struct core *core)
{
    core_handle(core, MESSAGE_CALL, on_call, NULL);
    core_handle(core, MESSAGE_CALL_DONE, on_call_done, NULL);
}

static void call_and_wait(uint32_t to, struct remote_job *job)
{
    struct core *core = core_current();
    invariant(fiber_current() != NULL);
    if (to == core_id(core)) {
        job->function(job->argument);
        return;
    }
    job->from = core_id(core);
    fiber_event_init(&job->done);
    remote_send(core, to, MESSAGE_CALL, job);
    fiber_event_wait(&job->done);
}

void remote_call(uint32_t to, void (*function)(void *argument), void *argument)
{
    call_and_wait(to, &(struct remote_job){.function = function, .argument = argument});
}

void remote_call_request(uint32_t to, void (*function)(void *argument), void *argument)
{
    call_and_wait(
        to, &(struct remote_job){.function = function, .argument = argument, .of_request = true});
}
