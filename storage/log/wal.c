/* The way of an append: queue, block, one durable write, acknowledgement in order. */
#include "storage/log/wal.h"

#include <stdio.h>

#include "core/crc32c.h"
#include "core/err.h"
#include "core/invariant.h"
#include "core/probe.h"
#include "storage/log/wal_private.h"

/* ---- building a block ---------------------------------------------------------------------------
 */

struct builder {
    struct wal *wal;
    struct wal_write *write;
    uint32_t used, limit; /* limit: of the block with its trail */
    uint32_t crc;
    bool closed; /* nothing more may join: a fragment, repair, cut or reset */
    bool empty;  /* no append contributed anything yet */
};

static uint64_t append_next_index(const struct wal_append *append)
{
    return append->entries[append->entries_taken].index;
}

/* Term of an entry as of next_sequence - 1; 0 when this log does not know. */
static uint64_t issued_term(const struct wal *wal, uint64_t index)
{
    if (index == wal->issued_last_index)
        return wal->issued_last_term;
    for (uint64_t sequence = wal->next_sequence - 1; sequence > wal->durable_sequence; sequence--) {
        const struct wal_block *block = &wal->writes[sequence % wal->writes_max].block;
        if (block->entry_count != 0 && index >= block->first_index &&
            index <= wal_block_last_index(block))
            return block->term;
    }
    return wal_term(wal, index);
}

/* Copies one entry behind the others; false when it must wait for the next block. */
static bool builder_add(struct builder *builder, const struct entry *entry)
{
    struct wal_block *block = &builder->write->block;
    uint32_t space = wal_record_space(entry->payload_bytes);
    if (space > builder->limit - WAL_TRAIL_BYTES - builder->used)
        return false;
    if (block->entry_count == 0) {
        block->first_index = entry->index;
        block->term = entry->term;
    } else if (entry->term != block->term || entry->index != wal_block_last_index(block) + 1) {
        return false;
    }
    uint8_t *bytes = builder->write->block_bytes + builder->used;
    builder->crc = wal_record_encode(entry, builder->crc, bytes);
    bytes += WAL_RECORD_BYTES;
    if (entry->payload_bytes != 0)
        memcpy(bytes, entry->payload, entry->payload_bytes);
    memset(bytes + entry->payload_bytes, 0, space - WAL_RECORD_BYTES - entry->payload_bytes);
    builder->used += space;
    block->entry_count++;
    return true;
}

/* One piece of an entry that no single block can hold. Takes the whole block. */
static void builder_add_fragment(struct builder *builder, struct wal_append *append,
                                 const struct entry *entry)
{
    struct wal_block *block = &builder->write->block;
    invariant(block->entry_count == 0 && append->fragment_offset < entry->payload_bytes);
    uint32_t left = entry->payload_bytes - append->fragment_offset;
    struct wal_fragment fragment = {
        .offset = append->fragment_offset,
        .bytes = (uint32_t)u64_min(left, wal_fragment_bytes_max(builder->limit))};
    const uint8_t *payload = entry->payload + fragment.offset;
    fragment.crc = crc32c(0, payload, fragment.bytes);

    uint8_t *bytes = builder->write->block_bytes + builder->used;
    builder->crc = wal_record_encode(entry, builder->crc, bytes);
    wal_fragment_encode(&fragment, bytes + WAL_RECORD_BYTES);
    memcpy(bytes + WAL_RECORD_BYTES + WAL_FRAGMENT_BYTES, payload, fragment.bytes);
    builder->used += WAL_RECORD_BYTES + WAL_FRAGMENT_BYTES + fragment.bytes;

    block->first_index = entry->index;
    block->term = entry->term;
    block->flags |= WAL_BLOCK_FRAGMENT;
    if (fragment.offset == 0)
        block->flags |= WAL_BLOCK_FRAGMENT_FIRST;
    append->fragment_offset += fragment.bytes;
    if (append->fragment_offset == entry->payload_bytes) {
        block->flags |= WAL_BLOCK_FRAGMENT_LAST;
        block->entry_count = 1;
        append->fragment_offset = 0;
        append->entries_taken++;
    }
    builder->closed = true;
}

