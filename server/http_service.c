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

struct check {
    const char *name;
    bool (*passes)(const struct node *node);
    const char *failure;
};

static bool has_leader(const struct node *node)
{
    return atomic_load_explicit(&node->shared.leader, memory_order_relaxed) != 0;
}

static bool not_corrupt(const struct node *node)
{
    return !(atomic_load_explicit(&node->shared.alarms, memory_order_relaxed) &
             (1u << ALARM_CORRUPT));
}

static bool is_no_learner(const struct node *node)
{
    return !atomic_load_explicit(&node->shared.is_learner, memory_order_relaxed);
}

static bool always(const struct node *node maybe_unused)
{
    return true;
}

static const struct check live_checks[] = {{"serializable_read", always, ""}};
static const struct check ready_checks[] = {
    {"data_corruption", not_corrupt, "alarm activated: CORRUPT"},
    {"serializable_read", always, ""},
    {"linearizable_read", has_leader, "etcdserver: no leader"},
    {"non_learner", is_no_learner, "not supported for learner"},
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

static void reply_checks(struct http_request *request, const struct check *checks, size_t count,
                         const char *path)
{
    const struct node *node = ((struct frontend *)request->service)->node;
    char body[1024];
    size_t used = 0;
    bool passed = true, any = false;
    for (size_t i = 0; i < count; i++) {
        char exclude[64];
        if (!check_wanted(request, path, checks[i].name))
            continue;
        any = true;
        snprintf(exclude, sizeof(exclude), "exclude=%s", checks[i].name);
        bool ok = query_has(request, exclude) || checks[i].passes(node);
        passed &= ok;
        used += (size_t)snprintf(body + used, sizeof(body) - used,
                                 ok ? "[+]%s ok\n" : "[-]%s failed: %s\n", checks[i].name,
                                 checks[i].failure);
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

static void reply_health(struct http_request *request)
{
    struct frontend *frontend = request->service;
    uint64_t alarms = atomic_load_explicit(&frontend->node->shared.alarms, memory_order_relaxed);
    if (query_has(request, "exclude=NOSPACE"))
        alarms &= ~(uint64_t)(1u << ALARM_NO_SPACE);
    const char *reason = alarms & (1u << ALARM_CORRUPT)    ? "ALARM CORRUPT"
                         : alarms & (1u << ALARM_NO_SPACE) ? "ALARM NOSPACE"
                         : query_has(request, "serializable=true") || has_leader(frontend->node)
                             ? ""
                             : "RAFT NO LEADER";
    char body[128];
    bool healthy = reason[0] == '\0';
    snprintf(body, sizeof(body), "{\"health\":\"%s\",\"reason\":\"%s\"}",
             healthy ? "true" : "false", reason);
    reply_text(request, healthy ? 200 : 503, "application/json", body);
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
        reply_health(request);
    else if (path_is(request, "/version") && request->port == RPC_PORT_CLIENT)
        reply_version(request);
    else if (path_is_under(request, "/livez"))
        reply_checks(request, live_checks, ARRAY_COUNT(live_checks), "/livez");
    else if (path_is_under(request, "/readyz"))
        reply_checks(request, ready_checks, ARRAY_COUNT(ready_checks), "/readyz");
    else if (path_is(request, "/ready"))
        reply_checks(request, ready_checks, ARRAY_COUNT(ready_checks), "/ready");
    else
        reply_text(request, 404, "text/plain; charset=utf-8", "404 page not found\n");
}
