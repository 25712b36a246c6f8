#include "tests/fuzz/connection_world.h"

/* HTTP/1.1 requests, cut in pieces of the size that the first byte says, with late replies. */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const beginnings[] = {
        "", "GET /health HTTP/1.1\r\n\r\n", "POST /v3/kv/put HTTP/1.1\r\ncontent-length: 10\r\n",
        "POST /v3/kv/range HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"};
    if (size < 2)
        return 0;
    size_t step_bytes = data[0] == 0 ? 1 << 20 : data[0];
    const char *beginning = beginnings[data[1] % ARRAY_COUNT(beginnings)];
    world_begin();
    connection_input(&world.connection, (const uint8_t *)beginning, strlen(beginning));
    for (size_t at = 2; at < size;) {
        size_t part = u64_min(size - at, step_bytes);
        connection_input(&world.connection, data + at, part);
        world_act(data[at]);
        at += part;
    }
    world_end();
    return 0;
}