/* Takes as many entries as fit; true when the append is wholly in blocks. */
static bool builder_add_entries(struct builder *builder, struct wal_append *append)
{
    uint32_t whole_max = wal_payload_bytes_max(builder->wal->block_bytes_max);
    while (append->entries_taken < append->entry_count && !builder->closed) {
        const struct entry *entry = &append->entries[append->entries_taken];
        invariant(entry->payload_bytes <= ENTRY_PAYLOAD_BYTES_MAX);
        invariant(append->entries_taken == 0 || entry->index == entry[-1].index + 1);
        invariant(entry->index != 0 && entry->term != 0);
        verify(wal_payload_good(entry));
        if (entry->payload_bytes > whole_max) {
            if (builder->write->block.entry_count != 0)
                return false;
            builder_add_fragment(builder, append, entry);
        } else if (builder_add(builder, entry)) {
            append->entries_taken++;
        } else {
            return false;
        }
        builder->empty = false;
    }
    return append->entries_taken == append->entry_count;
}

static void builder_add_marker(struct builder *builder, const struct wal_append *append)
{
    struct wal_block *block = &builder->write->block;
    bool is_reset = append->kind == WAL_APPEND_RESET;
    invariant(append->entry_count == 0);
    invariant(is_reset || append->index <= builder->wal->issued_last_index);
    block->flags = is_reset ? WAL_BLOCK_RESET : WAL_BLOCK_CUT;
    block->first_index = append->index + 1;
    block->prev_term = is_reset ? append->term : issued_term(builder->wal, append->index);
    builder->closed = true;
    builder->empty = false;
}

/* The oldest queued append joins the block. False: it (or its rest) must wait for the next. */
static bool builder_take(struct builder *builder, struct wal_append *append)
{
    bool joins = append->kind == WAL_APPEND_ENTRIES, whole;
    if (builder->closed || (!joins && !builder->empty))
        return false;
    if (append->has_hard_state && append->entries_taken == 0 && append->fragment_offset == 0) {
        /* With the first part: a term or vote that is durable before its entries does no harm. */
        builder->wal->hard_state = append->hard_state;
    }
    switch (append->kind) {
    case WAL_APPEND_CUT:
    case WAL_APPEND_RESET:
        builder_add_marker(builder, append);
        return true;
    case WAL_APPEND_REPAIR:
        builder->write->block.flags |= WAL_BLOCK_REPAIR;
        whole = builder_add_entries(builder, append);
        builder->closed = true;
        return whole;
    case WAL_APPEND_ENTRIES:
        if (append->entry_count == 0) {
            builder->empty = false;
            return true;
        }
        return builder_add_entries(builder, append);
    }
    invariant(false);
    return false;
}

/* ---- space in segments --------------------------------------------------------------------------
 */

static uint64_t active_left(const struct wal *wal)
{
    return wal->segment_bytes - wal->active_offset;
}

static bool has_ready_segment(const struct wal *wal)
{
    return wal->active + 1 < wal->segment_count;
}

static void take_ready_segment(struct wal *wal)
{
    invariant(has_ready_segment(wal)); /* W4 */
    wal->active++;
    wal->active_offset = 0;
    wal_keeper_kick(wal);
}

/* How large the next block may be; 0: it must wait for the keeper. */
static uint32_t block_limit(struct wal *wal, const struct wal_append *next)
{
    if (has_ready_segment(wal))
        return wal->block_bytes_max;
    if (next->kind == WAL_APPEND_RESET)
        return 0; /* begins a segment of its own */
    uint64_t left = u64_min(active_left(wal), wal->block_bytes_max);
    if (left < WAL_BLOCK_BYTES_MIN)
        return 0;
    /* Without a next segment only what fits into the rest of this one may leave. */
    if (next->entries_taken < next->entry_count) {
        uint32_t payload = next->entries[next->entries_taken].payload_bytes;
        bool whole = payload <= wal_payload_bytes_max(wal->block_bytes_max);
        if (whole && payload > wal_payload_bytes_max((uint32_t)left))
            return 0;
    }
    return (uint32_t)left;
}

/* ---- issuing ------------------------------------------------------------------------------------
 */

static void write_block_done(struct io_op *op, int32_t result)
{
    struct wal_write *write = container_of(op, struct wal_write, op);
    if (result != (int32_t)write->block.bytes && !planted_bug(failed_write_acknowledged))
        fatal("log write failed: %s/%010u.log offset %llu, %u bytes: %s", write->wal->directory,
              write->block.segment, (unsigned long long)write->block.page * WAL_PAGE_BYTES,
              write->block.bytes, result < 0 ? err_text(result) : "short write");
    wal_write_completed(write);
}

