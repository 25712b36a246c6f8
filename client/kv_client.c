#include "client/kv_client.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/invariant.h"
#include "net/native_client.h"

#define KV_REDIAL_MS_MIN 25
#define KV_REDIAL_MS_MAX 1000
#define KV_RETRY_MS_MIN  10
#define KV_RETRY_MS_MAX  500
#define KV_SILENT_MS     1000 /* with another endpoint to go to: without a byte */

struct kv_endpoint {
    char text[KV_CLIENT_ENDPOINT_BYTES]; /* as given */
    char host[KV_CLIENT_ENDPOINT_BYTES];
    uint16_t port;
};

/* One connection, from its dialling to its end; it frees itself in `closed`. That somebody accepts
 * it says little: a stopped process's kernel does, and so does a proxy with nobody behind. So it is
 * greeted, with a request that every member answers by itself, and serves once that is answered. */
struct kv_link {
    struct native_client native;
    struct kv_client *client;
    uint32_t endpoint_index;
    bool serves;
    uint64_t heard_ns; /* when bytes came in last */
};

/* A request of one fiber, on its stack. */
struct kv_call {
    struct queue_link waiting; /* for a connection */
    struct fiber_event event;  /* a reply, a change of the connection, or the timer */
    struct timer timer;
    uint64_t deadline_ns;
    bool is_read;
    uint32_t silent_tries;
    uint64_t sent_ns;     /* the last try */
    struct kv_link *link; /* that the request is on, until it is answered */
    const ProtobufCMessageDescriptor *response_type;
    ProtobufCMessage *response;
    struct kv_failure *failure;
    int error;
    bool answered;
    bool judged; /* `error` is the server's own */
};

/* I1  `link` is the connection that new requests take, dialled or serving; others only drain.
 * I2  a call waits in `waiting` only while `link` does not serve.
 * I3  link_count counts every kv_link that has not freed itself. */
struct kv_client {
    struct client_set *set;
    struct core *core;
    struct kv_link *link;
    uint32_t link_count;
    struct queue waiting;
    struct fiber_event drained; /* kv_client_close() waits for link_count == 0 */
    struct timer dial_timer;
    uint64_t dial_timeout_ms, call_timeout_ms;
    uint32_t calls_max, calls_live;
    uint32_t endpoint_index; /* to dial next, or that `link` leads to */
    uint32_t failed_dials;   /* in a row */
    uint64_t redial_ns;      /* not before */
    int link_error;
    const char *link_endpoint;
    bool closing;
    uint32_t endpoint_count;
    struct kv_endpoint endpoints[];
};

/* ---- endpoints ---------------------------------------------------------------------------------
 */

static bool kv_endpoint_parse(struct kv_endpoint *endpoint, const char *text)
{
    if (strlen(text) >= sizeof(endpoint->text))
        return false;
    snprintf(endpoint->text, sizeof(endpoint->text), "%s", text);
    if (strncmp(text, "http://", 7) == 0)
        text += 7;
    else if (strstr(text, "://") != NULL)
        return false; /* TLS and sockets of other kinds are not spoken here */
    const char *end = text + strcspn(text, "/");
    const char *colon = memrchr(text, ':', (size_t)(end - text));
    if (colon == NULL)
        return false;
    unsigned long port = 0;
    for (const char *digit = colon + 1; digit < end; digit++) {
        if (*digit < '0' || *digit > '9' || port > UINT16_MAX)
            return false;
        port = port * 10 + (unsigned long)(*digit - '0');
    }
    if (port == 0 || port > UINT16_MAX)
        return false;
    endpoint->port = (uint16_t)port;
    if (*text == '[' && colon[-1] == ']') {
        text++;
        colon--;
    }
    if (colon == text && *text == ':') /* this host's */
        snprintf(endpoint->host, sizeof(endpoint->host), "127.0.0.1");
    else
        snprintf(endpoint->host, sizeof(endpoint->host), "%.*s", (int)(colon - text), text);
    return endpoint->host[0] != '\0';
}

