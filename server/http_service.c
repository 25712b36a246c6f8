#include "server/http_service.h"

#include <stdio.h>
#include <stdlib.h>

#include "core/invariant.h"
#include "core/metrics.h"
#include "server/frontend.h"
#include "server/node_private.h"

static void reply_text(struct http_request *request, int status, const char *type, const char *text)
{
    http_reply(request, status, type, bytes_from_text(text), NULL);
}

/* `path` itself, or something below it. */
static bool path_is_under(const struct http_request *request, const char *path)
{
    size_t bytes = strlen(path);
    return request->path.size >= bytes && memcmp(request->path.data, path, bytes) == 0 &&
           (request->path.size == bytes || request->path.data[bytes] == '/');
}

static bool path_is(const struct http_request *request, const char *path)
{
    return bytes_equal(request->path, bytes_from_text(path));
}

/* Is `name=value` or `name` among the parameters of the query? */
static bool query_has(const struct http_request *request, const char *wanted)
{
    size_t wanted_bytes = strlen(wanted);
    const uint8_t *at = request->query.data, *end = at + request->query.size;
    while (at != NULL && at < end) {
        const uint8_t *next = memchr(at, '&', (size_t)(end - at));
        size_t bytes = (size_t)((next != NULL ? next : end) - at);
        if (bytes == wanted_bytes && memcmp(at, wanted, bytes) == 0)
            return true;
        at = next != NULL ? next + 1 : end;
    }
    return false;
}

/* ---- health --------------------------------------------------------------------------------- */

/* What checks judge by. */
struct signs {
    const struct node *node;
    int read_error; /* of a linearizable read */
};

struct check {
    const char *name;
    const char *(*failure)(const struct signs *signs); /* NULL: it passes */
};

static uint64_t alarms_of(const struct node *node)
{
    return atomic_load_explicit(&node->shared.alarms, memory_order_relaxed);
}

static bool has_leader(const struct node *node)
{
    return atomic_load_explicit(&node->shared.leader, memory_order_relaxed) != 0;
}

static const char *data_corruption(const struct signs *signs)
{
    return alarms_of(signs->node) & (1u << ALARM_CORRUPT) ? "alarm activated: CORRUPT" : NULL;
}

static const char *serializable_read(const struct signs *signs maybe_unused)
{
    return NULL;
}

static const char *linearizable_read(const struct signs *signs)
{
    return signs->read_error < 0 ? err_text(signs->read_error) : NULL;
}

static const char *non_learner(const struct signs *signs)
{
    bool is_learner = atomic_load_explicit(&signs->node->shared.is_learner, memory_order_relaxed);
    return is_learner ? "not supported for learner" : NULL;
}

static const struct check live_checks[] = {{"serializable_read", serializable_read}};
static const struct check ready_checks[] = {
    {"data_corruption", data_corruption},
    {"serializable_read", serializable_read},
    {"linearizable_read", linearizable_read},
    {"non_learner", non_learner},
};

/* "/readyz" for all checks, "/readyz/name" for one. False: no such check. */
static bool check_wanted(const struct http_request *request, const char *path, const char *name)
{
    size_t path_bytes = strlen(path);
    if (request->path.size == path_bytes)
        return true;
    return bytes_equal(
        bytes_make(request->path.data + path_bytes + 1, request->path.size - path_bytes - 1),
        bytes_from_text(name));
}

static bool check_excluded(const struct http_request *request, const char *name)
{
    char exclude[64];
    snprintf(exclude, sizeof(exclude), "exclude=%s", name);
    return query_has(request, exclude);
}

static void reply_checks(struct http_request *request, const struct check *checks, size_t count,
                         const char *path, int read_error)
{
    struct signs signs = {.node = ((struct frontend *)request->service)->node,
                          .read_error = read_error};
    char body[1024];
    size_t used = 0;
    bool passed = true, any = false;
    for (size_t i = 0; i < count; i++) {
        if (!check_wanted(request, path, checks[i].name))
            continue;
        any = true;
        const char *failure =
            check_excluded(request, checks[i].name) ? NULL : checks[i].failure(&signs);
        passed &= failure == NULL;
        used += (size_t)snprintf(body + used, sizeof(body) - used,
                                 failure == NULL ? "[+]%s ok\n" : "[-]%s failed: %s\n",
                                 checks[i].name, failure);
    }
    bool verbose = query_has(request, "verbose") || query_has(request, "verbose=true");
    if (!any)
        reply_text(request, 404, "text/plain; charset=utf-8", "404 page not found\n");
    else if (passed && !verbose)
        reply_text(request, 200, "text/plain; charset=utf-8", "ok\n");
    else {
        snprintf(body + used, sizeof(body) - used, "%s", passed ? "ok\n" : "");
        reply_text(request, passed ? 200 : 503, "text/plain; charset=utf-8", body);
    }
}

