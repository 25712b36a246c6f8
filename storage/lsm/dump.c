/* Reading one file without a store, for raftctl. */
#include <stdio.h>
#include <stdlib.h>

#include "core/err.h"
#include "core/invariant.h"
#include "core/logger.h"
#include "storage/lsm/manifest.h"
#include "storage/lsm/table_iterator.h"

static void dump_number_of(const char *path, uint64_t *number)
{
    const char *name = strrchr(path, '/');
    unsigned long parsed = 0;
    name = name == NULL ? path : name + 1;
    if (sscanf(name, "MANIFEST-%lu", &parsed) != 1)
        (void)sscanf(name, "%lu.sst", &parsed);
    *number = parsed;
}

/* What the edits amount to, level by level. */
static void dump_levels(const struct manifest_state *state, const struct lsm_visitor *visitor)
{
    for (uint32_t level = 0; level < LSM_LEVELS; level++) {
        bool named = false;
        for (uint32_t i = 0; i < state->count; i++) {
            const struct manifest_table *table = &state->tables[i];
            if (table->level != level)
                continue;
            if (!named)
                visitor->field(visitor->context, "level", level);
            named = true;
            visitor->field(visitor->context, "table", table->number);
            visitor->field(visitor->context, "bytes", table->bytes);
        }
    }
}

int lsm_dump_manifest(const char *path, const struct lsm_visitor *visitor)
{
    struct bytes file;
    struct manifest_state state;
    const char *reason = NULL;
    uint64_t offset = 0, number = 0;
    dump_number_of(path, &number);
    int status = manifest_read_file(path, &file);
    if (status < 0) {
        log_error("cannot read the manifest", LOG_TEXT("file", path), LOG_ERROR(status));
        return status;
    }
    manifest_state_init(&state);
    status = manifest_replay(file, number, &state, visitor, &reason, &offset);
    dump_levels(&state, visitor);
    if (status < 0)
        lsm_table_log_corrupt(path, offset, reason);
    manifest_state_deinit(&state);
    free((void *)(uintptr_t)file.data);
    return status;
}

int lsm_dump_current(const char *dir, uint64_t *number)
{
    return manifest_read_current(dir, number);
}

struct dump_blocks {
    struct table_blocks blocks;
    const struct lsm_visitor *visitor;
};

static int dump_block_acquire(struct table_blocks *blocks, const struct lsm_table *table,
                              struct sst_handle handle, enum sst_block_type type,
                              struct table_window *window, struct bytes *raw, void **pin)
{
    const struct lsm_visitor *visitor = container_of(blocks, struct dump_blocks, blocks)->visitor;
    uint8_t *expanded = NULL;
    uint32_t bytes = 0;
    (void)window;
    int status = lsm_table_read_stored(table, handle, type, 0, &expanded, &bytes);
    *raw = bytes_make(expanded, bytes);
    *pin = expanded;
    if (status == 0 && visitor->block != NULL)
        visitor->block(visitor->context,
                       &(struct lsm_dump_block){.is_index = type != SST_BLOCK_DATA,
                                                .offset = handle.offset,
                                                .bytes = handle.bytes,
                                                .raw_bytes = bytes});
    return status;
}

static void dump_block_release(struct table_blocks *blocks, void *pin)
{
    (void)blocks;
    free(pin);
}

static int dump_rows(const struct lsm_table *table, const struct lsm_visitor *visitor)
{
    struct dump_blocks blocks = {{dump_block_acquire, dump_block_release}, visitor};
    struct table_iterator *iterator = malloc(sizeof(*iterator));
    if (iterator == NULL)
        return ERR_FULL;
    table_iterator_init(iterator, &blocks.blocks, 0);
    table_iterator_open(iterator, table);
    int status = table_iterator_first(iterator);
    for (bool wanted = true; status == 1 && wanted;) {
        struct lsm_row row;
        table_iterator_row(iterator, &row);
        wanted = visitor->row == NULL || visitor->row(visitor->context, &row);
        if (wanted)
            status = table_iterator_next(iterator);
    }
    table_iterator_deinit(iterator);
    free(iterator);
    return status < 0 ? status : 0;
}

static void dump_properties(const struct lsm_table *table, const struct lsm_visitor *visitor)
{
    const struct sst_properties *properties = &table->properties;
    const struct {
        const char *name;
        uint64_t value;
    } fields[] = {
        {"rows", properties->rows},
        {"tombstones", properties->tombstones},
        {"superseded", properties->superseded},
        {"key_bytes", properties->key_bytes},
        {"value_bytes", properties->value_bytes},
        {"data_bytes", properties->data_bytes},
        {"data_blocks", properties->data_blocks},
        {"index_blocks", properties->index_blocks},
        {"version_first", properties->version_first},
        {"version_last", properties->version_last},
        {"filter_bytes", table->bloom.size},
    };
    for (size_t i = 0; i < ARRAY_COUNT(fields); i++)
        visitor->field(visitor->context, fields[i].name, fields[i].value);
    visitor->text(visitor->context, "smallest", table->smallest);
    visitor->text(visitor->context, "largest", table->largest);
}

int lsm_dump_sst(const char *path, const struct lsm_visitor *visitor)
{
    struct lsm_table *table = NULL;
    uint64_t number = 0;
    dump_number_of(path, &number);
    int status = lsm_table_open_any(path, number, &table);
    if (table == NULL)
        return status;
    visitor->field(visitor->context, "number", table->number);
    visitor->field(visitor->context, "file_bytes", table->file_bytes);
    if (table->largest.data != NULL)
        dump_properties(table, visitor);
    /* A damaged filter keeps nobody from reading the rows. */
    if (table->top_index.data != NULL && (visitor->row != NULL || visitor->block != NULL)) {
        int walked = dump_rows(table, visitor);
        status = status < 0 ? status : walked;
    }
    lsm_table_close(table, false);
    return status;
}
