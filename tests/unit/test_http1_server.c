#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#include "net/rpc_internal.h"

static struct rpc_server server;
static struct connection connection;
static struct http_request *held;
static bool hold;
static uint32_t handled_count;
static uint8_t port_of_request;

static void handle(struct http_request *request)
{
    handled_count++;
    port_of_request = request->port;
    if (hold) {
        held = request;
        return;
    }
    char text[512];
    int bytes =
        snprintf(text, sizeof(text), "%.*s %.*s ? %.*s # %.*s @ %.*s", (int)request->method.size,
                 request->method.data, (int)request->path.size, request->path.data,
                 (int)request->query.size, request->query.data, (int)request->body.size,
                 request->body.data, (int)request->authorization.size, request->authorization.data);
    http_reply(request, 200, "text/plain", bytes_make(text, (size_t)bytes), "X-A: b\r\n");
}

static void begin_on(enum rpc_port port)
{
    struct rpc_server_options options = {.http = handle, .partial_bytes_max = 300 * KIB};
    cr_assert_eq(rpc_server_init(&server, &options), 0);
    server.now_ns = NS_PER_S;
    connection_init(&connection, &server, (uint8_t)port);
    handled_count = 0;
}

static void begin(void)
{
    begin_on(RPC_PORT_CLIENT);
}

static void end(void)
{
    if (!connection.closed)
        connection_close(&connection);
    while (queue_pop(&server.dirty) != NULL)
        ;
    outbuf_deinit(&connection.out);
    cr_assert_eq(server.partial_bytes, 0);
    rpc_server_deinit(&server);
}

static const char *output(void)
{
    static char copy[1 << 16];
    struct iovec iov[8];
    size_t bytes = 0;
    while (queue_pop(&server.dirty) != NULL)
        ;
    connection_flush(&connection);
    uint32_t count = outbuf_gather(&connection.out, iov, 8);
    for (uint32_t i = 0; i < count; i++) {
        memcpy(copy + bytes, iov[i].iov_base, iov[i].iov_len);
        bytes += iov[i].iov_len;
    }
    copy[bytes] = '\0';
    outbuf_consume(&connection.out, bytes);
    return copy;
}

static void input(const char *text, size_t step)
{
    for (size_t at = 0, bytes = strlen(text); at < bytes; at += step)
        connection_input(&connection, (const uint8_t *)text + at, u64_min(step, bytes - at));
}

Test(http1_server, requests_in_pieces_of_every_size)
{
    static const char request[] =
        "POST /v3/kv/put?a=b HTTP/1.1\r\nHost: x\r\nAuthorization: tok\r\n"
        "Content-Type: application/json\r\nContent-Length: 4\r\n\r\n{ab}";
    static const char want[] =
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 32\r\nX-A: b\r\n\r\n"
        "POST /v3/kv/put ? a=b # {ab} @ tok";
    for (size_t step = 1; step <= sizeof(request); step++) {
        begin();
        input(request, step);
        const char *got = output();
        cr_assert_eq(handled_count, 1, "step %zu", step);
        cr_assert_str_eq(strstr(got, "\r\n\r\n"), strstr(want, "\r\n\r\n"));
        cr_assert_not(connection.ending);
        end();
    }
}

Test(http1_server, bodies_count_among_the_incomplete_requests)
{
    static char body[100 * KIB + 1];
    memset(body, 'b', sizeof(body) - 1);
    begin();
    input("POST /a HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n", 1000);
    input(body, sizeof(body));
    cr_expect_geq(server.partial_bytes, 100 * KIB);
    cr_expect_not(connection.ending);
    input(body, sizeof(body));
    input(body, sizeof(body));
    cr_expect(connection.ending);
    cr_expect(strstr(output(), "413 ") != NULL);
    end();
    begin();
    hold = true;
    input("POST /a HTTP/1.1\r\nContent-Length: 102400\r\n\r\n", 1000);
    input(body, sizeof(body));
    cr_expect_eq(handled_count, 1);
    connection_close(&connection);
    cr_expect_eq(server.partial_bytes, 0, "also when the client left first");
    http_reply(held, 200, "text/plain", (struct bytes){0}, NULL);
    end();
}

