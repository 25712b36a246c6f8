#include "storage/mvcc/ledger.h"

#include "core/err.h"
#include "core/invariant.h"
#include "storage/mvcc/mvcc.h"

#define LEDGER_FORMAT 1

void mvcc_ledger_init(struct mvcc_ledger *ledger)
{
    *ledger =
        (struct mvcc_ledger){.revision = MVCC_FIRST_REVISION, .compacted = MVCC_NEVER_COMPACTED};
}

void mvcc_ledger_check(const struct mvcc_ledger *ledger)
{
    uint64_t garbage = 0;
    int64_t last = ledger->compacted;
    invariant(ledger->mark_count <= MVCC_LEDGER_MARKS_MAX);
    for (uint32_t i = 0; i < ledger->mark_count; i++) {
        invariant(ledger->marks[i].first > last);
        invariant(ledger->marks[i].last >= ledger->marks[i].first);
        last = ledger->marks[i].last;
        garbage += ledger->marks[i].bytes;
    }
    invariant(ledger->mark_count == 0 || last <= ledger->revision);
    invariant(ledger->size_in_use_bytes + garbage == ledger->size_bytes);
}

/* Halves the number of marks: each pair becomes one. */
static void ledger_merge_marks(struct mvcc_ledger *ledger)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i + 1 < ledger->mark_count; i += 2) {
        struct mvcc_garbage_mark merged = ledger->marks[i];
        merged.last = ledger->marks[i + 1].last;
        merged.bytes += ledger->marks[i + 1].bytes;
        ledger->marks[kept++] = merged;
    }
    ledger->mark_count = kept;
}

static void ledger_add_garbage(struct mvcc_ledger *ledger, int64_t revision, uint64_t bytes)
{
    uint32_t count = ledger->mark_count;
    if (count != 0 && ledger->marks[count - 1].last == revision) {
        ledger->marks[count - 1].bytes += bytes;
        return;
    }
    invariant(count == 0 || ledger->marks[count - 1].last < revision);
    if (count == MVCC_LEDGER_MARKS_MAX)
        ledger_merge_marks(ledger);
    invariant(ledger->mark_count < MVCC_LEDGER_MARKS_MAX);
    ledger->marks[ledger->mark_count++] =
        (struct mvcc_garbage_mark){.first = revision, .last = revision, .bytes = bytes};
}

void mvcc_ledger_put(struct mvcc_ledger *ledger, int64_t revision, uint64_t row_bytes,
                     uint64_t before_bytes)
{
    invariant(revision >= ledger->revision);
    ledger->revision = revision;
    ledger->size_bytes += row_bytes;
    ledger->size_in_use_bytes += row_bytes;
    if (before_bytes == 0) {
        ledger->key_count++;
        return;
    }
    invariant(ledger->size_in_use_bytes >= before_bytes);
    ledger->size_in_use_bytes -= before_bytes;
    ledger_add_garbage(ledger, revision, before_bytes);
}

void mvcc_ledger_delete(struct mvcc_ledger *ledger, int64_t revision, uint64_t row_bytes,
                        uint64_t before_bytes)
{
    invariant(revision >= ledger->revision);
    invariant(ledger->key_count > 0 && ledger->size_in_use_bytes >= before_bytes);
    ledger->revision = revision;
    ledger->key_count--;
    ledger->size_bytes += row_bytes;
    ledger->size_in_use_bytes -= before_bytes;
    ledger_add_garbage(ledger, revision, before_bytes + row_bytes);
}

void mvcc_ledger_compact(struct mvcc_ledger *ledger, int64_t revision)
{
    uint32_t gone = 0;
    invariant(revision > ledger->compacted);
    while (gone < ledger->mark_count && ledger->marks[gone].last <= revision) {
        invariant(ledger->size_bytes >= ledger->marks[gone].bytes);
        ledger->size_bytes -= ledger->marks[gone].bytes;
        gone++;
    }
    ledger->mark_count -= gone;
    memmove(ledger->marks, ledger->marks + gone, ledger->mark_count * sizeof(ledger->marks[0]));
    ledger->compacted = revision;
    struct mvcc_garbage_mark *cut = &ledger->marks[0];
    if (ledger->mark_count == 0 || cut->first > revision)
        return;
    uint64_t span = (uint64_t)(cut->last - cut->first) + 1;
    uint64_t below = (uint64_t)(revision - cut->first) + 1;
    uint64_t freed = (uint64_t)((unsigned __int128)cut->bytes * below / span);
    cut->first = revision + 1;
    cut->bytes -= freed;
    ledger->size_bytes -= freed;
}

size_t mvcc_ledger_encode(const struct mvcc_ledger *ledger, uint8_t *to)
{
    le32_store(to, LEDGER_FORMAT);
    le64_store(to + 4, (uint64_t)ledger->revision);
    le64_store(to + 12, (uint64_t)ledger->compacted);
    le64_store(to + 20, ledger->key_count);
    le64_store(to + 28, ledger->size_bytes);
    le64_store(to + 36, ledger->size_in_use_bytes);
    le32_store(to + 44, ledger->mark_count);
    uint8_t *at = to + 48;
    for (uint32_t i = 0; i < ledger->mark_count; i++, at += 24) {
        le64_store(at, (uint64_t)ledger->marks[i].first);
        le64_store(at + 8, (uint64_t)ledger->marks[i].last);
        le64_store(at + 16, ledger->marks[i].bytes);
    }
    invariant((size_t)(at - to) <= MVCC_LEDGER_ROW_BYTES_MAX);
    return (size_t)(at - to);
}

int mvcc_ledger_decode(struct mvcc_ledger *ledger, struct bytes from)
{
    if (from.size < 48)
        return ERR_CORRUPT;
    if (le32_load(from.data) != LEDGER_FORMAT)
        return ERR_VERSION;
    ledger->revision = (int64_t)le64_load(from.data + 4);
    ledger->compacted = (int64_t)le64_load(from.data + 12);
    ledger->key_count = le64_load(from.data + 20);
    ledger->size_bytes = le64_load(from.data + 28);
    ledger->size_in_use_bytes = le64_load(from.data + 36);
    ledger->mark_count = le32_load(from.data + 44);
    if (ledger->mark_count > MVCC_LEDGER_MARKS_MAX ||
        from.size != 48 + (size_t)ledger->mark_count * 24)
        return ERR_CORRUPT;
    const uint8_t *at = from.data + 48;
    for (uint32_t i = 0; i < ledger->mark_count; i++, at += 24) {
        ledger->marks[i].first = (int64_t)le64_load(at);
        ledger->marks[i].last = (int64_t)le64_load(at + 8);
        ledger->marks[i].bytes = le64_load(at + 16);
    }
    return 0;
}