static const char *ready_path(const struct http_request *request)
{
    return path_is(request, "/ready") ? "/ready" : "/readyz";
}

static void reply_ready(struct http_request *request, int read_error)
{
    reply_checks(request, ready_checks, ARRAY_COUNT(ready_checks), ready_path(request), read_error);
}

static void reply_health(struct http_request *request, const char *reason, const char *detail)
{
    char body[256];
    bool healthy = reason[0] == '\0';
    snprintf(body, sizeof(body), "{\"health\":\"%s\",\"reason\":\"%s%s\"}",
             healthy ? "true" : "false", reason, detail);
    reply_text(request, healthy ? 200 : 503, "application/json", body);
}

static void health_read(struct http_request *request, int read_error)
{
    if (read_error < 0)
        reply_health(request, "RANGE ERROR:", err_text(read_error));
    else
        reply_health(request, "", "");
}

/* ---- with a linearizable read --------------------------------------------------------------- */

struct pending {
    struct frontend_read read;
    struct http_request *request;
    void (*reply)(struct http_request *request, int read_error);
};

static void read_done(struct frontend_read *read, int error)
{
    struct pending *pending = container_of(read, struct pending, read);
    pending->reply(pending->request, error);
}

/* Once a read that begins now is possible here, or is not. */
static void reply_after_read(struct http_request *request,
                             void (*reply)(struct http_request *request, int read_error))
{
    struct frontend *frontend = request->service;
    struct pending *pending = arena_take(request->arena, sizeof(*pending));
    if (frontend->stopping || !has_leader(frontend->node) || pending == NULL) {
        reply(request, frontend->stopping ? ERR_STOPPED
                       : pending == NULL  ? ERR_TOO_MANY_REQUESTS
                                          : ERR_NO_LEADER);
        return;
    }
    pending->request = request;
    pending->reply = reply;
    frontend_read(frontend, &pending->read, read_done);
}

static void handle_ready(struct http_request *request)
{
    if (check_wanted(request, ready_path(request), "linearizable_read") &&
        !check_excluded(request, "linearizable_read"))
        reply_after_read(request, reply_ready);
    else
        reply_ready(request, 0);
}

static void handle_health(struct http_request *request)
{
    const struct node *node = ((struct frontend *)request->service)->node;
    uint64_t alarms = alarms_of(node);
    if (check_excluded(request, "NOSPACE"))
        alarms &= ~(uint64_t)(1u << ALARM_NO_SPACE);
    if (alarms & (1u << ALARM_CORRUPT))
        reply_health(request, "ALARM CORRUPT", "");
    else if (alarms & (1u << ALARM_NO_SPACE))
        reply_health(request, "ALARM NOSPACE", "");
    else if (query_has(request, "serializable=true"))
        reply_health(request, "", "");
    else if (!has_leader(node))
        reply_health(request, "RAFT NO LEADER", "");
    else
        reply_after_read(request, health_read);
}

/* ---- the rest ------------------------------------------------------------------------------- */

static void reply_version(struct http_request *request)
{
    reply_text(request, 200, "application/json",
               "{\"etcdserver\":\"" NODE_ETCD_VERSION
               "\",\"etcdcluster\":\"" NODE_ETCD_CLUSTER_VERSION
               "\",\"storage\":\"" NODE_ETCD_CLUSTER_VERSION "\"}");
}

static void reply_metrics(struct http_request *request)
{
    struct frontend *frontend = request->service;
    size_t bytes = 0;
    char *text = metrics_render(frontend->node->metrics, &bytes);
    if (text == NULL) {
        reply_text(request, 503, "text/plain; charset=utf-8", "out of memory\n");
        return;
    }
    http_reply(request, 200, "text/plain; version=0.0.4; charset=utf-8", bytes_make(text, bytes),
               NULL);
    free(text);
}

void http_service_handle(struct http_request *request)
{
    bool get = bytes_equal(request->method, bytes_from_text("GET"));
    if (!get) {
        reply_text(request, 405, "text/plain; charset=utf-8", "Method Not Allowed\n");
        return;
    }
    if (path_is(request, "/metrics"))
        reply_metrics(request);
    else if (path_is(request, "/health"))
        handle_health(request);
    else if (path_is(request, "/version") && request->port == RPC_PORT_CLIENT)
        reply_version(request);
    else if (path_is_under(request, "/livez"))
        reply_checks(request, live_checks, ARRAY_COUNT(live_checks), "/livez", 0);
    else if (path_is_under(request, "/readyz") || path_is(request, "/ready"))
        handle_ready(request);
    else
        reply_text(request, 404, "text/plain; charset=utf-8", "404 page not found\n");
}
