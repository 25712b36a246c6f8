/* Harm that a seed does to disks: to what lies on them, and while they are used. */
#include <stdio.h>

#include "storage/log/wal.h"
#include "tests/sim/whole.h"

#define SLOW_FACTOR_MAX      200
#define ERROR_PER_MILLE_MAX  50
#define FULL_SPARE_BYTES_MAX (2 * MIB)
#define DRIFT_PPM_MAX        30000

static struct prng *faults(struct whole *whole)
{
    return whole_prng(whole, FAULTS);
}

/* ---- what lies there ------------------------------------------------------------------------
 *
 * Only on the first `rotting` nodes, less than half: everything has a majority of intact copies. A
 * log is repaired from them. It is spared what would look like a write that never was: two pages
 * side by side, or both ends of a block, the last one's maybe. The ring is spared, which remembers
 * what was lost. Nothing repairs a table: its node must not serve anything wrong, and waits for
 * the end, when tables come back from a copy. */

#define ROT_BYTES_MAX   1024
#define TABLES          "/data/lsm"
#define TABLE_BYTES_MAX 8 /* what is compressed still expands: only checksums tell */
#define TABLES_MAX      4 /* at once */
#define FILES_MAX       256
#define BLOCK_PAGES     ((uint64_t)WAL_BLOCK_BYTES_DEFAULT / WAL_PAGE_BYTES + 2) /* and more */

struct files {
    const char *directory, *end;
    char names[FILES_MAX][64];
    uint32_t count;
};

static void on_file(void *context, const char *name)
{
    struct files *files = context;
    size_t length = strlen(name), end = strlen(files->end);
    if (length > end && strcmp(name + length - end, files->end) == 0 && files->count < FILES_MAX)
        snprintf(files->names[files->count++], sizeof(files->names[0]), "%s/%s", files->directory,
                 name);
}

/* One of the files in `directory` whose name ends so, in `path`; false: there is none. */
static bool some_file(struct whole_node *node, const char *directory, const char *end, char *path,
                      size_t path_bytes)
{
    struct files files = {.directory = directory, .end = end};
    if (sim_disk_list(node->disk, directory, on_file, &files) < 0 || files.count == 0)
        return false;
    snprintf(path, path_bytes, "%s", files.names[prng_below(faults(node->whole), files.count)]);
    return true;
}

static void tell(struct whole_node *node, const char *what, const char *path, uint64_t offset)
{
    node->whole->rots++;
    whole_text(node->whole, node->sim.id, "* %s in %s at %llu", what, path,
               (unsigned long long)offset);
}

static void damage_log(struct whole_node *node, const char *path)
{
    struct prng *prng = faults(node->whole);
    static const char *const names[] = {"rot", "lost sector", "misdirected write"};
    uint64_t offset, kind = prng_below(prng, ARRAY_COUNT(names));
    bool done = kind == 0   ? sim_disk_rot(node->disk, path, ROT_BYTES_MAX, prng, &offset)
                : kind == 1 ? sim_disk_lose(node->disk, path, prng, &offset)
                            : sim_disk_misdirect(node->disk, path, BLOCK_PAGES, prng, &offset);
    if (done)
        tell(node, names[kind], path, offset);
}

/* Tables of a node that is down, or runs. */
static void damage_tables(struct whole_node *node)
{
    struct prng *prng = faults(node->whole);
    char path[64];
    uint64_t offset;
    for (uint64_t more = 1 + prng_below(prng, TABLES_MAX); more > 0; more--) {
        if (!some_file(node, TABLES, ".sst", path, sizeof(path)))
            return;
        bool loses = prng_chance(prng, 1, 4);
        if (loses ? sim_disk_lose(node->disk, path, prng, &offset)
                  : sim_disk_rot(node->disk, path, TABLE_BYTES_MAX, prng, &offset)) {
            node->lost = true;
            tell(node, loses ? "lost sector" : "rot", path, offset);
        }
    }
}

/* Somebody brings the tables back from a copy. */
void whole_disk_mend(struct whole_node *node)
{
    struct files files = {.directory = TABLES, .end = ".sst"};
    sim_disk_list(node->disk, TABLES, on_file, &files);
    for (uint32_t i = 0; i < files.count; i++)
        if (sim_disk_mend(node->disk, files.names[i]))
            whole_text(node->whole, node->sim.id, "* mended %s", files.names[i]);
    node->lost = false;
}

void whole_disk_rot(struct whole_node *node)
{
    struct whole *whole = node->whole;
    char path[64];
    if (node >= whole->nodes + whole->config.rotting || !prng_chance(faults(whole), 1, 2))
        return;
    for (uint64_t more = prng_below(faults(whole), 4); more > 0; more--)
        if (some_file(node, "/data/log", ".log", path, sizeof(path)))
            damage_log(node, path);
    if (whole->config.disk.tables && prng_chance(faults(whole), 1, 2))
        damage_tables(node);
}

/* While its log is used. */
static void lose_sector(struct whole_node *node)
{
    char path[64];
    uint64_t offset;
    if (some_file(node, "/data/log", ".log", path, sizeof(path)) &&
        sim_disk_lose(node->disk, path, faults(node->whole), &offset))
        tell(node, "lost sector", path, offset);
}

/* ---- while they are used -------------------------------------------------------------------- */

void whole_disk_draw(struct whole_disk_config *config, struct prng *prng)
{
    config->slow = prng_chance(prng, 1, 4);
    config->errors = prng_chance(prng, 1, 5);
    config->full = prng_chance(prng, 1, 5);
    config->sectors = prng_chance(prng, 1, 2);
    config->tables = prng_chance(prng, 1, 2);
    config->drift_ppm_max = prng_chance(prng, 1, 3) ? DRIFT_PPM_MAX : 0;
}

void whole_disk_print(const struct whole_disk_config *config, FILE *out)
{
    fprintf(out, "disks: slow=%d errors=%d full=%d sectors=%d tables=%d drift=%uppm\n",
            config->slow, config->errors, config->full, config->sectors, config->tables,
            config->drift_ppm_max);
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
    uint64_t draw = prng_below(faults(whole), 10);
    if (draw >= 6 && whole->config.rotting > 0) {
        node = &whole->nodes[prng_below(faults(whole), whole->config.rotting)];
        if (draw == 6 && config->sectors)
            lose_sector(node);
        if (draw > 6 && config->tables)
            damage_tables(node);
        return;
    }
    if (node->disk_until_ns != 0)
        return;
    if (draw < 2 && config->slow)
        slow_down(node);
    else if ((draw == 2 || draw == 3) && config->errors)
        let_fail(node);
    else if ((draw == 4 || draw == 5) && config->full)
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
    bool rot = whole->config.rotting > 0 && (config->sectors || config->tables);
    if (config->slow || config->errors || config->full || rot)
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
    return node->lost || sim_disk_faults(node->disk)->errors != node->disk_errors;
}
