#include <criterion/criterion.h>

#include "storage/log/request.h"

static size_t encode(uint8_t *payload, enum request_kind kind, const char *body)
{
    struct request request = {
        .kind = kind, .origin = 7, .stream = 3, .sequence = 9, .body = bytes_from_text(body)};
    request_encode_header(payload, &request);
    memcpy(payload + REQUEST_HEADER_BYTES, body, strlen(body));
    return REQUEST_HEADER_BYTES + strlen(body);
}

Test(request, round_trip)
{
    uint8_t payload[64];
    struct request request;
    size_t bytes = encode(payload, REQUEST_TXN, "body");
    cr_assert_eq(request_decode(&request, bytes_make(payload, bytes)), 0);
    cr_expect_eq(request.kind, REQUEST_TXN);
    cr_expect_eq(request.origin, 7);
    cr_expect_eq(request.stream, 3);
    cr_expect_eq(request.sequence, 9);
    cr_expect(bytes_equal(request.body, bytes_from_text("body")));
}

Test(request, malformed_payloads_are_refused)
{
    static const struct {
        const char *why;
        size_t offset;
        uint8_t value;
        size_t cut;
    } cases[] = {
        {"another format", 0, 2, 0},    {"unknown kind", 1, 99, 0},  {"kind zero", 1, 0, 0},
        {"body size differs", 4, 9, 0}, {"truncated body", 0, 1, 1}, {"truncated header", 0, 1, 10},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        uint8_t payload[64];
        struct request request;
        size_t bytes = encode(payload, REQUEST_PUT, "body");
        payload[cases[i].offset] = cases[i].value;
        cr_expect_eq(request_decode(&request, bytes_make(payload, bytes - cases[i].cut)),
                     ERR_MALFORMED, "%s", cases[i].why);
    }
}
