#include "storage/lsm/manifest.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/crc32c.h"
#include "core/err.h"
#include "core/fiber.h"
#include "core/invariant.h"
#include "core/logger.h"
#include "storage/lsm/lsm_private.h"

/* ---- state -----------------------------------------------------------------------------------
 */

void manifest_state_init(struct manifest_state *state)
{
    memset(state, 0, sizeof(*state));
    state->number_next = 1;
}

void manifest_state_deinit(struct manifest_state *state)
{
    free(state->tables);
    manifest_state_init(state);
}

static uint32_t manifest_state_find(const struct manifest_state *state, uint64_t number)
{
    uint32_t at = 0;
    while (at < state->count && state->tables[at].number != number)
        at++;
    return at;
}

static const char *manifest_state_add(struct manifest_state *state, struct manifest_table table)
{
    if (table.level >= LSM_LEVELS)
        return "table in a level that does not exist";
    if (manifest_state_find(state, table.number) != state->count)
        return "table added twice";
    if (state->count == MANIFEST_TABLES_MAX)
        return "too many tables";
    if (state->count == state->count_max) {
        state->count_max = state->count_max * 2 + 64;
        struct manifest_table *grown =
            realloc(state->tables, state->count_max * sizeof(state->tables[0]));
        if (grown == NULL)
            fatal("out of memory for %u tables", state->count_max);
        state->tables = grown;
    }
    state->tables[state->count++] = table;
    return NULL;
}

static const char *manifest_state_remove(struct manifest_state *state, uint32_t level,
                                         uint64_t number)
{
    uint32_t at = manifest_state_find(state, number);
    if (at == state->count || state->tables[at].level != level)
        return "a table is removed that is not there";
    state->tables[at] = state->tables[--state->count];
    return NULL;
}

/* ---- reading ---------------------------------------------------------------------------------
 */

struct manifest_field {
    uint8_t tag, level;
    uint64_t first, second;
};

/* The field at `from`; returns its size, 0 when it does not fit or is unknown. */
static size_t manifest_field_parse(const uint8_t *from, size_t left, struct manifest_field *field)
{
    static const uint8_t sizes[] = {
        [MANIFEST_TAG_FORMAT] = 5, [MANIFEST_TAG_FLUSHED] = 17, [MANIFEST_TAG_NEXT] = 9,
        [MANIFEST_TAG_ADD] = 18,   [MANIFEST_TAG_REMOVE] = 10,
    };
    memset(field, 0, sizeof(*field));
    field->tag = from[0];
    if (field->tag == 0 || field->tag >= ARRAY_COUNT(sizes) || sizes[field->tag] > left)
        return 0;
    switch ((enum manifest_tag)field->tag) {
    case MANIFEST_TAG_FORMAT:
        field->first = le32_load(from + 1);
        break;
    case MANIFEST_TAG_FLUSHED:
        field->first = le64_load(from + 1);
        field->second = le64_load(from + 9);
        break;
    case MANIFEST_TAG_NEXT:
        field->first = le64_load(from + 1);
        break;
    case MANIFEST_TAG_ADD:
        field->level = from[1];
        field->first = le64_load(from + 2);
        field->second = le64_load(from + 10);
        break;
    case MANIFEST_TAG_REMOVE:
        field->level = from[1];
        field->first = le64_load(from + 2);
        break;
    }
    return sizes[field->tag];
}

static const char *manifest_field_apply(struct manifest_state *state,
                                        const struct manifest_field *field)
{
    switch ((enum manifest_tag)field->tag) {
    case MANIFEST_TAG_FORMAT:
        return field->first == MANIFEST_FORMAT ? NULL : "unknown format version";
    case MANIFEST_TAG_FLUSHED:
        if (field->first < state->flushed_index)
            return "flushed index goes back";
        state->flushed_index = field->first;
        state->flushed_term = field->second;
        return NULL;
    case MANIFEST_TAG_NEXT:
        if (field->first < state->number_next)
            return "file numbers go back";
        state->number_next = field->first;
        return NULL;
    case MANIFEST_TAG_ADD:
        return manifest_state_add(state, (struct manifest_table){.number = field->first,
                                                                 .bytes = field->second,
                                                                 .level = field->level});
    case MANIFEST_TAG_REMOVE:
        return manifest_state_remove(state, field->level, field->first);
    }
    return "unknown field";
}

