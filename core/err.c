#include "core/err.h"

#include <errno.h>

#include "core/invariant.h"

struct err_row {
    int code;
    enum err_action action;
    enum grpc_status grpc;
    const char *name;
    const char *text;
};

static const struct err_row rows[] = {
#define X(name, number, action, grpc, text)                                                        \
    {-(number), ERR_ACTION_##action, GRPC_##grpc, #name, text},
    ERR_LIST(X)
#undef X
};

static const struct err_row *err_row(int error)
{
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++)
        if (rows[i].code == error)
            return &rows[i];
    return NULL;
}

const char *err_text(int error)
{
    const struct err_row *row = err_row(error);
    if (row != NULL)
        return row->text;
    if (error >= 0)
        return "success";
    const char *text = strerrordesc_np(-error);
    return text != NULL ? text : "unknown error";
}

const char *err_name(int error)
{
    const struct err_row *row = err_row(error);
    if (row != NULL)
        return row->name;
    if (error >= 0)
        return "OK";
    const char *name = strerrorname_np(-error);
    return name != NULL ? name : "UNKNOWN";
}

enum grpc_status err_grpc_status(int error)
{
    const struct err_row *row = err_row(error);
    if (row != NULL)
        return row->grpc;
    if (error >= 0)
        return GRPC_OK;
    return error == -ENOSPC ? GRPC_RESOURCE_EXHAUSTED : GRPC_INTERNAL;
}

enum err_action err_action(int error)
{
    const struct err_row *row = err_row(error);
    if (row != NULL)
        return row->action;
    invariant(error < 0);
    return ERR_ACTION_FATAL;
}

bool err_is_no_room(int error)
{
    return error == -ENOSPC || error == -EDQUOT || error == -EFBIG;
}