const char *kv_client_endpoint(const struct kv_client *client)
{
    return client->endpoints[client->endpoint_index].text;
}

/* ---- the connection ----------------------------------------------------------------------------
 */

static void kv_client_wake_waiting(struct kv_client *client)
{
    for (uint32_t count = client->waiting.count; count > 0; count--) {
        struct queue_link *link = queue_pop(&client->waiting);
        fiber_event_signal(&container_of(link, struct kv_call, waiting)->event);
    }
}

/* Its timer woke it: a signal of its own, left behind, would keep it from ever waiting again. */
static void kv_client_stop_waiting(struct kv_client *client, struct kv_call *call)
{
    for (uint32_t count = client->waiting.count; count > 0; count--) {
        struct queue_link *link = queue_pop(&client->waiting);
        if (link != &call->waiting)
            queue_append(&client->waiting, link);
    }
}

/* The next endpoint's turn; a pause, longer each time, after every round in which none answered. */
static void kv_client_dial_failed(struct kv_client *client, uint32_t endpoint_index, int error)
{
    client->link_error = error;
    client->link_endpoint = client->endpoints[endpoint_index].text;
    client->endpoint_index = (endpoint_index + 1) % client->endpoint_count;
    client->failed_dials++;
    if (client->failed_dials % client->endpoint_count == 0) {
        uint32_t round = client->failed_dials / client->endpoint_count;
        uint64_t pause_ms =
            u64_min((uint64_t)KV_REDIAL_MS_MIN << u64_min(round - 1, 10), KV_REDIAL_MS_MAX);
        uint64_t jitter_ns =
            reactor_random(core_reactor(client->core)) % (NS_PER_MS * pause_ms / 5);
        client->redial_ns = core_now_ns(client->core) + pause_ms * NS_PER_MS * 9 / 10 + jitter_ns;
    }
    kv_client_wake_waiting(client);
}

static void kv_link_opened(struct native_client *native)
{
    struct kv_link *link = container_of(native, struct kv_link, native);
    struct kv_client *client = link->client;
    if (client->link == link && client->endpoint_count > 1)
        timer_start(core_timers(client->core), &client->dial_timer,
                    core_now_ns(client->core) +
                        u64_min(client->dial_timeout_ms, KV_SILENT_MS) * NS_PER_MS);
}

/* An error will do: whoever sent it reads requests. */
static void kv_link_greeted(void *context, const struct native_reply *reply maybe_unused)
{
    struct kv_link *link = context;
    struct kv_client *client = link->client;
    if (link->native.socket.closing)
        return; /* not an answer */
    invariant(client->link == link && !link->serves);
    link->serves = true;
    client->failed_dials = 0;
    client->link_error = 0;
    timer_stop(core_timers(client->core), &client->dial_timer);
    kv_client_wake_waiting(client);
}

static void kv_link_closed(struct native_client *native, int error)
{
    struct kv_link *link = container_of(native, struct kv_link, native);
    struct kv_client *client = link->client;
    if (client->link == link) {
        client->link = NULL;
        timer_stop(core_timers(client->core), &client->dial_timer);
        if (link->serves)
            kv_client_wake_waiting(client); /* it worked once: dial it again first */
        else
            kv_client_dial_failed(client, link->endpoint_index, error);
    }
    invariant(client->link_count > 0);
    client->link_count--;
    free(link);
    if (client->link_count == 0 && client->closing)
        fiber_event_signal(&client->drained);
}

static void kv_client_dial_timed_out(struct timer *timer)
{
    struct kv_client *client = container_of(timer, struct kv_client, dial_timer);
    struct kv_link *link = client->link;
    invariant(link != NULL && !link->serves);
    client->link = NULL;
    native_client_close(&link->native);
    kv_client_dial_failed(client, link->endpoint_index, ERR_DEADLINE);
}