static void manifest_field_visit(const struct lsm_visitor *visitor,
                                 const struct manifest_field *field)
{
    static const char *const names[] = {
        [MANIFEST_TAG_FORMAT] = "format",  [MANIFEST_TAG_FLUSHED] = "flushed_index",
        [MANIFEST_TAG_NEXT] = "next_file", [MANIFEST_TAG_ADD] = "add",
        [MANIFEST_TAG_REMOVE] = "remove",
    };
    visitor->field(visitor->context, names[field->tag], field->first);
    switch ((enum manifest_tag)field->tag) {
    case MANIFEST_TAG_FORMAT:
    case MANIFEST_TAG_NEXT:
        return;
    case MANIFEST_TAG_FLUSHED:
        visitor->field(visitor->context, "flushed_term", field->second);
        return;
    case MANIFEST_TAG_ADD:
        visitor->field(visitor->context, "level", field->level);
        visitor->field(visitor->context, "bytes", field->second);
        return;
    case MANIFEST_TAG_REMOVE:
        visitor->field(visitor->context, "level", field->level);
        return;
    }
}

static const char *manifest_payload_apply(struct bytes payload, struct manifest_state *state,
                                          const struct lsm_visitor *visitor)
{
    for (size_t at = 0; at < payload.size;) {
        struct manifest_field field;
        size_t bytes = manifest_field_parse(payload.data + at, payload.size - at, &field);
        if (bytes == 0)
            return "unknown field";
        if (at == 0 && state->sequence == 0 && field.tag != MANIFEST_TAG_FORMAT)
            return "the first record does not start with the format";
        const char *reason = manifest_field_apply(state, &field);
        if (reason != NULL)
            return reason;
        if (visitor != NULL)
            manifest_field_visit(visitor, &field);
        at += bytes;
    }
    return NULL;
}

/* The payload of a record with a good checksum at `offset`, or NULL data. */
static struct bytes manifest_record_at(struct bytes file, uint64_t offset, uint64_t number,
                                       uint64_t *sequence)
{
    const uint8_t *header = file.data + offset;
    if (le32_load(header + MANIFEST_RECORD_MAGIC) != MANIFEST_MAGIC)
        return bytes_make(NULL, 0);
    uint64_t payload = le32_load(header + MANIFEST_RECORD_PAYLOAD_BYTES);
    uint64_t covered = MANIFEST_RECORD_HEADER_BYTES - MANIFEST_RECORD_PAYLOAD_BYTES + payload;
    if (MANIFEST_RECORD_HEADER_BYTES + payload > file.size - offset ||
        crc32c(0, header + MANIFEST_RECORD_PAYLOAD_BYTES, covered) !=
            le32_load(header + MANIFEST_RECORD_CRC) ||
        le64_load(header + MANIFEST_RECORD_NUMBER) != number)
        return bytes_make(NULL, 0);
    *sequence = le64_load(header + MANIFEST_RECORD_SEQUENCE);
    return bytes_make(header + MANIFEST_RECORD_HEADER_BYTES, payload);
}

/* True when a valid record with a later sequence lies anywhere after `offset`. */
static bool manifest_goes_on(struct bytes file, uint64_t offset, uint64_t number, uint64_t after)
{
    for (offset += IO_ALIGN_BYTES; offset + IO_ALIGN_BYTES <= file.size; offset += IO_ALIGN_BYTES) {
        uint64_t sequence = 0;
        if (manifest_record_at(file, offset, number, &sequence).data != NULL && sequence > after)
            return true;
    }
    return false;
}

