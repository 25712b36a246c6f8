#include "net/rpc_internal.h"

#include <http_parser.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/invariant.h"

/*
 * HTTP/1.1 on a connection: one request at a time. What a client pipelines behind it waits,
 * unparsed, in connection->partial, and reading is paused until the reply; and on until enough of
 * the replies is sent, when they are many. The flush after the pause goes on with what waits.
 */

#define HTTP1_HEADERS_BYTES_MAX ((size_t)(16 * 1024))
#define HTTP1_ARENA_BYTES_MAX   (HTTP_BODY_BYTES_MAX * 2 + 256 * 1024)

/* A text that the parser hands over in pieces. */
struct http1_text {
    uint8_t *data;
    size_t bytes, bytes_max;
};

struct http1 {
    struct connection *connection;
    http_parser parser;
    struct http_request request;
    struct arena arena;
    struct http1_text url, name, value, content_type, authorization, body;
    bool in_value;
    bool handling; /* the handler owes a reply */
    bool keep_alive;
    bool too_large;
    uint64_t charged_bytes; /* of the arena, in server->partial_bytes */
};

static const char *http1_reason(int status)
{
    switch (status) {
#define X(number, name, text)                                                                      \
    case number:                                                                                   \
        return #text;
        HTTP_STATUS_MAP(X)
#undef X
    }
    return "Unknown";
}

static int http1_append(struct http1 *http1, struct http1_text *text, const char *at, size_t bytes,
                        size_t limit)
{
    if (bytes == 0)
        return 0;
    if (text->bytes + bytes > limit) {
        http1->too_large = true;
        return -1;
    }
    if (text->bytes + bytes > text->bytes_max) {
        size_t grown = u64_max(text->bytes + bytes, u64_max(64, 2 * text->bytes_max));
        struct rpc_server *server = http1->connection->server;
        bool fits = server->partial_bytes + grown <= server->options.partial_bytes_max;
        uint8_t *data = fits ? arena_take(&http1->arena, grown) : NULL;
        if (data == NULL) {
            http1->too_large = true;
            return -1;
        }
        server->partial_bytes += grown;
        http1->charged_bytes += grown;
        if (text->bytes > 0)
            memcpy(data, text->data, text->bytes);
        text->data = data;
        text->bytes_max = grown;
    }
    memcpy(text->data + text->bytes, at, bytes);
    text->bytes += bytes;
    return 0;
}

/* ---- parser callbacks --------------------------------------------------------------------------
 */

static int http1_on_begin(http_parser *parser)
{
    struct http1 *http1 = parser->data;
    connection_expect(http1->connection, http1->connection->server->options.first_bytes_timeout_ns);
    return 0;
}

static int http1_on_url(http_parser *parser, const char *at, size_t bytes)
{
    struct http1 *http1 = parser->data;
    return http1_append(http1, &http1->url, at, bytes, HTTP1_HEADERS_BYTES_MAX);
}

static bool http1_name_is(const struct http1_text *name, const char *wanted)
{
    return name->bytes == strlen(wanted) &&
           strncasecmp((const char *)name->data, wanted, name->bytes) == 0;
}

/* A header is complete when the next one begins. */
static void http1_header_done(struct http1 *http1)
{
    if (http1_name_is(&http1->name, "content-type"))
        http1->content_type = http1->value;
    else if (http1_name_is(&http1->name, "authorization"))
        http1->authorization = http1->value;
    http1->name = http1->value = (struct http1_text){0};
    http1->in_value = false;
}

static int http1_on_header_name(http_parser *parser, const char *at, size_t bytes)
{
    struct http1 *http1 = parser->data;
    if (http1->in_value)
        http1_header_done(http1);
    return http1_append(http1, &http1->name, at, bytes, HTTP1_HEADERS_BYTES_MAX);
}

static int http1_on_header_value(http_parser *parser, const char *at, size_t bytes)
{
    struct http1 *http1 = parser->data;
    http1->in_value = true;
    return http1_append(http1, &http1->value, at, bytes, HTTP1_HEADERS_BYTES_MAX);
}

static int http1_on_headers_complete(http_parser *parser)
{
    struct http1 *http1 = parser->data;
    if (http1->in_value)
        http1_header_done(http1);
    if ((parser->flags & F_CONTENTLENGTH) && parser->content_length > HTTP_BODY_BYTES_MAX) {
        http1->too_large = true;
        return -1;
    }
    return 0;
}

