/* raftctl debug sst and debug manifest: tables and their list, of a stopped node. */
#include <inttypes.h>
#include <stdio.h>

#include "core/err.h"
#include "core/logger.h"
#include "storage/lsm/lsm.h"
#include "tools/raftctl/debug.h"
#include "tools/raftctl/text.h"

static void debug_print_field(void *context, const char *name, uint64_t value)
{
    (void)context;
    printf("%s %" PRIu64 "\n", name, value);
}

static void debug_print_text(void *context, const char *name, struct bytes value)
{
    (void)context;
    printf("%s ", name);
    text_write_quoted(stdout, value);
    putchar('\n');
}

static void debug_print_block(void *context, const struct lsm_dump_block *block)
{
    (void)context;
    printf("%s_block offset %" PRIu64 " bytes %" PRIu32 " raw_bytes %" PRIu32 "\n",
           block->is_index ? "index" : "data", block->offset, block->bytes, block->raw_bytes);
}

static bool debug_print_row(void *context, const struct lsm_row *row)
{
    (void)context;
    fputs("row ", stdout);
    text_write_quoted(stdout, row->key);
    printf(" %" PRIu64 ".%" PRIu32 " %s ", row->version.main, row->version.sub,
           row->kind == LSM_TOMBSTONE ? "tombstone" : "value");
    text_write_quoted(stdout, row->value);
    putchar('\n');
    return true;
}

int debug_sst_run(struct raftctl *ctl, const struct raftctl_command *command, int argc, char **argv)
{
    bool rows = false;
    struct flag flags[] = {{"rows", 0, FLAG_SWITCH, &rows, "every row of the blocks too", false}};
    char directory[DEBUG_PATH_BYTES];
    argc = raftctl_parse(ctl, command, flags, ARRAY_COUNT(flags), argc, argv);
    if (argc != 1)
        raftctl_fail(RAFTCTL_BAD_ARGUMENTS, "debug sst needs one .sst file");
    logger_set_level(LOG_LEVEL_NONE);
    debug_path(directory, argv[0], "");
    debug_parent(directory); /* the slash that debug_path() added */
    debug_parent(directory);
    debug_parent(directory);
    debug_lock(directory);
    struct lsm_visitor visitor = {.field = debug_print_field,
                                  .text = debug_print_text,
                                  .row = rows ? debug_print_row : NULL,
                                  .block = debug_print_block};
    int error = lsm_dump_sst(argv[0], &visitor);
    if (error < 0)
        debug_fail(argv[0], error);
    return RAFTCTL_OK;
}

int debug_manifest_run(struct raftctl *ctl, const struct raftctl_command *command, int argc,
                       char **argv)
{
    char directory[DEBUG_PATH_BYTES], path[DEBUG_PATH_BYTES];
    uint64_t number = 0;
    argc = raftctl_parse(ctl, command, NULL, 0, argc, argv);
    if (argc != 1)
        raftctl_fail(RAFTCTL_BAD_ARGUMENTS, "debug manifest needs one data directory");
    logger_set_level(LOG_LEVEL_NONE);
    debug_enter(directory, argv[0], "lsm");
    int error = lsm_dump_current(directory, &number);
    if (error == ERR_NOT_FOUND)
        raftctl_fail(RAFTCTL_ERROR, "%s/CURRENT: not found: no tables were ever made here",
                     directory);
    if (error < 0)
        debug_fail(directory, error);
    char name[64];
    snprintf(name, sizeof(name), "MANIFEST-%06" PRIu64, number);
    debug_path(path, directory, name);
    printf("file %s\n", path);
    struct lsm_visitor visitor = {.field = debug_print_field, .text = debug_print_text};
    error = lsm_dump_manifest(path, &visitor);
    if (error < 0)
        debug_fail(path, error);
    return RAFTCTL_OK;
}
