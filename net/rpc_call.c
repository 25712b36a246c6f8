#include "net/rpc_internal.h"

#include <stdlib.h>

#include "core/invariant.h"
#include "net/http2_server.h"

#define RPC_ARENA_KEEP_BYTES  ((size_t)(16 * 1024))
#define RPC_ARENA_SPARE_BYTES ((size_t)(256 * 1024)) /* beyond twice the largest request */
#define RPC_CHARGED_BYTES_MIN ((size_t)1024)         /* calls_max bounds what is smaller */

/* ---- methods -----------------------------------------------------------------------------------
 */

/* Paths share long prefixes ("/etcdserverpb."), so the tail decides: its last 16 bytes. */
static inline uint64_t rpc_path_hash(const uint8_t *path, size_t bytes)
{
    if (bytes < 16)
        return bytes;
    uint64_t hash = le64_load(path + bytes - 8) * 0x9e3779b97f4a7c15u;
    hash ^= le64_load(path + bytes - 16) * 0xc2b2ae3d27d4eb4fu;
    return hash ^ (hash >> 29) ^ bytes;
}

static void rpc_server_add_method(struct rpc_server *server, const struct rpc_method *method)
{
    invariant(method->handle != NULL && method->id < RPC_METHOD_IDS_MAX);
    invariant(method->path != NULL || method->native != 0);
    if (method->native != 0) {
        invariant(method->native < RPC_NATIVE_METHODS_MAX);
        invariant(server->natives[method->native] == NULL);
        server->natives[method->native] = method;
    }
    if (method->path == NULL)
        return;
    size_t bytes = strlen(method->path);
    uint64_t hash = rpc_path_hash((const uint8_t *)method->path, bytes);
    size_t slot = hash & (RPC_PATH_SLOTS - 1);
    while (server->paths[slot].method != NULL)
        slot = (slot + 1) & (RPC_PATH_SLOTS - 1);
    server->paths[slot] =
        (struct rpc_path_slot){.hash = hash, .path_bytes = (uint32_t)bytes, .method = method};
}

const struct rpc_method *rpc_method_by_path(const struct rpc_server *server, struct bytes path)
{
    uint64_t hash = rpc_path_hash(path.data, path.size);
    for (size_t slot = hash & (RPC_PATH_SLOTS - 1); server->paths[slot].method != NULL;
         slot = (slot + 1) & (RPC_PATH_SLOTS - 1)) {
        const struct rpc_path_slot *at = &server->paths[slot];
        if (at->hash == hash && at->path_bytes == path.size &&
            memcmp(at->method->path, path.data, path.size) == 0)
            return at->method;
    }
    return NULL;
}

const struct rpc_method *rpc_method_by_number(const struct rpc_server *server, uint16_t number)
{
    return number < RPC_NATIVE_METHODS_MAX ? server->natives[number] : NULL;
}

/* ---- server ------------------------------------------------------------------------------------
 */

static void rpc_options_fill(struct rpc_server_options *options)
{
#define FILL(field, value)                                                                         \
    if (options->field == 0)                                                                       \
    options->field = (value)
    FILL(connections_max, 10000);
    FILL(streams_per_connection_max, 65536);
    FILL(calls_per_connection_max, 4096);
    FILL(calls_max, 65536);
    FILL(streams_max, options->calls_max + 4096);
    FILL(request_bytes_max, 2 * MIB);
    FILL(queued_bytes_per_connection_max, 4 * MIB);
    FILL(first_bytes_timeout_ns, 10 * NS_PER_S);
    FILL(partial_timeout_ns, 20 * NS_PER_S);
    FILL(http1_idle_timeout_ns, 60 * NS_PER_S);
    FILL(keepalive_ns, 7200 * NS_PER_S);
    FILL(keepalive_timeout_ns, 20 * NS_PER_S);
    FILL(stalled_timeout_ns, 60 * NS_PER_S);
    FILL(partial_bytes_max, 128 * MIB);
    FILL(flight_bytes_max, 128 * MIB);
    FILL(built_bytes_max, 128 * MIB);
#undef FILL
}

