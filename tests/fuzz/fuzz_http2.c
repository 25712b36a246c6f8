#include "tests/fuzz/connection_world.h"

/*
 * An HTTP/2 client written by the input: each operation is a frame (valid, or any bytes), or a step
 * of the server's own side. The first byte says in what pieces the wire is cut.
 */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static size_t step_bytes;

static void wire(const uint8_t *data, size_t bytes)
{
    for (size_t at = 0; at < bytes;) {
        size_t part = u64_min(bytes - at, step_bytes);
        connection_input(&world.connection, data + at, part);
        at += part;
    }
}

static void frame(uint8_t type, uint8_t flags, uint32_t id, const uint8_t *payload, size_t bytes)
{
    uint8_t header[9] = {(uint8_t)(bytes >> 16), (uint8_t)(bytes >> 8), (uint8_t)bytes, type,
                         flags};
    be32_store(header + 5, id);
    wire(header, sizeof(header));
    wire(payload, bytes);
}

/* Literal fields without indexing, not Huffman-coded. */
static uint8_t *field(uint8_t *to, const char *name, const char *value)
{
    *to++ = 0;
    *to++ = (uint8_t)strlen(name);
    to = (uint8_t *)memcpy(to, name, strlen(name)) + strlen(name);
    *to++ = (uint8_t)strlen(value);
    return (uint8_t *)memcpy(to, value, strlen(value)) + strlen(value);
}

static void request(uint8_t how, uint32_t id, bool end)
{
    static const char *const paths[] = {"/t.T/Echo", "/t.T/Hold", "/t.T/Source", "/t.T/Bidi",
                                        "/t.T/Strm", "/t.T/None", "/u.U/None",   ""};
    uint8_t block[512], *to = block;
    to = field(to, ":method", how & 64 ? "GET" : "POST");
    to = field(to, ":scheme", "http");
    to = field(to, ":path", paths[how % 8]);
    to = field(to, "content-type", how & 128 ? "text/plain" : "application/grpc");
    if (how & 8)
        to = field(to, "grpc-encoding", how & 16 ? "gzip" : "zip");
    if (how & 32)
        to = field(to, "grpc-timeout", how & 16 ? "10m" : "10");
    to = field(to, "token", "abc");
    frame(1, end ? 5 : 4, id, block, (size_t)(to - block));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    if (size < 2)
        return 0;
    step_bytes = data[0] == 0 ? 1 << 20 : data[0];
    world_begin();
    wire((const uint8_t *)preface, 24);
    frame(4, 0, 0, NULL, 0);
    uint32_t next_id = 1;
    for (size_t at = 1; at + 2 < size;) {
        uint8_t operation = data[at], how = data[at + 1];
        uint32_t id =
            next_id < 2 ? 1 : (uint32_t)(how % 8 < next_id / 2 ? next_id - 2 - how % 8 * 2 : 1);
        size_t bytes = u64_min(data[at + 2], size - at - 3);
        const uint8_t *payload = data + at + 3;
        uint8_t message[300];
        at += 3;
        switch (operation % 10) {
        case 0:
            request(how, next_id, false);
            next_id += 2;
            continue;
        case 1: /* a whole message, then END_STREAM or not */
            message[0] = how >> 7;
            be32_store(message + 1, (uint32_t)bytes);
            memcpy(message + 5, payload, bytes);
            frame(0, operation & 128 ? 1 : 0, id, message, bytes + 5);
            break;
        case 2:
            frame(0, how & 9, id, payload, bytes);
            break;
        case 3:
            be32_store(message, how);
            frame(3, 0, id, message, 4);
            break;
        case 4:
            be32_store(message, 1 + (uint32_t)how * 1000);
            frame(8, 0, how & 1 ? id : 0, message, 4);
            break;
        case 5:
            message[0] = 0;
            message[1] = 4;
            be32_store(message + 2, (uint32_t)how * 300);
            frame(4, 0, 0, message, 6);
            break;
        case 6:
            frame(how, data[at - 1], id, payload, bytes);
            break;
        case 7:
            wire(payload, bytes);
            break;
        case 8:
            world_act(how);
            continue;
        case 9:
            world_flush();
            continue;
        }
        at += bytes;
    }
    world_end();
    return 0;
}