static int http1_on_body(http_parser *parser, const char *at, size_t bytes)
{
    struct http1 *http1 = parser->data;
    return http1_append(http1, &http1->body, at, bytes, HTTP_BODY_BYTES_MAX);
}

static int http1_on_complete(http_parser *parser)
{
    struct http1 *http1 = parser->data;
    http1->keep_alive = http_should_keep_alive(parser) != 0;
    http1->handling = true;
    http_parser_pause(parser, 1);
    return 0;
}

static const http_parser_settings http1_settings = {
    .on_message_begin = http1_on_begin,
    .on_url = http1_on_url,
    .on_header_field = http1_on_header_name,
    .on_header_value = http1_on_header_value,
    .on_headers_complete = http1_on_headers_complete,
    .on_body = http1_on_body,
    .on_message_complete = http1_on_complete,
};

/* ---- replies -----------------------------------------------------------------------------------
 */

static void http1_put_reply(struct connection *connection, int status, const char *content_type,
                            struct bytes body, const char *extra_headers, bool keep_alive,
                            bool is_head)
{
    char head[512];
    int bytes = snprintf(head, sizeof(head),
                         "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\n%s", status,
                         http1_reason(status), content_type, body.size,
                         keep_alive ? "" : "Connection: close\r\n");
    invariant(bytes > 0 && (size_t)bytes < sizeof(head));
    outbuf_append(&connection->out, head, (size_t)bytes);
    if (extra_headers != NULL)
        outbuf_append(&connection->out, extra_headers, strlen(extra_headers));
    outbuf_append(&connection->out, "\r\n", 2);
    if (!is_head)
        outbuf_append(&connection->out, body.data, body.size);
    connection_mark_dirty(connection);
}

static void http1_uncharge(struct http1 *http1)
{
    struct rpc_server *server = http1->connection->server;
    invariant(server->partial_bytes >= http1->charged_bytes);
    server->partial_bytes -= http1->charged_bytes;
    http1->charged_bytes = 0;
}

static void http1_reset(struct http1 *http1)
{
    http1_uncharge(http1);
    arena_reset(&http1->arena);
    http1->url = http1->name = http1->value = http1->content_type = http1->authorization =
        http1->body = (struct http1_text){0};
    http1->in_value = http1->handling = false;
}

void http_reply(struct http_request *request, int status, const char *content_type,
                struct bytes body, const char *extra_headers)
{
    struct http1 *http1 = container_of(request, struct http1, request);
    struct connection *connection = http1->connection;
    invariant(http1->handling);
    if (connection == NULL) { /* the client left first: this was the last holder */
        arena_deinit(&http1->arena);
        free(http1);
        return;
    }
    bool keep_alive = http1->keep_alive && !connection->draining;
    bool is_head = http1->parser.method == HTTP_HEAD;
    http1_put_reply(connection, status, content_type, body, extra_headers, keep_alive, is_head);
    http1_reset(http1);
    connection->held = false;
    if (!keep_alive) {
        connection_end(connection);
        return;
    }
    connection_expect(connection, connection->server->options.http1_idle_timeout_ns);
    connection_update_pause(connection);
}

/* ---- requests ----------------------------------------------------------------------------------
 */

static struct bytes http1_bytes(const struct http1_text *text)
{
    return bytes_make(text->data, text->bytes);
}

static void http1_handle(struct http1 *http1)
{
    struct connection *connection = http1->connection;
    struct rpc_server *server = connection->server;
    struct bytes url = http1_bytes(&http1->url);
    const uint8_t *mark = url.size == 0 ? NULL : memchr(url.data, '?', url.size);
    size_t path_bytes = mark == NULL ? url.size : (size_t)(mark - url.data);
    http1->request = (struct http_request){
        .method = bytes_from_text(http_method_str((enum http_method)http1->parser.method)),
        .path = bytes_make(url.data, path_bytes),
        .query = mark == NULL ? (struct bytes){0} : bytes_make(mark + 1, url.size - path_bytes - 1),
        .body = http1_bytes(&http1->body),
        .content_type = http1_bytes(&http1->content_type),
        .authorization = http1_bytes(&http1->authorization),
        .port = connection->port,
        .service = server->options.service,
        .arena = &http1->arena,
        .connection = connection,
    };
    server->stats.http1_requests++;
    connection_expect_nothing(connection); /* now it is our turn */
    connection->held = true;
    connection_update_pause(connection);
    if (server->options.http != NULL)
        server->options.http(&http1->request);
    else
        http_reply(&http1->request, 404, "text/plain", bytes_from_text("404 page not found\n"),
                   NULL);
}