static int kv_link_received(struct client_socket *socket, const uint8_t *data, size_t bytes)
{
    struct native_client *native = container_of(socket, struct native_client, socket);
    struct kv_link *link = container_of(native, struct kv_link, native);
    link->heard_ns = core_now_ns(link->client->core);
    return native_client_input(native, data, bytes);
}

static void kv_link_greet(struct kv_link *link)
{
    struct native_call_options options = {
        .method = RAFTPB__METHOD__METHOD_STATUS,
        .timeout_ms = (uint32_t)u64_min(link->client->dial_timeout_ms, UINT32_MAX),
        .reply = kv_link_greeted,
        .context = link};
    int error = native_client_call(&link->native, &options, (struct bytes){0}, NULL);
    invariant(error == 0); /* it is the first */
}

static void kv_client_dial(struct kv_client *client)
{
    invariant(client->link == NULL && !client->closing);
    uint32_t endpoint_index = client->endpoint_index;
    const struct kv_endpoint *endpoint = &client->endpoints[endpoint_index];
    struct io_address address;
    struct kv_link *link = calloc(1, sizeof(*link));
    int error = link == NULL ? ERR_LIMIT
                             : reactor_resolve(core_reactor(client->core), endpoint->host,
                                               endpoint->port, &address);
    if (error == 0) {
        link->client = client;
        link->endpoint_index = endpoint_index;
        link->native.opened = kv_link_opened;
        link->native.closed = kv_link_closed;
        error = native_client_open(client->set, &link->native, &address, client->calls_max);
    }
    if (error < 0) {
        free(link);
        kv_client_dial_failed(client, endpoint_index, error);
        return;
    }
    link->native.socket.received = kv_link_received;
    kv_link_greet(link);
    client->link = link;
    client->link_count++;
    timer_start(core_timers(client->core), &client->dial_timer,
                core_now_ns(client->core) + client->dial_timeout_ms * NS_PER_MS);
}

static void kv_link_close_if_drained(struct kv_link *link)
{
    if (link->client->link != link && link->native.calls_live == 0)
        native_client_close(&link->native);
}

/* New requests go elsewhere; the connection ends with its last reply. */
static void kv_client_retire(struct kv_client *client, struct kv_link *link)
{
    invariant(client->link == link && link->serves);
    client->link = NULL;
    client->endpoint_index = (link->endpoint_index + 1) % client->endpoint_count;
    kv_link_close_if_drained(link);
}

/* ---- calls -------------------------------------------------------------------------------------
 */

static const ProtobufCMessageDescriptor *kv_response_type(Raftpb__Method method)
{
    switch (method) {
    case RAFTPB__METHOD__METHOD_PUT:
        return &etcdserverpb__put_response__descriptor;
    case RAFTPB__METHOD__METHOD_RANGE:
        return &etcdserverpb__range_response__descriptor;
    case RAFTPB__METHOD__METHOD_DELETE_RANGE:
        return &etcdserverpb__delete_range_response__descriptor;
    case RAFTPB__METHOD__METHOD_TXN:
        return &etcdserverpb__txn_response__descriptor;
    case RAFTPB__METHOD__METHOD_COMPACT:
        return &etcdserverpb__compaction_response__descriptor;
    case RAFTPB__METHOD__METHOD_STATUS:
        return &etcdserverpb__status_response__descriptor;
    case RAFTPB__METHOD__METHOD_HASH_KV:
        return &etcdserverpb__hash_kvresponse__descriptor;
    case RAFTPB__METHOD__METHOD_HELLO:
        return &raftpb__hello_response__descriptor;
    case RAFTPB__METHOD__METHOD_MEMBER_LIST:
        return &etcdserverpb__member_list_response__descriptor;
    case RAFTPB__METHOD__METHOD_RANGE_STREAM:
    case RAFTPB__METHOD__METHOD_NONE:
    case _RAFTPB__METHOD_IS_INT_SIZE:
        break;
    }
    invariant(false && "not a method with one request and one response");
    return NULL;
}