Test(http1_server, a_port_for_metrics_speaks_nothing_else)
{
    static const struct {
        const char *first_bytes;
        bool taken;
    } cases[] = {
        {"GET /metrics HTTP/1.1\r\n\r\n", true},
        {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", false},
        {"\xf5RFT", false}, /* a native frame begins */
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        begin_on(RPC_PORT_METRICS);
        input(cases[i].first_bytes, 1000);
        cr_expect_eq(handled_count, cases[i].taken, "%s", cases[i].first_bytes);
        cr_expect_eq(connection.ending, !cases[i].taken, "%s", cases[i].first_bytes);
        if (cases[i].taken)
            cr_expect_eq(port_of_request, RPC_PORT_METRICS);
        end();
        begin();
        input(cases[i].first_bytes, 1000);
        cr_expect_not(connection.ending, "the client port takes it");
        end();
    }
}

Test(http1_server, pipelined_requests_wait_for_a_late_reply)
{
    begin();
    hold = true;
    input("GET /one HTTP/1.1\r\n\r\nGET /two HTTP/1.1\r\n\r\n", 1000);
    cr_expect_eq(handled_count, 1);
    cr_expect(connection.paused, "one at a time");
    cr_expect_str_eq(output(), "");
    hold = false;
    http_reply(held, 503, "application/json", bytes_from_text("{}"), NULL);
    const char *got = output();
    cr_expect(strstr(got, "503 Service Unavailable") != NULL);
    cr_expect(strstr(got, "GET /two ?") != NULL, "%s", got);
    cr_expect_not(connection.paused);
    end();
}

Test(http1_server, pipelined_requests_wait_while_replies_wait_for_the_client)
{
    enum { REQUESTS = 600, QUEUED_MAX = 10000, REPLY_MAX = 300 };
    static char requests[REQUESTS * 32];
    size_t bytes = 0;
    for (int i = 0; i < REQUESTS; i++)
        bytes += (size_t)snprintf(requests + bytes, sizeof(requests) - bytes,
                                  "GET /%d HTTP/1.1\r\n\r\n", i);
    const size_t steps[] = {700, bytes};
    for (size_t i = 0; i < ARRAY_COUNT(steps); i++) {
        begin();
        server.options.queued_bytes_per_connection_max = QUEUED_MAX;
        input(requests, steps[i]);
        cr_expect_gt(handled_count, 10);
        cr_expect(connection.paused);
        for (int next = 0, rounds = 0; next < REQUESTS; rounds++) {
            cr_assert_lt(rounds, REQUESTS);
            cr_assert_leq(connection.out.bytes, QUEUED_MAX + REPLY_MAX);
            const char *at = output();
            for (char wanted[32]; next < REQUESTS; next++, at += strlen(wanted)) {
                snprintf(wanted, sizeof(wanted), "GET /%d ?", next);
                const char *found = strstr(at, wanted);
                if (found == NULL)
                    break;
                at = found;
            }
        }
        cr_expect_eq(handled_count, REQUESTS);
        cr_expect_not(connection.paused);
        cr_expect_eq(connection.partial_bytes, 0);
        end();
    }
}

Test(http1_server, endings)
{
    static const struct {
        const char *why, *request, *want;
        bool ends;
    } cases[] = {
        {"HTTP/1.0 closes", "GET / HTTP/1.0\r\n\r\n", "Connection: close", true},
        {"asked to close", "GET / HTTP/1.1\r\nConnection: close\r\n\r\n", "Connection: close",
         true},
        {"kept alive", "GET / HTTP/1.1\r\n\r\n", "200 OK", false},
        {"malformed", "GARBAGE\r\n\r\n", "400 Bad Request", true},
        {"a body too large", "POST / HTTP/1.1\r\nContent-Length: 9999999\r\n\r\n",
         "413 Payload Too Large", true},
        {"chunked", "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
         "# abc", false},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        begin();
        input(cases[i].request, 1000);
        const char *got = output();
        cr_expect(strstr(got, cases[i].want) != NULL, "%s: %s", cases[i].why, got);
        cr_expect_eq(connection.ending, cases[i].ends, "%s", cases[i].why);
        end();
    }
}

Test(http1_server, the_reply_after_the_client_left_frees_the_request)
{
    begin();
    hold = true;
    input("GET /slow HTTP/1.1\r\n\r\n", 1000);
    connection_close(&connection);
    cr_expect(held->is_canceled);
    http_reply(held, 200, "text/plain", (struct bytes){0}, NULL);
    hold = false;
    end();
}

Test(http1_server, idle_and_slow_connections_are_closed)
{
    begin();
    input("GET / HTTP/1.1\r\n\r\n", 1000);
    output();
    server.now_ns += 59 * NS_PER_S;
    connection_tick(&connection);
    cr_expect_not(connection.ending);
    server.now_ns += NS_PER_S;
    connection_tick(&connection);
    cr_expect(connection.ending, "idle for a minute");
    end();
    begin();
    input("GET / HT", 1);
    server.now_ns += 10 * NS_PER_S;
    connection_tick(&connection);
    cr_expect(connection.ending, "ten seconds for the headers");
    end();
}