int manifest_replay(struct bytes file, uint64_t number, struct manifest_state *state,
                    const struct lsm_visitor *visitor, const char **reason, uint64_t *offset)
{
    *reason = NULL;
    *offset = 0;
    while (*offset + IO_ALIGN_BYTES <= file.size) {
        uint64_t sequence = 0;
        struct bytes payload = manifest_record_at(file, *offset, number, &sequence);
        if (payload.data == NULL) {
            if (state->sequence == 0)
                *reason = "the first record is damaged";
            else if (manifest_goes_on(file, *offset, number, state->sequence))
                *reason = "a record is damaged and valid ones follow";
            break; /* else a torn tail, or the zeros after the last record */
        }
        if (sequence != state->sequence + 1) {
            *reason = "record out of sequence";
            break;
        }
        if (visitor != NULL)
            visitor->field(visitor->context, "record", sequence);
        *reason = manifest_payload_apply(payload, state, visitor);
        if (*reason != NULL)
            break;
        state->sequence = sequence;
        *offset += u64_round_up(MANIFEST_RECORD_HEADER_BYTES + payload.size, IO_ALIGN_BYTES);
        state->end = *offset;
    }
    if (*reason == NULL && state->sequence == 0)
        *reason = "the file is empty";
    return *reason == NULL ? 0 : ERR_CORRUPT;
}

/* ---- building records -------------------------------------------------------------------------
 */

void manifest_record_init(struct manifest_record *record)
{
    memset(record, 0, sizeof(*record));
}

void manifest_record_deinit(struct manifest_record *record)
{
    free(record->bytes);
    manifest_record_init(record);
}

static uint8_t *manifest_record_take(struct manifest_record *record, size_t bytes)
{
    if (record->used == 0)
        record->used = MANIFEST_RECORD_HEADER_BYTES;
    /* Room for the padding of seal as well. */
    size_t wanted = u64_round_up(record->used + bytes, IO_ALIGN_BYTES);
    if (wanted > record->capacity) {
        record->capacity = u64_max(wanted, record->capacity * 2);
        record->bytes = realloc(record->bytes, record->capacity);
        if (record->bytes == NULL)
            fatal("out of memory for a manifest record");
    }
    uint8_t *taken = record->bytes + record->used;
    record->used += bytes;
    return taken;
}

void manifest_record_format(struct manifest_record *record)
{
    uint8_t *to = manifest_record_take(record, 5);
    to[0] = MANIFEST_TAG_FORMAT;
    le32_store(to + 1, MANIFEST_FORMAT);
}

void manifest_record_flushed(struct manifest_record *record, uint64_t index, uint64_t term)
{
    uint8_t *to = manifest_record_take(record, 17);
    to[0] = MANIFEST_TAG_FLUSHED;
    le64_store(to + 1, index);
    le64_store(to + 9, term);
}

void manifest_record_next(struct manifest_record *record, uint64_t number_next)
{
    uint8_t *to = manifest_record_take(record, 9);
    to[0] = MANIFEST_TAG_NEXT;
    le64_store(to + 1, number_next);
}

void manifest_record_add(struct manifest_record *record, uint32_t level,
                         const struct lsm_table *table)
{
    invariant(level < LSM_LEVELS);
    uint8_t *to = manifest_record_take(record, 18);
    to[0] = MANIFEST_TAG_ADD;
    to[1] = (uint8_t)level;
    le64_store(to + 2, table->number);
    le64_store(to + 10, table->file_bytes);
}

void manifest_record_remove(struct manifest_record *record, uint32_t level, uint64_t number)
{
    invariant(level < LSM_LEVELS);
    uint8_t *to = manifest_record_take(record, 10);
    to[0] = MANIFEST_TAG_REMOVE;
    to[1] = (uint8_t)level;
    le64_store(to + 2, number);
}

void manifest_record_seal(struct manifest_record *record, uint64_t number, uint64_t sequence,
                          size_t *bytes)
{
    invariant(record->used > MANIFEST_RECORD_HEADER_BYTES);
    *bytes = u64_round_up(record->used, IO_ALIGN_BYTES);
    invariant(*bytes <= record->capacity);
    memset(record->bytes + record->used, 0, *bytes - record->used);
    uint8_t *header = record->bytes;
    le32_store(header + MANIFEST_RECORD_MAGIC, MANIFEST_MAGIC);
    le32_store(header + MANIFEST_RECORD_PAYLOAD_BYTES,
               (uint32_t)(record->used - MANIFEST_RECORD_HEADER_BYTES));
    le32_store(header + MANIFEST_RECORD_RESERVED, 0);
    le64_store(header + MANIFEST_RECORD_NUMBER, number);
    le64_store(header + MANIFEST_RECORD_SEQUENCE, sequence);
    le32_store(header + MANIFEST_RECORD_CRC, crc32c(0, header + MANIFEST_RECORD_PAYLOAD_BYTES,
                                                    record->used - MANIFEST_RECORD_PAYLOAD_BYTES));
}