static int http1_hold(struct connection *connection, const uint8_t *data, size_t bytes)
{
    size_t needed = connection->partial_bytes + bytes;
    if (bytes == 0)
        return 0;
    int error = connection_partial_grow(connection, needed);
    if (error < 0)
        return error;
    memcpy(connection->partial + connection->partial_bytes, data, bytes);
    connection->partial_bytes = (uint32_t)needed;
    return 0;
}

/* Parses up to the end of one request at a time; returns the bytes taken, or a negative error. */
static int64_t http1_take(struct http1 *http1, const uint8_t *data, size_t bytes)
{
    size_t taken = 0;
    while (taken < bytes && !http1->handling && !http1->connection->paused &&
           !http1->connection->ending) {
        taken += http_parser_execute(&http1->parser, &http1_settings, (const char *)data + taken,
                                     bytes - taken);
        enum http_errno failure = HTTP_PARSER_ERRNO(&http1->parser);
        if (failure == HPE_PAUSED) {
            http_parser_pause(&http1->parser, 0);
            http1_handle(http1);
            continue;
        }
        if (failure == HPE_OK && !http1->parser.upgrade)
            continue;
        http1_put_reply(
            http1->connection, http1->too_large ? 413 : 400, "text/plain",
            bytes_from_text(http1->too_large ? "request too large\n" : "malformed request\n"), NULL,
            false, false);
        return ERR_MALFORMED;
    }
    return (int64_t)taken;
}

static int http1_input(struct connection *connection, const uint8_t *data, size_t bytes)
{
    struct http1 *http1 = connection->state;
    if (http1->handling || connection->paused || connection->partial_bytes > 0)
        return http1_hold(connection, data, bytes);
    int64_t taken = http1_take(http1, data, bytes);
    if (taken < 0)
        return (int)taken;
    return http1_hold(connection, data + taken, bytes - (size_t)taken);
}

static void http1_flush(struct connection *connection)
{
    struct http1 *http1 = connection->state;
    if (connection->partial_bytes == 0 || http1->handling || connection->paused ||
        connection->ending)
        return;
    int64_t taken = http1_take(http1, connection->partial, connection->partial_bytes);
    if (taken < 0) {
        connection_malformed(connection);
        return;
    }
    connection->partial_bytes -= (uint32_t)taken;
    if (connection->partial_bytes == 0)
        connection_partial_drop(connection);
    else
        memmove(connection->partial, connection->partial + taken, connection->partial_bytes);
}

/* ---- connection --------------------------------------------------------------------------------
 */

static int http1_start(struct connection *connection)
{
    struct http1 *http1 = calloc(1, sizeof(*http1));
    if (http1 == NULL)
        return ERR_LIMIT;
    http1->connection = connection;
    http_parser_init(&http1->parser, HTTP_REQUEST);
    http1->parser.data = http1;
    arena_init(&http1->arena, HTTP1_ARENA_BYTES_MAX);
    connection->state = http1;
    return 0;
}

static void http1_drain(struct connection *connection)
{
    const struct http1 *http1 = connection->state;
    if (!http1->handling)
        connection_end(connection);
}

static void http1_tick(struct connection *connection)
{
    (void)connection; /* its only deadlines are the connection's */
}

static bool http1_is_done(const struct connection *connection)
{
    const struct http1 *http1 = connection->state;
    return !http1->handling;
}

static void http1_stop(struct connection *connection)
{
    struct http1 *http1 = connection->state;
    connection->state = NULL;
    http1_uncharge(http1);
    if (http1->handling) { /* freed by the reply, which is still owed */
        http1->connection = NULL;
        http1->request.connection = NULL;
        http1->request.is_canceled = true;
        if (http1->request.canceled != NULL)
            http1->request.canceled(&http1->request);
        return;
    }
    arena_deinit(&http1->arena);
    free(http1);
}

const struct connection_protocol connection_http1 = {
    .name = "http1",
    .start = http1_start,
    .input = http1_input,
    .flush = http1_flush,
    .drain = http1_drain,
    .tick = http1_tick,
    .is_done = http1_is_done,
    .stop = http1_stop,
};
