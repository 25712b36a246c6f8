#include "tests/fuzz/connection_world.h"

#include "net/native_client.h"

/*
 * Native frames to a server's connection (well sealed, or any bytes, cut anywhere), and the same
 * bytes as replies to a client.
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

static size_t seal(uint8_t *to, const uint8_t *at, const uint8_t *payload, size_t bytes,
                   uint8_t flags)
{
    struct native_frame frame = {.flags = flags,
                                 .method = at[1] % 8,
                                 .payload_bytes = (uint32_t)bytes,
                                 .timeout_ms = at[2] & 15,
                                 .request_id = at[2] % 16};
    memcpy(to + NATIVE_HEADER_BYTES, payload, bytes);
    native_frame_seal(to, &frame);
    return NATIVE_HEADER_BYTES + bytes;
}

static void client_reply(void *context, const struct native_reply *reply)
{
    (void)context;
    invariant(reply->message.size == 0 || reply->message.data != NULL);
}

static void client_closed(struct native_client *client, int error)
{
    (void)client;
    (void)error;
}

/* A client that never connects: its calls are answered by the input alone. */
static void fuzz_client(const uint8_t *data, size_t size)
{
    struct native_client client = {.closed = client_closed};
    struct native_client_call calls[4] = {0};
    uint8_t bytes[NATIVE_HEADER_BYTES + 256];
    client.calls = calls;
    client.calls_max = 4;
    client.first_free = UINT32_MAX;
    for (uint32_t i = 0; i < 4; i++) {
        calls[i].request_id = (uint64_t)1 << 32 | i;
        calls[i].reply = client_reply;
    }
    client.calls_live = 4;
    for (size_t at = 0; at + 4 < size;) {
        size_t payload_bytes = u64_min(data[at + 3], size - at - 4);
        struct native_frame frame = {.flags = data[at] & NATIVE_FLAGS_KNOWN,
                                     .method = 1,
                                     .payload_bytes = (uint32_t)payload_bytes,
                                     .request_id = (uint64_t)1 << 32 | (data[at + 1] % 5)};
        memcpy(bytes + NATIVE_HEADER_BYTES, data + at + 4, payload_bytes);
        native_frame_seal(bytes, &frame);
        size_t whole = NATIVE_HEADER_BYTES + payload_bytes, cut = data[at + 2] % whole;
        if (native_client_input(&client, bytes, cut) < 0 ||
            native_client_input(&client, bytes + cut, whole - cut) < 0)
            break;
        at += 4 + payload_bytes;
    }
    for (uint32_t i = 0; i < 4; i++)
        free(calls[i].parts);
    free(client.partial);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t bytes[NATIVE_HEADER_BYTES + 256];
    if (size < 2)
        return 0;
    step_bytes = data[0] == 0 ? 1 << 20 : data[0];
    world_begin();
    for (size_t at = 1; at + 4 < size;) {
        size_t payload_bytes = u64_min(data[at + 3], size - at - 4);
        const uint8_t *payload = data + at + 4;
        switch (data[at] % 4) {
        case 0:
        case 1:
            wire(bytes, seal(bytes, data + at, payload, payload_bytes,
                             (data[at] >> 1) & NATIVE_FLAGS_KNOWN));
            break;
        case 2:
            wire(payload, payload_bytes);
            break;
        case 3:
            world_act(data[at + 1]);
            payload_bytes = 0;
            break;
        }
        at += 4 + payload_bytes;
    }
    world_end();
    fuzz_client(data, size);
    return 0;
}