/* ---- files -----------------------------------------------------------------------------------
 */

void manifest_path(char *path, const char *dir, uint64_t number)
{
    lsm_path(path, dir, "MANIFEST-%06lu", number);
}

int manifest_append(struct manifest *manifest, struct manifest_record *record)
{
    size_t bytes = 0;
    manifest_record_seal(record, manifest->number, manifest->sequence + 1, &bytes);
    uint8_t *buffer = lsm_buffer_acquire((uint32_t)bytes);
    if (buffer == NULL)
        return -ENOMEM;
    memcpy(buffer, record->bytes, bytes);
    struct io_span span = {.base = buffer, .offset = manifest->offset, .bytes = (uint32_t)bytes};
    int status = await_write(manifest->file, span, IO_WRITE_DURABLE);
    lsm_buffer_release(buffer);
    if (status < 0)
        return status;
    invariant((size_t)status == bytes);
    manifest->offset += bytes;
    manifest->sequence++;
    return 0;
}

bool manifest_has_room(const struct manifest *manifest, const struct manifest_record *record)
{
    return manifest->offset + u64_round_up(record->used, IO_ALIGN_BYTES) <= manifest->bytes_max;
}

uint32_t manifest_current_format(char line[MANIFEST_CURRENT_BYTES_MAX], uint64_t number)
{
    int bytes = snprintf(line, MANIFEST_CURRENT_BYTES_MAX, "MANIFEST-%06lu", number);
    uint32_t crc = crc32c(0, line, (size_t)bytes);
    bytes += snprintf(line + bytes, MANIFEST_CURRENT_BYTES_MAX - (size_t)bytes, " %08x\n", crc);
    invariant(bytes > 0 && bytes < MANIFEST_CURRENT_BYTES_MAX);
    return (uint32_t)bytes;
}

int manifest_current_parse(struct bytes file, uint64_t *number)
{
    char line[MANIFEST_CURRENT_BYTES_MAX] = "", want[MANIFEST_CURRENT_BYTES_MAX];
    if (file.size >= sizeof(line))
        return ERR_CORRUPT;
    memcpy(line, file.data, file.size);
    if (sscanf(line, "MANIFEST-%lu", number) != 1)
        return ERR_CORRUPT;
    uint32_t bytes = manifest_current_format(want, *number); /* its checksum included */
    return bytes == file.size && memcmp(line, want, bytes) == 0 ? 0 : ERR_CORRUPT;
}

/* Nothing names what is removed, so a failure only leaves work to the next start. */
static void manifest_discard(const char *path)
{
    int32_t status = await_unlink(path);
    if (status < 0 && status != -ENOENT)
        log_warn("cannot remove an unfinished file", LOG_TEXT("file", path), LOG_ERROR(status));
}

static int manifest_write_current(const char *dir, uint64_t number, bool *uncertain)
{
    char line[MANIFEST_CURRENT_BYTES_MAX], temporary[LSM_PATH_BYTES_MAX], path[LSM_PATH_BYTES_MAX];
    uint32_t bytes = manifest_current_format(line, number);
    lsm_path(temporary, dir, "CURRENT.tmp", 0);
    lsm_path(path, dir, "CURRENT", 0);
    struct io_file file;
    int status = await_open(temporary, IO_OPEN_WRITE | IO_OPEN_CREATE | IO_OPEN_TRUNCATE, &file);
    if (status < 0)
        return status;
    struct io_span span = {.base = line, .offset = 0, .bytes = bytes};
    status = await_write(file, span, 0);
    status = status < 0 ? status : await_sync(file);
    await_close(&file);
    if (status < 0) {
        manifest_discard(temporary);
        return status;
    }
    *uncertain = true; /* from the first sync of the directory on */
    status = await_sync_directory(dir);
    if (status == 0) /* the manifest has its name */
        status = await_rename(temporary, path);
    if (planted_bug(manifest_name_not_durable))
        return status;
    return status < 0 ? status : await_sync_directory(dir);
}