static void builder_begin(struct builder *builder, struct wal *wal, uint32_t limit)
{
    struct wal_write *write = &wal->writes[wal->next_sequence % wal->writes_max];
    invariant(!write->pending);
    *builder = (struct builder){.wal = wal,
                                .write = write,
                                .used = WAL_HEADER_BYTES,
                                .limit = limit,
                                .crc = wal_record_seed(wal->next_sequence),
                                .empty = true};
    write->block = (struct wal_block){.log_id = wal->log_id,
                                      .sequence = wal->next_sequence,
                                      .previous_crc = wal->previous_crc,
                                      .durable_upto = wal_proven_sequence(wal),
                                      .first_index = wal->issued_last_index + 1,
                                      .prev_term = wal->issued_last_term,
                                      .before_index = wal->issued_last_index,
                                      .before_term = wal->issued_last_term};
}

/* What the next block will continue, now that this one is complete. */
static void builder_advance_issued(struct builder *builder)
{
    struct wal *wal = builder->wal;
    struct wal_block *block = &builder->write->block;
    if ((block->flags & (WAL_BLOCK_CUT | WAL_BLOCK_RESET)) != 0) {
        wal->issued_last_index = block->first_index - 1;
        wal->issued_last_term = block->prev_term;
        return;
    }
    if (block->entry_count == 0 && (block->flags & WAL_BLOCK_FRAGMENT) == 0)
        return;
    invariant(block->first_index <= wal->issued_last_index + 1); /* no gap */
    block->prev_term = issued_term(wal, block->first_index - 1);
    if (block->entry_count != 0 && (block->flags & WAL_BLOCK_REPAIR) == 0) {
        sometimes(block->first_index <= wal->issued_last_index,
                  "wal: conflicting suffix overridden");
        wal->issued_last_index = wal_block_last_index(block);
        wal->issued_last_term = block->term;
    }
}

static void builder_issue(struct builder *builder)
{
    struct wal *wal = builder->wal;
    struct wal_write *write = builder->write;
    struct wal_block *block = &write->block;
    block->used_bytes = builder->used;
    block->bytes = (uint32_t)u64_round_up(builder->used, WAL_PAGE_BYTES) + WAL_TRAIL_BYTES;
    block->records_crc = builder->used == WAL_HEADER_BYTES ? 0 : builder->crc;
    block->hard_state = wal->hard_state;
    /* Only what is durable here may prove anything to a later recovery. */
    block->hard_state.commit = u64_min(wal->hard_state.commit, wal_last_index(wal));
    builder_advance_issued(builder);
    bool fresh = (block->flags & WAL_BLOCK_RESET) != 0 && wal->active_offset != 0;
    if (fresh || block->bytes > active_left(wal))
        take_ready_segment(wal);
    block->segment = wal->segments[wal->active].number;
    block->page = (uint32_t)(wal->active_offset / WAL_PAGE_BYTES);
    if (block->page == 0)
        wal->segments[wal->active].base_index = wal_block_base_index(block);
    uint32_t trail = wal_trail_offset(block);
    memset(write->block_bytes + builder->used, 0, trail - builder->used);
    wal_block_encode(block, write->block_bytes);
    memmove(wal->history + WAL_HEADER_BYTES, wal->history, WAL_TRAIL_BYTES - WAL_HEADER_BYTES);
    memcpy(wal->history, write->block_bytes, WAL_HEADER_BYTES);
    memcpy(write->block_bytes + trail, wal->history, WAL_TRAIL_BYTES);

    wal->previous_crc = block->header_crc;
    wal->next_sequence++;
    wal->stats.blocks++;
    wal->stats.entries += block->entry_count;
    wal->stats.bytes_payload +=
        builder->used - WAL_HEADER_BYTES - block->entry_count * WAL_RECORD_BYTES;
    wal->stats.bytes_written += block->bytes;
    histogram_record(&wal->stats.entries_per_block, block->entry_count);
    invariant(wal_in_flight(wal) <= wal->writes_max); /* W1 */

    struct io_span span = {
        .base = write->block_bytes, .offset = wal->active_offset, .bytes = block->bytes};
    wal->active_offset += block->bytes;
    write->pending = true;
    write->started_ns = reactor_clock_ns(wal->reactor);
    io_op_init(&write->op, write_block_done);
    reactor_write(wal->reactor, &write->op, wal->segments[wal->active].file, span,
                  planted_bug(log_write_not_durable) ? 0 : IO_WRITE_DURABLE);
    probe3(wal_write, block->sequence, block->bytes, block->entry_count);
}

