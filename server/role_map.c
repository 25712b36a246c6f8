#include "core/invariant.h"
#include "server/node_private.h"

void role_map_compute(struct role_map *map, uint32_t core_count)
{
    invariant(core_count >= 1 && core_count <= CONFIG_CORES_MAX);
    *map = (struct role_map){.raft = 0, .connections_count = 1};
    if (core_count == 2) {
        map->compaction = 1;
        map->connections_count = 2;
    } else if (core_count >= 3 && core_count < 8) {
        map->log = map->compaction = 1;
        map->connections_first = 2;
        map->connections_count = core_count - 2;
    } else if (core_count >= 8) {
        map->log = 1;
        map->compaction = 2;
        map->connections_first = 3;
        map->connections_count = core_count - 3;
    }
}
