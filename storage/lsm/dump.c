/* Reading one file without a store, for raftctl. */
#include <stdio.h>
#include <stdlib.h>

#include "core/err.h"
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

int lsm_dump_manifest(const char *path, const struct lsm_visitor *visitor)
{
    struct bytes file;
    struct manifest_state state;
    const char *reason = NULL;
    uint64_t offset = 0, number = 0;
    dump_number_of(path, &number);
    int status = manifest_read_file(path, &file);
    if (status < 0)
        return status;
    manifest_state_init(&state);
    status = manifest_replay(file, number, &state, visitor, &reason, &offset);
    if (status < 0) {
        visitor->field(visitor->context, "error_offset", offset);
        visitor->text(visitor->context, "error", bytes_from_text(reason));
    }
    manifest_state_deinit(&state);
    free((void *)(uintptr_t)file.data);
    return status;
}

static int dump_block_acquire(struct table_blocks *blocks, const struct lsm_table *table,
                              struct sst_handle handle, enum sst_block_type type,
                              struct table_window *window, struct bytes *raw, void **pin)
{
    uint8_t *expanded = NULL;
    uint32_t bytes = 0;
    (void)blocks, (void)window;
    int status = lsm_table_read_stored(table, handle, type, 0, &expanded, &bytes);
    *raw = bytes_make(expanded, bytes);
    *pin = expanded;
    return status;
}

static void dump_block_release(struct table_blocks *blocks, void *pin)
{
    (void)blocks;
    free(pin);
}

static int dump_rows(const struct lsm_table *table, const struct lsm_visitor *visitor)
{
    struct table_blocks blocks = {dump_block_acquire, dump_block_release};
    struct table_iterator *iterator = malloc(sizeof(*iterator));
    if (iterator == NULL)
        return ERR_FULL;
    table_iterator_init(iterator, &blocks, 0);
    table_iterator_open(iterator, table);
    int status = table_iterator_first(iterator);
    for (bool wanted = true; status == 1 && wanted;) {
        struct lsm_row row;
        table_iterator_row(iterator, &row);
        wanted = visitor->row(visitor->context, &row);
        if (wanted)
            status = table_iterator_next(iterator);
    }
    table_iterator_deinit(iterator);
    free(iterator);
    return status < 0 ? status : 0;
}

int lsm_dump_sst(const char *path, const struct lsm_visitor *visitor)
{
    struct lsm_table *table = NULL;
    uint64_t number = 0;
    dump_number_of(path, &number);
    int status = lsm_table_open(path, number, &table);
    if (status < 0)
        return status;
    const struct sst_properties *properties = &table->properties;
    const struct {
        const char *name;
        uint64_t value;
    } fields[] = {
        {"number", table->number},
        {"file_bytes", table->file_bytes},
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
    if (visitor->row != NULL)
        status = dump_rows(table, visitor);
    lsm_table_close(table, false);
    return status;
}
