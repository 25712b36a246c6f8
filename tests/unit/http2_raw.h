/*
 * http2_raw.h - a detached RPC server with one HTTP/2 connection whose client writes its frames by
 * hand, and reads none.
 *
 * Owner     The test program that includes it; one connection at a time.
 */
#ifndef TESTS_UNIT_HTTP2_RAW_H
#define TESTS_UNIT_HTTP2_RAW_H

#include <criterion/criterion.h>
#include <stdlib.h>

#include "net/http2_server.h"

enum {
    FRAME_DATA = 0,
    FRAME_HEADERS = 1,
    FRAME_RST_STREAM = 3,
    FRAME_SETTINGS = 4,
    FRAME_PING = 6,
    FRAME_WINDOW_UPDATE = 8,
    FRAME_CONTINUATION = 9,
    END_STREAM = 1,
    END_HEADERS = 4,
};

static struct rpc_server server;
static struct connection connection;

static inline void send_frame(uint8_t type, uint8_t flags, uint32_t id, const void *payload,
                              size_t bytes)
{
    uint8_t header[9] = {(uint8_t)(bytes >> 16), (uint8_t)(bytes >> 8), (uint8_t)bytes, type,
                         flags};
    be32_store(header + 5, id);
    connection_input(&connection, header, sizeof(header));
    connection_input(&connection, payload, bytes);
}

static inline void send_window(uint32_t id, uint32_t bytes)
{
    uint8_t window[4];
    be32_store(window, bytes);
    send_frame(FRAME_WINDOW_UPDATE, 0, id, window, sizeof(window));
}

/* Output is thrown away when the client reads, and stays when it does not. */
static inline void flush(bool client_reads)
{
    while (queue_pop(&server.dirty) != NULL)
        ;
    connection_flush(&connection);
    if (client_reads)
        outbuf_consume(&connection.out, connection.out.bytes);
}

static inline void raw_open(const struct rpc_server_options *options)
{
    cr_assert_eq(rpc_server_init(&server, options), 0);
    server.now_ns = NS_PER_S;
    connection_init(&connection, &server, RPC_PORT_CLIENT);
    connection_input(&connection, (const uint8_t *)"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 24);
    send_frame(FRAME_SETTINGS, 0, 0, NULL, 0);
    flush(true);
}

/* What handlers still hold is completed afterwards, before rpc_server_deinit(). */
static inline void raw_close(void)
{
    connection_close(&connection);
    while (queue_pop(&server.dirty) != NULL)
        ;
    outbuf_deinit(&connection.out);
}

/* A literal field; `index`: with incremental indexing. Values below 16 KiB. */
static inline uint8_t *put_field(uint8_t *to, bool index, const char *name, const char *value,
                                 size_t value_bytes)
{
    *to++ = index ? 0x40 : 0;
    *to++ = (uint8_t)strlen(name);
    to = (uint8_t *)memcpy(to, name, strlen(name)) + strlen(name);
    if (value_bytes < 127) {
        *to++ = (uint8_t)value_bytes;
    } else {
        size_t rest = value_bytes - 127;
        *to++ = 127;
        *to++ = (uint8_t)(rest % 128 | 128);
        *to++ = (uint8_t)(rest / 128);
    }
    return (uint8_t *)memcpy(to, value, value_bytes) + value_bytes;
}

static inline uint8_t *put_request(uint8_t *to, const char *path)
{
    to = put_field(to, false, ":method", "POST", 4);
    to = put_field(to, false, ":path", path, strlen(path));
    return put_field(to, false, "content-type", "application/grpc", 16);
}

static inline void send_message(uint32_t id, const char *path, struct bytes message)
{
    uint8_t block[256], data[256] = {0};
    cr_assert_leq(message.size + GRPC_PREFIX_BYTES, sizeof(data));
    grpc_prefix_store(data, (uint32_t)message.size);
    if (message.size > 0)
        memcpy(data + GRPC_PREFIX_BYTES, message.data, message.size);
    send_frame(FRAME_HEADERS, END_HEADERS, id, block, (size_t)(put_request(block, path) - block));
    send_frame(FRAME_DATA, END_STREAM, id, data, GRPC_PREFIX_BYTES + message.size);
}

#endif