static bool issue_next_block(struct wal *wal)
{
    struct wal_append *append = container_of(wal->queued.first, struct wal_append, link);
    uint32_t limit = block_limit(wal, append);
    if (limit == 0) {
        if (!wal->stalled)
            wal->stats.segment_waits++;
        wal->stalled = true;
        sometimes(true, "wal: append waits for a segment");
        wal_keeper_kick(wal);
        return false;
    }
    wal->stalled = false;
    struct builder builder;
    builder_begin(&builder, wal, limit);
    while (!queue_is_empty(&wal->queued)) {
        append = container_of(wal->queued.first, struct wal_append, link);
        if (!builder_take(&builder, append))
            break;
        (void)queue_pop(&wal->queued);
        append->sequence = wal->next_sequence;
        queue_append(&wal->issued, &append->link); /* W3 */
        if (builder.closed)
            break;
    }
    invariant(!builder.empty);
    builder_issue(&builder);
    return true;
}

void wal_flush(struct wal *wal)
{
    invariant(core_current() == wal->core);
    if (wal->completing)
        return;
    while (!queue_is_empty(&wal->queued) && wal_in_flight(wal) < wal->writes_max)
        if (!issue_next_block(wal))
            return;
}

void wal_append(struct wal *wal, struct wal_append *append)
{
    invariant(core_current() == wal->core);
    invariant(append->done != NULL && !wal->draining);
    invariant(!wal->fenced || append->kind == WAL_APPEND_RESET || wal->reset_queued);
    invariant(append->entry_count == 0 || append->kind == WAL_APPEND_ENTRIES ||
              append->kind == WAL_APPEND_REPAIR);
    invariant(append->entry_count == 0 || append->entries != NULL);
    wal->reset_queued = wal->reset_queued || append->kind == WAL_APPEND_RESET;
    queue_link_init(&append->link);
    append->entries_taken = 0;
    append->fragment_offset = 0;
    append->sequence = 0;
    append->queued_ns = reactor_now_ns(wal->reactor);
    queue_append(&wal->queued, &append->link);
    wal->stats.appends++;
    invariant(append->entry_count == 0 || append_next_index(append) != 0);
}

/* ---- the ring -----------------------------------------------------------------------------------
 */

/* Fills ring_page with the headers of what is durable, and says where it belongs. */
static struct io_span ring_begin(struct wal *wal)
{
    invariant(!wal->ring_busy);
    wal->ring_busy = true;
    uint64_t in_flight = u64_min(wal_in_flight(wal), WAL_TRAIL_HEADERS);
    size_t skipped = (size_t)in_flight * WAL_HEADER_BYTES; /* issued only: W5 */
    memcpy(wal->ring_page, wal->history + skipped, WAL_TRAIL_BYTES - skipped);
    memset(wal->ring_page + WAL_TRAIL_BYTES - skipped, 0, skipped);
    wal->ring_sequence = wal->durable_sequence;
    return (struct io_span){.base = wal->ring_page,
                            .offset = wal_ring_offset(wal->ring_slots, wal->durable_sequence),
                            .bytes = WAL_PAGE_BYTES};
}

static void ring_end(struct wal *wal, int32_t result)
{
    if (result != (int32_t)WAL_PAGE_BYTES)
        fatal("log write failed: %s/ring offset %llu: %s", wal->directory,
              (unsigned long long)wal_ring_offset(wal->ring_slots, wal->ring_sequence),
              result < 0 ? err_text(result) : "short write");
    wal->ring_busy = false;
    if (wal_in_flight(wal) == 0)
        wal_went_idle(wal);
}

void wal_ring_write(struct wal *wal)
{
    invariant(!wal->ring_busy);
    if (wal->durable_sequence != wal->ring_sequence && wal->unproven == 0)
        ring_end(wal, await_write(wal->ring, ring_begin(wal), IO_WRITE_DURABLE));
}

static void ring_write_done(struct io_op *op, int32_t result)
{
    ring_end(container_of(op, struct wal, ring_op), result);
}

static void ring_follow(struct wal *wal)
{
    if (wal->ring_busy || wal->unproven != 0 ||
        wal->durable_sequence - wal->ring_sequence < WAL_RING_STRIDE)
        return;
    io_op_init(&wal->ring_op, ring_write_done);
    reactor_write(wal->reactor, &wal->ring_op, wal->ring, ring_begin(wal), 0);
}

/* ---- completion ---------------------------------------------------------------------------------
 */

static bool has_unproven_fault(const struct wal *wal)
{
    struct wal_fault fault;
    for (uint32_t slot = 0; wal_fault_get(wal, slot, &fault); slot++)
        if (!fault.proven)
            return true;
    return false;
}

