#include "server/descriptors.h"

#include "core/base.h"
#include "core/invariant.h"

void descriptors_divide(uint64_t limit, uint32_t connection_cores, struct descriptors *descriptors)
{
    invariant(connection_cores > 0);
    uint64_t reserved = u64_max(limit / 4, u64_min(limit - limit / 4, DESCRIPTORS_RESERVED_MIN));
    uint64_t each = (limit - reserved) / connection_cores;
    *descriptors = (struct descriptors){
        .limit = limit,
        .reserved = reserved,
        .connections_max = (uint32_t)u64_min(each, DESCRIPTORS_CONNECTIONS_MAX),
    };
}