int manifest_create(struct manifest *manifest, const char *dir, uint64_t number,
                    const struct lsm_levels *levels, uint64_t number_next, bool *uncertain)
{
    char path[LSM_PATH_BYTES_MAX];
    struct manifest_record record;
    manifest_record_init(&record);
    manifest_record_format(&record);
    manifest_record_next(&record, number_next);
    manifest_record_flushed(&record, levels->flushed_index, levels->flushed_term);
    for (uint32_t level = 0; level < LSM_LEVELS; level++)
        for (uint32_t i = 0; i < levels->level[level].count; i++)
            manifest_record_add(&record, level, levels->level[level].tables[i]);
    *manifest = (struct manifest){.file = {.fd = -1}, .number = number, .dir = dir};
    manifest->bytes_max = u64_round_up(record.used, IO_ALIGN_BYTES) + MANIFEST_BYTES_MIN;
    manifest_path(path, dir, number);
    *uncertain = false;
    int status = await_open(
        path, IO_OPEN_WRITE | IO_OPEN_CREATE | IO_OPEN_TRUNCATE | IO_OPEN_DIRECT, &manifest->file);
    if (status == 0)
        status = await_allocate(manifest->file, 0, manifest->bytes_max);
    if (status == 0)
        status = manifest_append(manifest, &record);
    if (status == 0)
        status = await_sync(manifest->file);
    if (status == 0)
        status = manifest_write_current(dir, number, uncertain);
    manifest_record_deinit(&record);
    if (status < 0 && manifest->file.fd >= 0) {
        await_close(&manifest->file);
        if (!*uncertain)
            manifest_discard(path);
    }
    return status;
}

int manifest_reopen(struct manifest *manifest, const char *dir, uint64_t number,
                    const struct manifest_state *state)
{
    char path[LSM_PATH_BYTES_MAX];
    struct io_stat stat;
    manifest_path(path, dir, number);
    *manifest = (struct manifest){.file = {.fd = -1},
                                  .number = number,
                                  .sequence = state->sequence,
                                  .offset = state->end,
                                  .dir = dir};
    int status = await_stat(path, &stat);
    if (status < 0)
        return status;
    manifest->bytes_max = u64_min(stat.bytes, stat.bytes_allocated); /* a copy may have holes */
    return await_open(path, IO_OPEN_WRITE | IO_OPEN_DIRECT, &manifest->file);
}

void manifest_close(struct manifest *manifest)
{
    if (manifest->file.fd >= 0)
        await_close(&manifest->file);
}

int manifest_read_file(const char *path, struct bytes *file)
{
    struct io_stat stat;
    struct io_file opened;
    int status = await_stat(path, &stat);
    if (status < 0)
        return status;
    if (stat.bytes > MANIFEST_FILE_BYTES_MAX)
        return ERR_CORRUPT;
    uint8_t *bytes = malloc(stat.bytes + 1);
    if (bytes == NULL)
        return -ENOMEM;
    status = await_open(path, IO_OPEN_READ, &opened);
    if (status == 0) {
        struct io_span span = {.base = bytes, .offset = 0, .bytes = (uint32_t)stat.bytes};
        status = await_read(opened, span);
        await_close(&opened);
    }
    if (status < 0) {
        free(bytes);
        return status;
    }
    *file = bytes_make(bytes, (size_t)status);
    return 0;
}

int manifest_read_current(const char *dir, uint64_t *number)
{
    char path[LSM_PATH_BYTES_MAX];
    struct bytes file;
    lsm_path(path, dir, "CURRENT", 0);
    int status = manifest_read_file(path, &file);
    if (status == -ENOENT)
        return ERR_NOT_FOUND;
    if (status < 0)
        return status;
    status = manifest_current_parse(file, number);
    free((void *)(uintptr_t)file.data);
    if (status < 0)
        lsm_table_log_corrupt(path, 0, "CURRENT does not name a manifest");
    return status;
}