static void acknowledge_block(struct wal *wal, struct wal_write *write)
{
    const struct wal_block *block = &write->block;
    invariant(block->sequence == wal->durable_sequence + 1);
    wal->durable_sequence = block->sequence; /* W2 */
    wal->durable_segment = block->segment;
    wal_index_apply(&wal->index, block, 0);
    if (wal->unproven != 0 && (block->entry_count != 0 || !has_unproven_fault(wal)))
        wal->unproven = 0; /* a leader has what it builds on; or it is cut */
    invariant(block->entry_count == 0 || (block->flags & WAL_BLOCK_REPAIR) != 0 ||
              wal_last_index(wal) == wal_block_last_index(block));
    if ((block->flags & WAL_BLOCK_RESET) != 0) {
        wal->release_index = block->first_index - 1;
        wal_keeper_kick(wal);
    }
    ring_follow(wal);
    probe2(wal_durable, block->sequence, wal_last_index(wal));
}

static void acknowledge_appends(struct wal *wal)
{
    while (wal->issued.first != NULL) {
        struct wal_append *append = container_of(wal->issued.first, struct wal_append, link);
        if (append->sequence > wal->durable_sequence)
            return;
        (void)queue_pop(&wal->issued);
        histogram_record(&wal->stats.commit_ns, reactor_now_ns(wal->reactor) - append->queued_ns);
        append->done(append); /* last touch: it may be reused inside */
    }
}

void wal_acknowledge(struct wal *wal)
{
    wal->completing = true;
    while (wal_in_flight(wal) != 0) { /* only the contiguous prefix */
        struct wal_write *oldest = &wal->writes[(wal->durable_sequence + 1) % wal->writes_max];
        invariant(oldest->block.sequence == wal->durable_sequence + 1);
        if (oldest->pending)
            break;
        if (wal->fenced) {
            /* The block that ends the fence counts once the superblock points at it. */
            invariant((oldest->block.flags & WAL_BLOCK_RESET) != 0);
            wal->fence_end = oldest->block.segment;
            wal_keeper_kick(wal);
            break;
        }
        acknowledge_block(wal, oldest);
        acknowledge_appends(wal);
    }
    wal->completing = false;
    wal_flush(wal);
    if (wal_in_flight(wal) == 0)
        wal_went_idle(wal);
}

void wal_write_completed(struct wal_write *write)
{
    struct wal *wal = write->wal;
    invariant(write->pending);
    write->pending = false;
    histogram_record(&wal->stats.write_ns, reactor_clock_ns(wal->reactor) - write->started_ns);
    sometimes(write->block.sequence != wal->durable_sequence + 1, "wal: later write done first");
    wal_acknowledge(wal);
}

/* ---- plain questions ----------------------------------------------------------------------------
 */

uint64_t wal_first_index(const struct wal *wal)
{
    return wal_index_first(&wal->index);
}

uint64_t wal_last_index(const struct wal *wal)
{
    return wal_index_last(&wal->index);
}

uint64_t wal_term(const struct wal *wal, uint64_t index)
{
    if (index == wal->index.base_index)
        return wal->index.base_term;
    const struct wal_extent *extent = wal_index_find(&wal->index, index);
    return extent == NULL ? 0 : extent->term;
}

static const struct wal_extent *fault_row(const struct wal *wal, uint32_t slot)
{
    for (uint32_t row = 0; row < wal->index.count; row++) {
        const struct wal_extent *extent = wal_index_row(&wal->index, row);
        if ((extent->flags & WAL_EXTENT_FAULTY) != 0 && slot-- == 0)
            return extent;
    }
    return NULL;
}

uint32_t wal_fault_count(const struct wal *wal)
{
    struct wal_fault ignored;
    uint32_t count = 0;
    while (wal_fault_get(wal, count, &ignored))
        count++;
    return count;
}

bool wal_fault_get(const struct wal *wal, uint32_t slot, struct wal_fault *fault)
{
    const struct wal_extent *extent = fault_row(wal, slot);
    if (extent == NULL)
        return false;
    *fault = (struct wal_fault){.first_index = extent->first_index,
                                .last_index = extent->last_index,
                                .term = extent->term,
                                .proven = (extent->flags & WAL_EXTENT_PROVEN) != 0};
    return true;
}

bool wal_space_low(const struct wal *wal)
{
    return wal->space_low;
}

const struct wal_stats *wal_stats(struct wal *wal)
{
    struct wal_stats *stats = &wal->stats;
    stats->writes_in_flight = wal_in_flight(wal);
    stats->appends_queued = wal->queued.count;
    stats->segments = wal->active + 1;
    stats->segments_ready = wal->segment_count - wal->active - 1;
    stats->bytes_on_disk =
        wal->segment_count * wal->segment_bytes + wal_ring_bytes(wal->ring_slots);
    return stats;
}