static bool kv_request_is_read(Raftpb__Method method, const ProtobufCMessage *request)
{
    if (method != RAFTPB__METHOD__METHOD_TXN)
        return method != RAFTPB__METHOD__METHOD_PUT &&
               method != RAFTPB__METHOD__METHOD_DELETE_RANGE &&
               method != RAFTPB__METHOD__METHOD_COMPACT;
    const Etcdserverpb__TxnRequest *txn = (const void *)request;
    bool is_read = true;
    for (size_t i = 0; i < txn->n_success; i++)
        is_read &= txn->success[i]->request_case == ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_RANGE;
    for (size_t i = 0; i < txn->n_failure; i++)
        is_read &= txn->failure[i]->request_case == ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_RANGE;
    return is_read;
}

/* Answers with which a server refuses a request before it has done anything about it. */
static bool kv_error_is_refusal(int error)
{
    return error == ERR_NOT_LEADER || error == ERR_NO_LEADER || error == ERR_LEARNER ||
           error == ERR_FULL || error == ERR_TOO_MANY_REQUESTS;
}

/* Of those, and of what a read may see, where another member may do better. */
static bool kv_error_is_of_member(int error)
{
    return error == ERR_NOT_LEADER || error == ERR_NO_LEADER || error == ERR_LEARNER ||
           error == ERR_STOPPED;
}

static void kv_call_timer_fired(struct timer *timer)
{
    fiber_event_signal(&container_of(timer, struct kv_call, timer)->event);
}

static void kv_call_wait(struct kv_client *client, struct kv_call *call, uint64_t until_ns)
{
    timer_start(core_timers(client->core), &call->timer, u64_min(until_ns, call->deadline_ns));
    fiber_event_wait(&call->event);
    timer_stop(core_timers(client->core), &call->timer);
}

static void kv_call_fail(struct kv_call *call, int error, enum grpc_status status,
                         struct bytes text)
{
    call->error = error;
    call->failure->status = status;
    snprintf(call->failure->text, sizeof(call->failure->text), "%.*s",
             (int)u64_min(text.size, KV_FAILURE_TEXT_BYTES), (const char *)text.data);
}

static void kv_call_fail_here(struct kv_call *call, int error)
{
    kv_call_fail(call, error, err_grpc_status(error), bytes_from_text(err_text(error)));
}

static void kv_call_replied(void *context, const struct native_reply *reply)
{
    struct kv_call *call = context;
    struct kv_link *link = call->link;
    struct kv_client *client = link->client;
    invariant(!call->answered && !reply->more);
    call->answered = true;
    call->judged = reply->error < 0 && !link->native.socket.closing;
    fiber_event_signal(&call->event);
    if (kv_error_is_of_member(reply->error) && client->link == link && client->endpoint_count > 1)
        kv_client_retire(client, link);
    else
        kv_link_close_if_drained(link);
    if (reply->error < 0) {
        kv_call_fail(call, reply->error, reply->grpc_status, reply->text);
        return;
    }
    call->error = 0;
    call->response = protobuf_c_message_unpack(call->response_type, NULL, reply->message.size,
                                               reply->message.data);
    if (call->response == NULL)
        kv_call_fail_here(call, ERR_MALFORMED);
}

/* A connection that serves, once there is one; NULL when time is up. */
static struct kv_link *kv_call_connect(struct kv_client *client, struct kv_call *call)
{
    for (;;) {
        struct kv_link *link = client->link;
        uint64_t now_ns = core_now_ns(client->core);
        if (link != NULL && link->serves) {
            if (!link->native.refusing && !link->native.socket.closing)
                return link;
            kv_client_retire(client, link);
            continue;
        }
        if (now_ns >= call->deadline_ns)
            return NULL;
        if (link == NULL && now_ns >= client->redial_ns) {
            kv_client_dial(client);
            continue;
        }
        queue_append(&client->waiting, &call->waiting);
        kv_call_wait(client, call, link == NULL ? client->redial_ns : TIMER_NEVER);
        if (call->waiting.next != QUEUE_LINK_IDLE)
            kv_client_stop_waiting(client, call);
    }
}

