#include "bench/raftbench/link.h"

#include <errno.h>
#include <stdlib.h>

#include "core/invariant.h"
#include "net/grpc_client.h"
#include "net/native_client.h"

struct link_slot {
    struct link *link;
    uint32_t index;
};

struct link {
    struct link_events events;
    enum bench_protocol protocol;
    struct grpc_client grpc;
    struct native_client native;
    struct link_slot slots[];
};

static const struct {
    const char *path;
    uint16_t native;
} methods[] = {
    [WORKLOAD_PUT] = {"/etcdserverpb.KV/Put", 1},
    [WORKLOAD_RANGE] = {"/etcdserverpb.KV/Range", 2},
    [WORKLOAD_TXN] = {"/etcdserverpb.KV/Txn", 4},
};

static void grpc_opened(struct grpc_client *client)
{
    struct link *link = client->context;
    link->events.opened(link->events.context);
}

static void grpc_closed(struct grpc_client *client, int error)
{
    struct link *link = client->context;
    link->events.closed(link->events.context, error);
}

static void grpc_done(void *context, const struct grpc_client_reply *reply)
{
    struct link_slot *slot = context;
    slot->link->events.replied(slot->link->events.context, slot->index, reply->status,
                               reply->message);
}

static void native_opened(struct native_client *client)
{
    struct link *link = client->context;
    link->events.opened(link->events.context);
}

static void native_closed(struct native_client *client, int error)
{
    struct link *link = client->context;
    link->events.closed(link->events.context, error);
}

static void native_replied(void *context, const struct native_reply *reply)
{
    struct link_slot *slot = context;
    enum grpc_status status = reply->error == 0 ? GRPC_OK : reply->grpc_status;
    if (reply->error == ERR_CLOSED)
        status = GRPC_UNAVAILABLE;
    slot->link->events.replied(slot->link->events.context, slot->index, status, reply->message);
}

int link_open(struct client_set *set, const struct io_address *address,
              enum bench_protocol protocol, uint32_t slots, const struct link_events *events,
              struct link **out)
{
    struct link *link = calloc(1, sizeof(*link) + slots * sizeof(link->slots[0]));
    if (link == NULL)
        return -ENOMEM;
    link->events = *events;
    link->protocol = protocol;
    for (uint32_t i = 0; i < slots; i++)
        link->slots[i] = (struct link_slot){.link = link, .index = i};
    int error;
    if (protocol == BENCH_GRPC) {
        link->grpc.context = link;
        link->grpc.opened = grpc_opened;
        link->grpc.closed = grpc_closed;
        error = grpc_client_open(set, &link->grpc, address,
                                 2 * slots); /* a call is free after its done */
    } else {
        link->native.context = link;
        link->native.opened = native_opened;
        link->native.closed = native_closed;
        error = native_client_open(set, &link->native, address, slots);
    }
    if (error < 0) {
        free(link);
        return error;
    }
    *out = link;
    return 0;
}

void link_call(struct link *link, uint32_t index, enum workload_method method, struct bytes request)
{
    struct link_slot *slot = &link->slots[index];
    int error;
    if (link->protocol == BENCH_GRPC) {
        struct grpc_call_options options = {
            .path = methods[method].path, .done = grpc_done, .context = slot};
        error = grpc_client_call(&link->grpc, &options, request, NULL);
    } else {
        struct native_call_options options = {
            .method = methods[method].native, .reply = native_replied, .context = slot};
        error = native_client_call(&link->native, &options, request, NULL);
    }
    if (error < 0) {
        invariant(error == ERR_CLOSED); /* slots bound what is in flight */
        link->events.closed(link->events.context, error);
    }
}

void link_close(struct link *link)
{
    if (link->protocol == BENCH_GRPC)
        grpc_client_close(&link->grpc);
    else
        native_client_close(&link->native);
}
