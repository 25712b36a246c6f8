#include <stdlib.h>

#include "core/invariant.h"
#include "net/grpc.h"

/* The small decoders of gRPC: timeout, escaping both ways, bounded inflation. */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint64_t timeout_ns;
    char text[300], escaped[900], again[300];
    if (grpc_parse_timeout(bytes_make(data, size), &timeout_ns) == 0)
        invariant(timeout_ns <= UINT64_MAX / 2);
    size_t used = grpc_unescape_message(bytes_make(data, u64_min(size, 299)), text, sizeof(text));
    invariant(used < sizeof(text) && text[used] == '\0');
    size_t escaped_bytes = grpc_escape_message(text, escaped, sizeof(escaped));
    grpc_unescape_message(bytes_make(escaped, escaped_bytes), again, sizeof(again));
    invariant(strcmp(text, again) == 0);

    uint8_t *inflated;
    size_t bytes;
    if (grpc_inflate(bytes_make(data, size), 10000, &inflated, &bytes) == 0) {
        invariant(bytes <= 10000);
        free(inflated);
    }
    return 0;
}