/* How long the try is waited for. A read goes elsewhere when nothing comes any more, be it parts of
 * its reply; twice as late in each round, so that a slow answer is not out of reach for ever. */
static uint64_t kv_call_patience_ns(const struct kv_client *client, const struct kv_call *call)
{
    if (!call->is_read || client->endpoint_count == 1)
        return call->deadline_ns;
    uint32_t round = call->silent_tries / client->endpoint_count;
    uint64_t silent_ms = (uint64_t)KV_SILENT_MS << u64_min(round, 10);
    uint64_t heard_ns = u64_max(call->sent_ns, call->link->heard_ns);
    return u64_min(heard_ns + silent_ms * NS_PER_MS, call->deadline_ns);
}

/* Nobody waits for the reply any more. A connection that was silent takes no new requests. */
static void kv_call_give_up(struct kv_client *client, struct kv_call *call, uint64_t request_id,
                            Raftpb__Method method)
{
    struct kv_link *link = call->link; /* it and the request's slot exist until the reply */
    native_client_cancel(&link->native, request_id, (uint16_t)method);
    bool silent = core_now_ns(client->core) < call->deadline_ns || link->heard_ns <= call->sent_ns;
    if (client->link == link && silent) {
        client->link_error = ERR_DEADLINE;
        client->link_endpoint = client->endpoints[link->endpoint_index].text;
        kv_client_retire(client, link);
    } else {
        kv_link_close_if_drained(link);
    }
    call->silent_tries++;
    kv_call_fail_here(call, ERR_DEADLINE);
}

/* One try on one connection. Returns whether the request may have reached the server. */
static bool kv_call_try(struct kv_client *client, struct kv_call *call, Raftpb__Method method,
                        struct bytes packed)
{
    struct kv_link *link = kv_call_connect(client, call);
    call->answered = call->judged = false;
    if (link == NULL) {
        kv_call_fail_here(call, ERR_DEADLINE);
        return false;
    }
    call->sent_ns = core_now_ns(client->core);
    uint64_t left_ns = call->deadline_ns - u64_min(call->sent_ns, call->deadline_ns);
    struct native_call_options options = {
        .method = (uint16_t)method,
        .timeout_ms = (uint32_t)u64_min(left_ns / NS_PER_MS + 1, UINT32_MAX),
        .reply = kv_call_replied,
        .context = call};
    uint64_t request_id, until_ns;
    call->link = link;
    int error = native_client_call(&link->native, &options, packed, &request_id);
    if (error < 0) {
        kv_call_fail_here(call, error);
        return false;
    }
    while (!call->answered) {
        until_ns = kv_call_patience_ns(client, call);
        if (core_now_ns(client->core) >= until_ns) {
            kv_call_give_up(client, call, request_id, method);
            break;
        }
        kv_call_wait(client, call, until_ns);
    }
    return true;
}

/* Sent again: what was surely not executed, and reads. */
static void kv_call_run(struct kv_client *client, struct kv_call *call, Raftpb__Method method,
                        struct bytes packed)
{
    uint64_t pause_ms = KV_RETRY_MS_MIN;
    for (;;) {
        bool sent = kv_call_try(client, call, method, packed);
        if (call->error == 0)
            return;
        bool transient = err_action(call->error) == ERR_ACTION_RETRY || call->error == ERR_DEADLINE;
        bool untouched = !sent || call->is_read || kv_error_is_refusal(call->error) ||
                         planted_bug(client_repeats_writes);
        uint64_t until_ns = core_now_ns(client->core) + pause_ms * NS_PER_MS;
        call->failure->maybe_executed = !untouched && (transient || !call->judged);
        if (!transient || !untouched || until_ns >= call->deadline_ns)
            return;
        while (core_now_ns(client->core) < until_ns)
            kv_call_wait(client, call, until_ns);
        pause_ms = u64_min(2 * pause_ms, KV_RETRY_MS_MAX);
    }
}