int rpc_server_init(struct rpc_server *server, const struct rpc_server_options *options)
{
    if (options->method_count > RPC_METHODS_MAX || options->request_bytes_max > UINT32_MAX / 2)
        return ERR_CONFIG;
    memset(server, 0, sizeof(*server));
    server->options = *options;
    rpc_options_fill(&server->options);
    queue_init(&server->dirty, QUEUE_UNBOUNDED);
    for (uint32_t i = 0; i < options->method_count; i++)
        rpc_server_add_method(server, &options->methods[i]);
    return 0;
}

void rpc_server_deinit(struct rpc_server *server)
{
    invariant(server->connections == NULL && queue_is_empty(&server->dirty));
    invariant(server->built_bytes == 0);
    invariant(server->calls_live == 0 && server->deadlines == NULL);
    while (server->free_calls != NULL) {
        struct rpc_call *call = server->free_calls;
        server->free_calls = call->next;
        arena_deinit(&call->arena);
        free(call);
    }
    http2_server_deinit(server);
    outbuf_pool_deinit(&server->chunks);
}

/* The client hears of it, then whoever holds the call. */
static void rpc_call_expire(struct rpc_call *call, int error)
{
    enum grpc_status status = err_grpc_status(error);
    rpc_call_count(call, status);
    call->ops->end(call, error, status, err_text(error));
    rpc_call_detach(call);
    rpc_call_cancel(call);
}

/* A large reply whose client takes nothing keeps a view of the store, and with it memory and files.
 * Native frames have no windows of their own: there the connection is stalled as a whole. */
static bool rpc_call_is_stalled(const struct rpc_call *call)
{
    const struct rpc_server *server = call->server;
    bool waits_for_client = (call->state == RPC_CALL_SOURCE && !call->source_waits) ||
                            (call->wants_writable && call->method->kind == RPC_SERVER_STREAM);
    return waits_for_client && call->transport == RPC_GRPC &&
           server->now_ns >= call->moved_ns + server->options.stalled_timeout_ns;
}

void rpc_expire_stalled(struct connection *connection)
{
    for (struct rpc_call *call = connection_walk_begin(connection); call != NULL;
         call = connection_walk_next(connection))
        if (rpc_call_is_stalled(call))
            rpc_call_expire(call, ERR_TIMEOUT);
}

void rpc_server_expire(struct rpc_server *server)
{
    struct rpc_call *call;
    server->deadline_walk = server->deadlines;
    while ((call = server->deadline_walk) != NULL) {
        server->deadline_walk = call->deadline_next; /* moved on when that one completes */
        if (call->deadline_ns <= server->now_ns)
            rpc_call_expire(call, ERR_DEADLINE);
    }
}

/* ---- pool --------------------------------------------------------------------------------------
 */

struct rpc_call *rpc_call_acquire(struct connection *connection,
                                  const struct rpc_transport_ops *ops)
{
    struct rpc_server *server = connection->server;
    if (server->calls_live == server->options.calls_max)
        return NULL;
    struct rpc_call *call = server->free_calls;
    if (call != NULL) {
        server->free_calls = call->next;
        server->free_call_count--;
    } else {
        call = malloc(sizeof(*call));
        if (call == NULL)
            return NULL;
        arena_init(&call->arena, 0);
    }
    struct arena arena = call->arena;
    arena.bytes_max = 2 * server->options.request_bytes_max + RPC_ARENA_SPARE_BYTES;
    *call = (struct rpc_call){.arena = arena,
                              .service = server->options.service,
                              .started_ns = server->now_ns,
                              .deadline_ns = UINT64_MAX,
                              .server = server,
                              .ops = ops,
                              .connection = connection,
                              .next = connection->calls,
                              .state = RPC_CALL_OPEN};
    if (connection->calls != NULL)
        connection->calls->previous = call;
    connection->calls = call;
    connection->call_count++;
    server->calls_live++;
    server->stats.calls++;
    return call;
}

