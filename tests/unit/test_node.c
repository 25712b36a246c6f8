#include <criterion/criterion.h>

#include "server/node_private.h"

/* vm.max_map_count unless somebody changed it. A quarter is left to the heap, rings, libraries. */
enum { MAPPINGS_MAX = 65530, MAPPINGS_OF_STACK = 2 };

Test(node, stacks_of_all_cores_leave_mappings_to_others)
{
    static const struct config config;
    for (uint32_t cores = 1; cores <= CONFIG_CORES_MAX; cores++) {
        static struct node node;
        node.config = &config;
        node.core_count = cores;
        node.memory_limit = GIB;
        role_map_compute(&node.map, cores);
        uint64_t fibers = 0;
        for (uint32_t core = 0; core < cores; core++) {
            struct core_options options;
            node_core_options(&node, core, cores, &options);
            cr_expect_geq(options.fibers_max, 2 * FIBERS_OWN_MAX, "%u cores", cores);
            fibers += options.fibers_max;
        }
        cr_expect_leq(fibers * MAPPINGS_OF_STACK, MAPPINGS_MAX * 3 / 4, "%u cores", cores);
    }
}