int kv_client_call(struct kv_client *client, Raftpb__Method method, const ProtobufCMessage *request,
                   uint64_t timeout_ms, ProtobufCMessage **response, struct kv_failure *failure)
{
    invariant(fiber_current() != NULL && !client->closing);
    struct kv_failure ignored;
    struct kv_call call = {.is_read = kv_request_is_read(method, request),
                           .response_type = kv_response_type(method),
                           .failure = failure != NULL ? failure : &ignored};
    size_t packed_bytes = protobuf_c_message_get_packed_size(request);
    uint8_t *packed = malloc(packed_bytes + 1);
    *response = NULL;
    *call.failure = (struct kv_failure){0};
    if (packed == NULL)
        return ERR_LIMIT;
    protobuf_c_message_pack(request, packed);
    if (timeout_ms == 0)
        timeout_ms = client->call_timeout_ms;
    queue_link_init(&call.waiting);
    fiber_event_init(&call.event);
    timer_init(&call.timer, kv_call_timer_fired);
    call.deadline_ns = core_now_ns(client->core) + timeout_ms * NS_PER_MS;
    client->calls_live++;
    kv_call_run(client, &call, method, bytes_make(packed, packed_bytes));
    client->calls_live--;
    free(packed);
    invariant(!timer_is_armed(&call.timer) && call.waiting.next == QUEUE_LINK_IDLE);
    if (call.error < 0) {
        call.failure->link_error = client->link_error;
        call.failure->link_endpoint = client->link_endpoint;
    }
    *response = call.response;
    return call.error;
}

/* ---- life --------------------------------------------------------------------------------------
 */

int kv_client_open(struct client_set *set, const struct kv_client_options *options,
                   struct kv_client **opened, char *reason, size_t reason_bytes)
{
    uint32_t count = options->endpoint_count;
    if (count == 0 || count > KV_CLIENT_ENDPOINTS_MAX) {
        snprintf(reason, reason_bytes, "%" PRIu32 " endpoints given, 1 to %d are possible", count,
                 KV_CLIENT_ENDPOINTS_MAX);
        return ERR_CONFIG;
    }
    struct kv_client *client = calloc(1, sizeof(*client) + count * sizeof(client->endpoints[0]));
    if (client == NULL)
        return ERR_LIMIT;
    for (uint32_t i = 0; i < count; i++) {
        if (kv_endpoint_parse(&client->endpoints[i], options->endpoints[i]))
            continue;
        snprintf(reason, reason_bytes, "bad endpoint \"%.200s\": host:port or http://host:port",
                 options->endpoints[i]);
        free(client);
        return ERR_CONFIG;
    }
    client->endpoint_count = count;
    client->set = set;
    client->core = set->core;
    client->dial_timeout_ms =
        options->dial_timeout_ms != 0 ? options->dial_timeout_ms : KV_CLIENT_DIAL_MS_DEFAULT;
    client->call_timeout_ms =
        options->call_timeout_ms != 0 ? options->call_timeout_ms : KV_CLIENT_CALL_MS_DEFAULT;
    client->calls_max = options->calls_max != 0 ? options->calls_max : KV_CLIENT_CALLS_MAX_DEFAULT;
    queue_init(&client->waiting, QUEUE_UNBOUNDED);
    fiber_event_init(&client->drained);
    timer_init(&client->dial_timer, kv_client_dial_timed_out);
    *opened = client;
    return 0;
}

void kv_client_close(struct kv_client *client)
{
    invariant(client->calls_live == 0 && queue_is_empty(&client->waiting));
    client->closing = true;
    if (client->link != NULL) {
        struct kv_link *link = client->link;
        client->link = NULL;
        timer_stop(core_timers(client->core), &client->dial_timer);
        native_client_close(&link->native);
    }
    while (client->link_count > 0)
        fiber_event_wait(&client->drained);
    free(client);
}
