#include <criterion/criterion.h>
#include <errno.h>

#include "core/err.h"

Test(err, every_code_has_a_text_a_name_and_a_status)
{
    static const struct {
        const char *why;
        int code;
        const char *text;
        enum grpc_status status;
    } cases[] = {
        {"a client compares the whole message", ERR_COMPACTED,
         "etcdserver: mvcc: required revision has been compacted", GRPC_OUT_OF_RANGE},
        {"an errno has its own text", -EIO, "Input/output error", GRPC_INTERNAL},
        {"a full disk is resource exhaustion", -ENOSPC, "No space left on device",
         GRPC_RESOURCE_EXHAUSTED},
        {"a count is success", 7, "success", GRPC_OK},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        cr_expect_str_eq(err_text(cases[i].code), cases[i].text, "%s", cases[i].why);
        cr_expect_eq(err_grpc_status(cases[i].code), cases[i].status, "%s", cases[i].why);
    }
    cr_expect_str_eq(err_name(ERR_FULL), "FULL");
    cr_expect_str_eq(err_name(-EIO), "EIO");
}

Test(err, numbers_are_unique)
{
    static const int codes[] = {
#define X(name, number, action, grpc, text) number,
        ERR_LIST(X)
#undef X
    };
    for (size_t i = 0; i < ARRAY_COUNT(codes); i++)
        for (size_t j = i + 1; j < ARRAY_COUNT(codes); j++)
            cr_expect_neq(codes[i], codes[j]);
}
