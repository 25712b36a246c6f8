/* Harm that a seed does to disks while they are used, and its end. */
#include "tests/sim/whole.h"

#define SLOW_FACTOR_MAX      200
#define ERROR_PER_MILLE_MAX  50
#define FULL_SPARE_BYTES_MAX (2 * MIB)
#define DRIFT_PPM_MAX        30000

static struct prng *faults(struct whole *whole)
{
    return whole_prng(whole, FAULTS);
}

void whole_disk_draw(struct whole_disk_config *config, struct prng *prng)
{
    config->slow = prng_chance(prng, 1, 4);
    config->errors = prng_chance(prng, 1, 5);
    config->full = prng_chance(prng, 1, 5);
    config->drift_ppm_max = prng_chance(prng, 1, 3) ? DRIFT_PPM_MAX : 0;
}

int32_t whole_disk_drift_ppm(struct whole *whole)
{
    int32_t most = (int32_t)whole->config.disk.drift_ppm_max;
    return most == 0 ? 0 : (int32_t)prng_below(faults(whole), 2 * (uint64_t)most + 1) - most;
}

static void slow_down(struct whole_node *node)
{
    struct sim_disk_faults *harm = sim_disk_faults(node->disk);
    harm->slow_factor = 2 + (uint32_t)prng_below(faults(node->whole), SLOW_FACTOR_MAX);
    whole_text(node->whole, node->sim.id, "* disk %u times as slow", harm->slow_factor);
}

/* Writes fail now and then. The process ends, and starts again. */
static void let_fail(struct whole_node *node)
{
    struct sim_disk_faults *harm = sim_disk_faults(node->disk);
    harm->error_per_mille = 1 + (uint32_t)prng_below(faults(node->whole), ERROR_PER_MILLE_MAX);
    whole_text(node->whole, node->sim.id, "* of writes %u per mille fail", harm->error_per_mille);
}

/* Somebody else takes what is free of the disk, nearly. */
static void fill_up(struct whole_node *node)
{
    struct sim_disk_faults *harm = sim_disk_faults(node->disk);
    uint64_t free_bytes, total_bytes, spare = prng_below(faults(node->whole), FULL_SPARE_BYTES_MAX);
    harm->limit_bytes = 0;
    sim_disk_space(node->disk, &free_bytes, &total_bytes);
    harm->limit_bytes = total_bytes - free_bytes + spare;
    whole_text(node->whole, node->sim.id, "* disk full but for %llu bytes",
               (unsigned long long)spare);
}

static void heal(struct whole_node *node)
{
    struct sim_disk_faults *harm = sim_disk_faults(node->disk);
    if (node->disk_until_ns != 0)
        whole_text(node->whole, node->sim.id, "* disk as before");
    node->disk_until_ns = 0;
    harm->slow_factor = harm->error_per_mille = 0;
    harm->limit_bytes = 0;
}

static void do_harm(struct whole *whole)
{
    const struct whole_disk_config *config = &whole->config.disk;
    struct whole_node *node = &whole->nodes[prng_below(faults(whole), whole->node_count)];
    uint64_t draw = prng_below(faults(whole), 3);
    if (node->disk_until_ns != 0)
        return;
    if (draw == 0 && config->slow)
        slow_down(node);
    else if (draw == 1 && config->errors)
        let_fail(node);
    else if (draw == 2 && config->full)
        fill_up(node);
    else
        return;
    node->disk_until_ns =
        whole->world.now_ns + prng_below(faults(whole), 2 * whole->config.outage_ns_max + 1);
}

static void disk_event(struct sim_event *event)
{
    struct whole *whole = container_of(event, struct whole, disk_fault);
    for (uint32_t i = 0; i < whole->node_count; i++)
        if (whole->nodes[i].disk_until_ns <= whole->world.now_ns)
            heal(&whole->nodes[i]);
    do_harm(whole);
    sim_event_schedule(&whole->world, event,
                       whole->world.now_ns +
                           prng_below(faults(whole), 2 * whole->config.fault_mean_ns + 1));
}

void whole_disk_faults_start(struct whole *whole)
{
    const struct whole_disk_config *config = &whole->config.disk;
    sim_event_init(&whole->disk_fault, disk_event);
    if (config->slow || config->errors || config->full)
        sim_event_schedule(&whole->world, &whole->disk_fault,
                           whole->world.now_ns + whole->config.fault_mean_ns);
}

void whole_disk_faults_end(struct whole *whole)
{
    sim_event_cancel(&whole->world, &whole->disk_fault);
    for (uint32_t i = 0; i < whole->node_count; i++)
        heal(&whole->nodes[i]);
}

bool whole_disk_failed(const struct whole_node *node)
{
    return sim_disk_faults(node->disk)->errors != node->disk_errors;
}
