/* manifest_replay() over hostile records. The first byte chooses whether their checksums, numbers
 * and sequences are made to hold, so that the fuzzer gets to the fields. */
#include <stdlib.h>

#include "core/crc32c.h"
#include "core/invariant.h"
#include "core/logger.h"
#include "storage/lsm/manifest.h"

#define INPUT_BYTES_MAX (64 * 1024)
#define NUMBER          7

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void repair(uint8_t *bytes, size_t size)
{
    uint64_t sequence = 1;
    for (size_t at = 0; at + IO_ALIGN_BYTES <= size; sequence++) {
        uint8_t *record = bytes + at;
        uint32_t payload = le32_load(record + MANIFEST_RECORD_PAYLOAD_BYTES) %
                           (IO_ALIGN_BYTES - MANIFEST_RECORD_HEADER_BYTES + 1);
        le32_store(record + MANIFEST_RECORD_MAGIC, MANIFEST_MAGIC);
        le32_store(record + MANIFEST_RECORD_PAYLOAD_BYTES, payload);
        le64_store(record + MANIFEST_RECORD_NUMBER, NUMBER);
        le64_store(record + MANIFEST_RECORD_SEQUENCE, sequence);
        le32_store(record + MANIFEST_RECORD_CRC,
                   crc32c(0, record + MANIFEST_RECORD_PAYLOAD_BYTES,
                          MANIFEST_RECORD_HEADER_BYTES - MANIFEST_RECORD_PAYLOAD_BYTES + payload));
        at += IO_ALIGN_BYTES;
    }
}

static void visit_field(void *context, const char *name, uint64_t value)
{
    invariant(name != NULL);
    *(uint64_t *)context += value;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    logger_set_level(LOG_LEVEL_NONE);
    if (size < 1 || size > INPUT_BYTES_MAX)
        return 0;
    size_t padded = data[0] & 2 ? u64_round_up(size, IO_ALIGN_BYTES) : size - 1;
    uint8_t *bytes = calloc(1, padded + 1);
    struct manifest_state state;
    const char *reason = NULL;
    uint64_t offset = 0, sum = 0;
    struct lsm_visitor visitor = {.context = &sum, .field = visit_field};
    invariant(bytes != NULL);
    memcpy(bytes, data + 1, size - 1);
    if (data[0] & 1)
        repair(bytes, padded);
    manifest_state_init(&state);
    int status =
        manifest_replay(bytes_make(bytes, padded), NUMBER, &state, &visitor, &reason, &offset);
    invariant((status == 0) == (reason == NULL) && offset <= padded + IO_ALIGN_BYTES);
    for (uint32_t i = 0; i < state.count; i++)
        invariant(state.tables[i].level < LSM_LEVELS);
    manifest_state_deinit(&state);
    free(bytes);
    return 0;
}
