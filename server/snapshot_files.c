#include "server/snapshot_files.h"

#include <ctype.h>

#include "core/err.h"
#include "core/invariant.h"

/* An offer: transfer u64, index u64, term u64, count u32, zero u32; then per file bytes u64,
 * name[32]. */
#define OFFER_FIXED_BYTES 32
#define OFFER_FILE_BYTES  (8 + SNAPSHOT_NAME_BYTES)

struct snapshot_place snapshot_place(const struct snapshot_files *files, uint64_t position)
{
    struct snapshot_place place = {.file = 0, .offset = position};
    invariant(position < files->bytes);
    while (place.offset >= files->files[place.file].bytes)
        place.offset -= files->files[place.file++].bytes;
    invariant(place.file < files->count);
    return place;
}

bool snapshot_files_equal(const struct snapshot_files *a, const struct snapshot_files *b)
{
    return a->transfer == b->transfer && a->index == b->index && a->term == b->term &&
           a->count == b->count && memcmp(a->files, b->files, a->count * sizeof(a->files[0])) == 0;
}

uint32_t snapshot_offer_bytes(const struct snapshot_files *files)
{
    return OFFER_FIXED_BYTES + OFFER_FILE_BYTES * files->count;
}

void snapshot_offer_encode(uint8_t *meta, const struct snapshot_files *files)
{
    le64_store(meta, files->transfer);
    le64_store(meta + 8, files->index);
    le64_store(meta + 16, files->term);
    le32_store(meta + 24, files->count);
    le32_store(meta + 28, 0);
    for (uint32_t i = 0; i < files->count; i++) {
        uint8_t *at = meta + OFFER_FIXED_BYTES + OFFER_FILE_BYTES * i;
        le64_store(at, files->files[i].bytes);
        memcpy(at + 8, files->files[i].name, SNAPSHOT_NAME_BYTES);
    }
}

/* A plain name in the directory, nothing that could lead out of it, and zeros behind it. */
static bool name_is_plain(const char *name)
{
    size_t bytes = strnlen(name, SNAPSHOT_NAME_BYTES);
    if (bytes == 0 || bytes == SNAPSHOT_NAME_BYTES || name[0] == '.')
        return false;
    for (size_t i = 0; i < SNAPSHOT_NAME_BYTES; i++)
        if (i < bytes ? !isalnum((unsigned char)name[i]) && name[i] != '.' && name[i] != '-'
                      : name[i] != 0)
            return false;
    return true;
}

int snapshot_offer_decode(const struct peer_input *input, struct snapshot_files *files)
{
    const uint8_t *meta = input->meta;
    uint32_t meta_bytes = input->header.meta_bytes;
    if (meta_bytes < OFFER_FIXED_BYTES)
        return ERR_MALFORMED;
    files->transfer = le64_load(meta);
    files->index = le64_load(meta + 8);
    files->term = le64_load(meta + 16);
    files->count = le32_load(meta + 24);
    files->bytes = 0;
    if (files->transfer == 0 || files->index == 0 || files->term == 0 || files->count == 0 ||
        files->count > SNAPSHOT_FILES_MAX || le32_load(meta + 28) != 0 ||
        meta_bytes != snapshot_offer_bytes(files))
        return ERR_MALFORMED;
    for (uint32_t i = 0; i < files->count; i++) {
        const uint8_t *at = meta + OFFER_FIXED_BYTES + OFFER_FILE_BYTES * i;
        struct snapshot_file *file = &files->files[i];
        file->bytes = le64_load(at);
        memcpy(file->name, at + 8, SNAPSHOT_NAME_BYTES);
        if (file->bytes == 0 || !name_is_plain(file->name) ||
            (i > 0 && strcmp(file[-1].name, file->name) >= 0) || /* none comes twice */
            __builtin_add_overflow(files->bytes, file->bytes, &files->bytes))
            return ERR_MALFORMED;
    }
    return 0;
}

/* transfer u64, position u64, state u32, zero u32 */
void snapshot_status_encode(uint8_t meta[SNAPSHOT_STATUS_BYTES],
                            const struct snapshot_status *status)
{
    le64_store(meta, status->transfer);
    le64_store(meta + 8, status->position);
    le32_store(meta + 16, status->state);
    le32_store(meta + 20, 0);
}

int snapshot_status_decode(const struct peer_input *input, struct snapshot_status *status)
{
    if (input->header.meta_bytes != SNAPSHOT_STATUS_BYTES || le32_load(input->meta + 20) != 0)
        return ERR_MALFORMED;
    status->transfer = le64_load(input->meta);
    status->position = le64_load(input->meta + 8);
    status->state = le32_load(input->meta + 16);
    return status->state <= SNAPSHOT_FAILED ? 0 : ERR_MALFORMED;
}

/* transfer u64, position u64, crc u32, zero u32 */
void snapshot_chunk_encode(uint8_t meta[SNAPSHOT_CHUNK_META], const struct snapshot_chunk *chunk)
{
    le64_store(meta, chunk->transfer);
    le64_store(meta + 8, chunk->position);
    le32_store(meta + 16, chunk->crc);
    le32_store(meta + 20, 0);
}

int snapshot_chunk_decode(const struct peer_input *input, struct snapshot_chunk *chunk)
{
    if (input->header.meta_bytes != SNAPSHOT_CHUNK_META || le32_load(input->meta + 20) != 0)
        return ERR_MALFORMED;
    chunk->transfer = le64_load(input->meta);
    chunk->position = le64_load(input->meta + 8);
    chunk->crc = le32_load(input->meta + 16);
    return 0;
}