void rpc_call_release(struct rpc_call *call)
{
    struct rpc_server *server = call->server;
    invariant(call->state != RPC_CALL_FREE);
    invariant(call->ops == NULL);
    if (call->released != NULL)
        call->released(call);
    call->state = RPC_CALL_FREE;
    invariant(server->request_bytes >= call->charged_bytes);
    server->request_bytes -= call->charged_bytes;
    if (unlikely(call->arena.bytes_taken > RPC_ARENA_KEEP_BYTES))
        arena_deinit(&call->arena); /* an idle pool keeps no large requests' memory */
    else if (call->arena.bytes_taken != 0)
        arena_reset(&call->arena);
    server->calls_live--;
    server->stats.calls--;
    if (server->free_call_count == RPC_CALLS_FREE_MAX) {
        arena_deinit(&call->arena);
        free(call);
        return;
    }
    call->next = server->free_calls;
    server->free_calls = call;
    server->free_call_count++;
}

void rpc_call_start(struct rpc_call *call, const struct rpc_method *method)
{
    call->method = method;
    call->server->stats.started[method->id]++;
}

bool rpc_call_charge(struct rpc_call *call, size_t bytes)
{
    struct rpc_server *server = call->server;
    invariant(call->charged_bytes == 0);
    if (bytes < RPC_CHARGED_BYTES_MIN)
        return true;
    if (server->request_bytes + bytes > server->options.flight_bytes_max)
        return false;
    call->charged_bytes = (uint32_t)bytes;
    server->request_bytes += bytes;
    return true;
}

void rpc_call_set_deadline(struct rpc_call *call, uint64_t deadline_ns)
{
    struct rpc_server *server = call->server;
    invariant(call->deadline_ns == UINT64_MAX && deadline_ns != UINT64_MAX);
    call->deadline_ns = deadline_ns;
    call->deadline_next = server->deadlines;
    if (server->deadlines != NULL)
        server->deadlines->deadline_previous = call;
    server->deadlines = call;
}

static void rpc_call_uncount_built(struct rpc_call *call)
{
    invariant(call->connection->built_bytes >= call->built_bytes);
    invariant(call->server->built_bytes >= call->built_bytes);
    call->connection->built_bytes -= call->built_bytes;
    call->server->built_bytes -= call->built_bytes;
    call->built_bytes = 0;
}

void rpc_call_detach(struct rpc_call *call)
{
    struct connection *connection = call->connection;
    invariant(connection != NULL && connection->call_count > 0);
    if (connection->walk == call)
        connection->walk = call->next;
    if (call->previous != NULL)
        call->previous->next = call->next;
    else
        connection->calls = call->next;
    if (call->next != NULL)
        call->next->previous = call->previous;
    if (call->deadline_ns != UINT64_MAX) {
        if (call->server->deadline_walk == call)
            call->server->deadline_walk = call->deadline_next;
        if (call->deadline_previous != NULL)
            call->deadline_previous->deadline_next = call->deadline_next;
        else
            call->server->deadlines = call->deadline_next;
        if (call->deadline_next != NULL)
            call->deadline_next->deadline_previous = call->deadline_previous;
    }
    if (unlikely(call->state == RPC_CALL_SOURCE))
        rpc_call_uncount_built(call);
    call->next = call->previous = NULL;
    call->deadline_next = call->deadline_previous = NULL;
    call->connection = NULL;
    call->ops = NULL;
    call->stream = NULL;
    connection->call_count--;
    if (unlikely(connection->paused))
        connection_update_pause(connection);
}

