#include "bench/echo/load.h"

#include <stdio.h>
#include <stdlib.h>

#include "core/histogram.h"
#include "net/grpc_client.h"
#include "net/native_client.h"

#define LOAD_WARM_UP_NS NS_PER_S

struct load;

struct load_slot { /* one request under way */
    struct load *load;
    struct native_client *native;
    struct grpc_client *grpc;
    uint64_t sent_ns;
};

struct load {
    struct core *core;
    const struct load_options *options;
    struct client_set set;
    struct histogram latency;
    uint64_t measure_from_ns, measure_to_ns;
    uint64_t failures;
    struct bytes message;
    size_t reply_bytes; /* expected */
    struct timer stop;
};

static void load_next(struct load_slot *slot);

static void load_answered(struct load_slot *slot, bool is_good)
{
    struct load *load = slot->load;
    uint64_t now_ns = core_now_ns(load->core);
    if (now_ns >= load->measure_from_ns && now_ns < load->measure_to_ns) {
        histogram_record(&load->latency, now_ns - slot->sent_ns);
        load->failures += !is_good;
    }
    if (now_ns < load->measure_to_ns && is_good)
        load_next(slot);
}

static void load_native_reply(void *context, const struct native_reply *reply)
{
    struct load_slot *slot = context;
    load_answered(slot, reply->error == 0 && reply->message.size == slot->load->reply_bytes);
}

static void load_grpc_done(void *context, const struct grpc_client_reply *reply)
{
    struct load_slot *slot = context;
    load_answered(slot, reply->status == GRPC_OK && reply->message.size == slot->load->reply_bytes);
}

static void load_next(struct load_slot *slot)
{
    struct load *load = slot->load;
    int error;
    slot->sent_ns = core_now_ns(load->core);
    if (load->options->native)
        error = native_client_call(
            slot->native,
            &(struct native_call_options){.method = 1, .reply = load_native_reply, .context = slot},
            load->message, NULL);
    else
        error = grpc_client_call(slot->grpc,
                                 &(struct grpc_call_options){.path = "/etcdserverpb.KV/Put",
                                                             .done = load_grpc_done,
                                                             .context = slot},
                                 load->message, NULL);
    if (error < 0)
        load->failures++;
}

static void load_fail(struct load *load, int error)
{
    if (core_now_ns(load->core) < load->measure_to_ns)
        fprintf(stderr, "echo: connection ended: %s\n", err_text(error));
    core_stop(load->core);
}

static void load_native_closed(struct native_client *client, int error)
{
    load_fail(client->context, error);
}

static void load_grpc_closed(struct grpc_client *client, int error)
{
    load_fail(client->context, error);
}

static void load_stop(struct timer *timer)
{
    core_stop(container_of(timer, struct load, stop)->core);
}

static int load_connect(struct load *load, const struct io_address *address,
                        struct load_slot *slots)
{
    uint32_t in_flight = load->options->in_flight;
    struct native_client *native = calloc(1, sizeof(*native));
    struct grpc_client *grpc = calloc(1, sizeof(*grpc));
    if (native == NULL || grpc == NULL)
        return ERR_LIMIT;
    int error;
    if (load->options->native) {
        native->context = load;
        native->closed = load_native_closed;
        error = native_client_open(&load->set, native, address, in_flight + 1);
    } else {
        grpc->context = load;
        grpc->closed = load_grpc_closed;
        error = grpc_client_open(&load->set, grpc, address, in_flight + 1);
    }
    for (uint32_t i = 0; i < in_flight && error == 0; i++) {
        slots[i] = (struct load_slot){.load = load, .native = native, .grpc = grpc};
        load_next(&slots[i]);
    }
    return error;
}

int load_run(struct core *core, const struct io_address *address,
             const struct load_options *options)
{
    struct load *load = calloc(1, sizeof(*load));
    uint8_t *message = calloc(1, options->message_bytes + 1);
    struct load_slot *slots =
        calloc((size_t)options->connections * options->in_flight, sizeof(*slots));
    if (load == NULL || message == NULL || slots == NULL)
        return ERR_LIMIT;
    load->core = core;
    load->options = options;
    load->message = bytes_make(message, options->message_bytes);
    load->reply_bytes = options->reply_bytes > 0 ? options->reply_bytes : options->message_bytes;
    load->measure_from_ns = core_now_ns(core) + LOAD_WARM_UP_NS;
    load->measure_to_ns = load->measure_from_ns + options->seconds * NS_PER_S;
    histogram_init(&load->latency);
    client_set_init(&load->set, core);
    for (uint32_t i = 0; i < options->connections; i++) {
        int error = load_connect(load, address, slots + (size_t)i * options->in_flight);
        if (error < 0)
            return error;
    }
    timer_init(&load->stop, load_stop);
    timer_start(core_timers(core), &load->stop, load->measure_to_ns + 100 * NS_PER_MS);
    core_run(core);
    printf(
        "%s %u x %u, %u B to %zu B: %.0f requests/s, p50 %.0f us, p99 %.0f us, %llu failures\n",
        options->native ? "native" : "grpc", options->connections, options->in_flight,
        options->message_bytes, load->reply_bytes, (double)load->latency.count / options->seconds,
        (double)histogram_quantile(&load->latency, 0.5) / 1e3,
        (double)histogram_quantile(&load->latency, 0.99) / 1e3, (unsigned long long)load->failures);
    return load->latency.count == 0 ? ERR_CLOSED : 0;
}
