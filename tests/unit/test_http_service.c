/* server/http_service.h: health and readiness, by alarms, the leader, and a linearizable read that
 * the test answers. */
#include "server/http_service.h"

#include <criterion/criterion.h>
#include <stdlib.h>

#include "core/arena.h"
#include "core/metrics.h"
#include "server/frontend.h"
#include "server/node_private.h"

static struct node *node;
static struct frontend frontend;
static struct arena arena;
static struct http_request request;
static struct frontend_read *reading;
static void (*reading_go)(struct frontend_read *read, int error);
static int replied; /* the status; 0: not yet */
static char replied_body[1024];

/* ---- in place of the connection and the raft core ------------------------------------------- */

void http_reply(struct http_request *of, int status, const char *type maybe_unused,
                struct bytes body, const char *extra maybe_unused)
{
    cr_assert_eq(of, &request);
    cr_assert_eq(replied, 0, "one reply for each request");
    replied = status;
    cr_assert_lt(body.size, sizeof(replied_body));
    memcpy(replied_body, body.data, body.size);
    replied_body[body.size] = '\0';
}

void frontend_read(struct frontend *of, struct frontend_read *read,
                   void (*go)(struct frontend_read *read, int error))
{
    cr_assert_eq(of, &frontend);
    cr_assert_null(reading);
    reading = read;
    reading_go = go;
}

char *metrics_render(const struct metrics *metrics maybe_unused, size_t *bytes maybe_unused)
{
    return NULL;
}

/* ---- the table ------------------------------------------------------------------------------ */

enum { NO_READ = 1 };

static const struct {
    const char *why, *path, *query;
    uint64_t leader, alarms;
    bool learner, stopping;
    int read; /* what the read comes to; NO_READ: there must be none */
    int status;
    const char *body;
} rows[] = {
    {"all is well", "/health", "", 7, 0, 0, 0, 0, 200, "{\"health\":\"true\",\"reason\":\"\"}"},
    {"what the leader named was not applied here", "/health", "", 7, 0, 0, 0, ERR_TIMEOUT, 503,
     "{\"health\":\"false\",\"reason\":\"RANGE ERROR:etcdserver: request timed out\"}"},
    {"local health reads nothing", "/health", "serializable=true", 0, 0, 0, 0, NO_READ, 200,
     "{\"health\":\"true\",\"reason\":\"\"}"},
    {"no leader, nobody to ask", "/health", "", 0, 0, 0, 0, NO_READ, 503,
     "{\"health\":\"false\",\"reason\":\"RAFT NO LEADER\"}"},
    {"an alarm comes first", "/health", "", 7, 1u << ALARM_NO_SPACE, 0, 0, NO_READ, 503,
     "{\"health\":\"false\",\"reason\":\"ALARM NOSPACE\"}"},
    {"an alarm is overlooked", "/health", "exclude=NOSPACE", 7, 1u << ALARM_NO_SPACE, 0, 0, 0, 200,
     "{\"health\":\"true\",\"reason\":\"\"}"},
    {"damage", "/health", "exclude=NOSPACE", 7, 1u << ALARM_CORRUPT, 0, 0, NO_READ, 503,
     "{\"health\":\"false\",\"reason\":\"ALARM CORRUPT\"}"},
    {"alive without a read", "/livez", "", 0, 0, 0, 0, NO_READ, 200, "ok\n"},
    {"ready", "/readyz", "", 7, 0, 0, 0, 0, 200, "ok\n"},
    {"the other path", "/ready", "", 7, 0, 0, 0, 0, 200, "ok\n"},
    {"one check that reads", "/readyz/linearizable_read", "verbose", 7, 0, 0, 0, 0, 200,
     "[+]linearizable_read ok\nok\n"},
    {"one check that does not", "/readyz/non_learner", "", 7, 0, 0, 0, NO_READ, 200, "ok\n"},
    {"a learner", "/readyz/non_learner", "", 7, 0, true, 0, NO_READ, 503,
     "[-]non_learner failed: not supported for learner\n"},
    {"not caught up", "/readyz", "", 7, 0, 0, 0, ERR_TIMEOUT, 503,
     "[+]data_corruption ok\n[+]serializable_read ok\n"
     "[-]linearizable_read failed: etcdserver: request timed out\n[+]non_learner ok\n"},
    {"that does not matter", "/readyz", "exclude=linearizable_read", 0, 0, 0, 0, NO_READ, 200,
     "ok\n"},
    {"no leader", "/readyz/linearizable_read", "", 0, 0, 0, 0, NO_READ, 503,
     "[-]linearizable_read failed: etcdserver: no leader\n"},
    {"it stops", "/readyz/linearizable_read", "", 7, 0, 0, true, NO_READ, 503,
     "[-]linearizable_read failed: etcdserver: server stopped\n"},
    {"no such check", "/readyz/nothing", "", 7, 0, 0, 0, NO_READ, 404, "404 page not found\n"},
};

Test(http_service, health_is_what_a_client_would_see)
{
    node = aligned_alloc(CACHE_LINE_BYTES, u64_round_up(sizeof(*node), CACHE_LINE_BYTES));
    cr_assert_not_null(node);
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        memset(node, 0, sizeof(*node));
        atomic_store(&node->shared.leader, rows[i].leader);
        atomic_store(&node->shared.alarms, rows[i].alarms);
        atomic_store(&node->shared.is_learner, rows[i].learner);
        frontend = (struct frontend){.node = node, .stopping = rows[i].stopping};
        arena_init(&arena, 4096);
        request = (struct http_request){.method = bytes_from_text("GET"),
                                        .path = bytes_from_text(rows[i].path),
                                        .query = bytes_from_text(rows[i].query),
                                        .port = RPC_PORT_CLIENT,
                                        .service = &frontend,
                                        .arena = &arena};
        reading = NULL;
        replied = 0;
        http_service_handle(&request);
        if (rows[i].read == NO_READ) {
            cr_expect_null(reading, "%s", rows[i].why);
        } else {
            cr_assert_not_null(reading, "%s", rows[i].why);
            cr_expect_eq(replied, 0, "%s: it waits", rows[i].why);
            reading_go(reading, rows[i].read);
        }
        cr_expect_eq(replied, rows[i].status, "%s: %d", rows[i].why, replied);
        cr_expect_str_eq(replied_body, rows[i].body, "%s: %s", rows[i].why, replied_body);
        arena_deinit(&arena);
    }
    free(node);
}