void rpc_call_cancel(struct rpc_call *call)
{
    invariant(call->state != RPC_CALL_FREE && !call->is_canceled);
    if (call->ops != NULL) {
        rpc_call_count(call, GRPC_CANCELLED);
        call->ops->detach(call);
        rpc_call_detach(call);
    }
    call->is_canceled = true;
    bool by_transport = call->state == RPC_CALL_SOURCE && !call->source_waits;
    if (call->method == NULL) { /* no handler ever saw it */
        rpc_call_release(call);
        return;
    }
    if (by_transport)
        call->source = NULL;
    if (call->canceled != NULL)
        call->canceled(call); /* may complete and release it, unless the transport owns it */
    if (by_transport)
        rpc_call_release(call);
}

/* ---- what handlers call ------------------------------------------------------------------------
 */

bool rpc_is_canceled(const struct rpc_call *call)
{
    return call->is_canceled;
}

int rpc_call_keep(struct rpc_call *call)
{
    if (call->request.size == 0)
        return 0;
    struct bytes kept = arena_copy(&call->arena, call->request);
    if (kept.data == NULL)
        return ERR_LIMIT;
    call->request = kept;
    return 0;
}

int rpc_connection_set_token(struct rpc_call *call, struct bytes token)
{
    struct connection *connection = call->connection;
    if (token.size > RPC_TOKEN_BYTES_MAX)
        return ERR_LIMIT;
    if (connection == NULL)
        return 0;
    uint8_t *copy = NULL;
    if (token.size > 0) {
        copy = malloc(token.size);
        if (copy == NULL)
            return ERR_LIMIT;
        memcpy(copy, token.data, token.size);
    }
    free(connection->token);
    connection->token = copy;
    connection->token_bytes = (uint32_t)token.size;
    return 0;
}

/* Where a handler writes a reply that nobody will read. */
static uint8_t *rpc_message_discard(struct rpc_call *call, size_t bytes_max)
{
    uint8_t *to = arena_take(&call->arena, bytes_max + 1);
    if (to == NULL) {
        call->arena.bytes_max = 0; /* about to be dropped: the bound has no more to protect */
        to = arena_take(&call->arena, bytes_max + 1);
    }
    if (to == NULL)
        fatal("out of memory for a reply of %zu bytes", bytes_max);
    return to;
}

static uint8_t *rpc_unary_begin(struct rpc_call *call, size_t bytes_max)
{
    invariant(call->state == RPC_CALL_OPEN && call->method->kind == RPC_UNARY);
    if (unlikely(call->ops == NULL))
        return rpc_message_discard(call, bytes_max);
    return call->ops->message_begin(call, bytes_max);
}

uint8_t *rpc_reply_begin(struct rpc_call *call, size_t bytes_max)
{
    invariant(bytes_max <= RPC_REPLY_DIRECT_BYTES);
    return rpc_unary_begin(call, bytes_max);
}

void rpc_reply_end(struct rpc_call *call, size_t bytes)
{
    invariant(call->state == RPC_CALL_OPEN);
    if (likely(call->ops != NULL)) {
        rpc_call_count(call, GRPC_OK);
        call->server->stats.messages_sent[call->method->id]++;
        call->ops->message_end(call, bytes, true);
        rpc_call_detach(call);
    }
    rpc_call_release(call);
}

void rpc_reply(struct rpc_call *call, struct bytes message)
{
    if (likely(call->ops != NULL)) {
        uint8_t *to = rpc_unary_begin(call, message.size);
        if (message.size > 0)
            memcpy(to, message.data, message.size);
    }
    rpc_reply_end(call, message.size);
}

void rpc_reply_source(struct rpc_call *call, uint64_t total_bytes,
                      int64_t (*source)(struct rpc_call *call, uint8_t *to, size_t bytes_max))
{
    invariant(call->state == RPC_CALL_OPEN && call->method->kind == RPC_UNARY && source != NULL);
    if (call->ops == NULL) {
        rpc_call_release(call);
        return;
    }
    if (total_bytes == 0) {
        rpc_reply(call, (struct bytes){0});
        return;
    }
    if (total_bytes > UINT32_MAX) {
        rpc_fail_text(call, GRPC_RESOURCE_EXHAUSTED,
                      "trying to send message larger than max (4294967295)");
        return;
    }
    call->state = RPC_CALL_SOURCE;
    call->source = source;
    call->source_bytes_left = total_bytes;
    call->moved_ns = call->server->now_ns;
    call->server->stats.messages_sent[call->method->id]++;
    call->ops->source(call);
}

void rpc_reply_built(struct rpc_call *call, uint64_t total_bytes,
                     int64_t (*source)(struct rpc_call *call, uint8_t *to, size_t bytes_max))
{
    invariant(total_bytes > 0);
    if (call->ops != NULL && total_bytes <= UINT32_MAX) {
        call->built_bytes = (uint32_t)total_bytes;
        call->connection->built_bytes += total_bytes;
        call->server->built_bytes += total_bytes;
    }
    rpc_reply_source(call, total_bytes, source);
}

bool rpc_may_build(const struct rpc_call *call, uint64_t bytes)
{
    const struct rpc_server *server = call->server;
    return server->built_bytes + bytes <= server->options.built_bytes_max;
}

void rpc_resume(struct rpc_call *call)
{
    invariant(call->state == RPC_CALL_SOURCE && call->source_waits);
    call->source_waits = false;
    call->moved_ns = call->server->now_ns; /* from now on it is the client's turn */
    if (call->is_canceled) {
        rpc_call_release(call);
        return;
    }
    call->ops->source(call);
}

static void rpc_end(struct rpc_call *call, int error, enum grpc_status status, const char *text)
{
    invariant(call->state == RPC_CALL_OPEN);
    if (likely(call->ops != NULL)) {
        rpc_call_count(call, status);
        call->ops->end(call, error, status, text);
        rpc_call_detach(call);
    }
    rpc_call_release(call);
}

void rpc_fail(struct rpc_call *call, int error)
{
    invariant(error < 0);
    rpc_end(call, error, err_grpc_status(error), err_text(error));
}

void rpc_fail_text(struct rpc_call *call, enum grpc_status status, const char *text)
{
    invariant(status != GRPC_OK && status < RPC_STATUS_COUNT);
    rpc_end(call, 0, status, text);
}

/* ---- streams -----------------------------------------------------------------------------------
 */

uint8_t *rpc_send_begin(struct rpc_call *call, size_t bytes_max)
{
    invariant(call->state == RPC_CALL_OPEN && call->method->kind != RPC_UNARY);
    if (call->ops == NULL)
        return rpc_message_discard(call, bytes_max);
    uint8_t *to = call->ops->message_begin(call, bytes_max);
    call->wants_writable = to == NULL;
    if (to == NULL)
        call->moved_ns = call->server->now_ns;
    return to;
}

void rpc_send_end(struct rpc_call *call, size_t bytes)
{
    if (call->ops == NULL)
        return;
    call->server->stats.messages_sent[call->method->id]++;
    call->ops->message_end(call, bytes, false);
}

bool rpc_send_message(struct rpc_call *call, struct bytes message)
{
    if (call->ops == NULL)
        return true;
    uint8_t *to = rpc_send_begin(call, message.size);
    if (to == NULL)
        return false;
    if (message.size > 0)
        memcpy(to, message.data, message.size);
    rpc_send_end(call, message.size);
    return true;
}

void rpc_finish(struct rpc_call *call, int error)
{
    invariant(error <= 0);
    if (error < 0)
        rpc_fail(call, error);
    else
        rpc_end(call, 0, GRPC_OK, "");
}

void rpc_pause_messages(struct rpc_call *call)
{
    invariant(call->method->kind == RPC_BIDI);
    call->messages_paused = true;
    if (call->ops != NULL)
        call->ops->pause(call, true);
}

void rpc_resume_messages(struct rpc_call *call)
{
    invariant(call->method->kind == RPC_BIDI);
    call->messages_paused = false;
    if (call->ops != NULL)
        call->ops->pause(call, false);
}
