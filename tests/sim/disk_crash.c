/* What a power cut leaves of a disk, and copies of disks to try that on. */
#include <stdlib.h>
#include <xxhash.h>

#include "core/invariant.h"
#include "tests/sim/disk_private.h"
#include "tests/sim/memory.h"

#define TEAR_PERCENT 25 /* of sectors that changed, under SIM_LOSS_TORN */

const char *sim_loss_name(enum sim_loss loss)
{
    static const char *const names[SIM_LOSS_COUNT] = {"all",  "none",  "sectors", "ordered",
                                                      "torn", "names", "data"};
    return names[loss];
}

bool sim_loss_keeps_in_flight(enum sim_loss loss, struct prng *prng)
{
    switch (loss) {
    case SIM_LOSS_ALL:
        return false;
    case SIM_LOSS_NONE:
        return true;
    case SIM_LOSS_SECTORS:
    case SIM_LOSS_ORDERED:
    case SIM_LOSS_TORN:
    case SIM_LOSS_NAMES:
    case SIM_LOSS_DATA:
        return prng_chance(prng, 1, 2);
    case SIM_LOSS_COUNT:
        break;
    }
    invariant(!"a loss pattern");
    return false;
}

/* ---- clones --------------------------------------------------------------------------------- */

static void clone_file(struct sim_inode *copy, const struct sim_inode *inode)
{
    inode_reserve_pages(copy, inode->page_count);
    for (uint64_t i = 0; i < inode->page_count; i++) {
        const struct page *from = &inode->pages[i];
        struct page *to = &copy->pages[i];
        to->durable = page_data_ref(from->durable);
        to->sound = page_data_ref(from->sound);
        to->unreadable = from->unreadable;
        to->damaged = from->damaged;
        to->count = to->capacity = from->count;
        if (from->count == 0)
            continue;
        to->versions = sim_alloc(from->count * sizeof(to->versions[0]));
        memcpy(to->versions, from->versions, from->count * sizeof(to->versions[0]));
        for (uint32_t v = 0; v < from->count; v++)
            page_data_ref(to->versions[v].data);
    }
    copy->durable_bytes = inode->durable_bytes;
    copy->allocated_bytes = inode->allocated_bytes;
    copy->size_count = copy->size_capacity = inode->size_count;
    if (inode->size_count > 0) {
        copy->sizes = sim_alloc(inode->size_count * sizeof(copy->sizes[0]));
        memcpy(copy->sizes, inode->sizes, inode->size_count * sizeof(copy->sizes[0]));
    }
}

static struct sim_inode *cloned_ref(const struct sim_inode *inode)
{
    return inode == NULL ? NULL : inode_ref(inode->clone);
}

static void clone_directory(struct sim_inode *copy, const struct sim_inode *inode)
{
    copy->entry_count = copy->entry_capacity = inode->entry_count;
    if (inode->entry_count == 0)
        return;
    copy->entries = sim_alloc(inode->entry_count * sizeof(copy->entries[0]));
    for (uint32_t i = 0; i < inode->entry_count; i++) {
        copy->entries[i] = inode->entries[i];
        copy->entries[i].durable = cloned_ref(inode->entries[i].durable);
        copy->entries[i].current = cloned_ref(inode->entries[i].current);
    }
}

struct sim_disk *sim_disk_clone(const struct sim_disk *disk)
{
    struct sim_disk *copy = sim_alloc(sizeof(*copy));
    copy->sequence = disk->sequence;
    copy->next_inode = disk->next_inode;
    copy->capacity_bytes = disk->capacity_bytes;
    copy->used_bytes = disk->used_bytes;
    copy->sector_bytes = disk->sector_bytes;
    for (struct sim_inode *inode = disk->inodes; inode != NULL; inode = inode->next) {
        inode->clone = inode_create(copy, inode->is_directory);
        inode->clone->id = inode->id;
        inode_ref(inode->clone); /* open files may have no name */
        inode->clone->is_kept = true;
    }
    copy->next_inode = disk->next_inode;
    for (struct sim_inode *inode = disk->inodes; inode != NULL; inode = inode->next) {
        clone_file(inode->clone, inode);
        clone_directory(inode->clone, inode);
    }
    copy->operation_count = copy->operation_capacity = disk->operation_count;
    copy->operations = sim_alloc(disk->operation_count * sizeof(copy->operations[0]) + 1);
    for (uint32_t i = 0; i < disk->operation_count; i++) {
        copy->operations[i] = disk->operations[i];
        for (uint32_t c = 0; c < copy->operations[i].change_count; c++) {
            struct name_change *change = &copy->operations[i].changes[c];
            change->directory = cloned_ref(change->directory);
            change->to = cloned_ref(change->to);
        }
    }
    copy->root = inode_ref(disk->root->clone);
    return copy;
}

struct sim_inode *sim_disk_cloned(struct sim_inode *original)
{
    return original->clone;
}

/* ---- power cuts ----------------------------------------------------------------------------- */

struct cut {
    enum sim_loss loss;
    struct prng *prng;
    uint64_t moment; /* of SIM_LOSS_ORDERED: later sequences are lost */
    uint32_t sector_bytes;
};

/* Version of the size that survives: 0 is the durable one. */
static uint32_t cut_size(const struct cut *cut, const struct sim_inode *inode)
{
    uint32_t count = inode->size_count, kept = 0;
    switch (cut->loss) {
    case SIM_LOSS_ALL:
        return 0;
    case SIM_LOSS_NONE:
    case SIM_LOSS_TORN:
    case SIM_LOSS_NAMES:
    case SIM_LOSS_DATA:
        return count;
    case SIM_LOSS_SECTORS:
        return (uint32_t)prng_below(cut->prng, count + 1);
    case SIM_LOSS_ORDERED:
        while (kept < count && inode->sizes[kept].sequence <= cut->moment)
            kept++;
        return kept;
    case SIM_LOSS_COUNT:
        break;
    }
    invariant(!"a loss pattern");
    return 0;
}

/* Version of one sector that survives, in [low, high]; 0 is the durable one. */
static uint32_t cut_sector(const struct cut *cut, const struct page *page, uint32_t low,
                           uint32_t high)
{
    uint32_t kept = low;
    switch (cut->loss) {
    case SIM_LOSS_ALL:
    case SIM_LOSS_DATA:
        return low;
    case SIM_LOSS_NONE:
    case SIM_LOSS_NAMES:
        return high;
    case SIM_LOSS_SECTORS:
    case SIM_LOSS_TORN:
        return low + (uint32_t)prng_below(cut->prng, high - low + 1);
    case SIM_LOSS_ORDERED:
        while (kept < high && page->versions[kept].sequence <= cut->moment)
            kept++;
        return kept;
    case SIM_LOSS_COUNT:
        break;
    }
    invariant(!"a loss pattern");
    return low;
}

static const struct page_data *version_data(const struct page *page, uint32_t version)
{
    return version == 0 ? page->durable : page->versions[version - 1].data;
}

static void copy_part(uint8_t *to, const struct page_data *from, uint32_t offset, uint32_t bytes)
{
    if (from == NULL)
        memset(to + offset, 0, bytes);
    else
        memcpy(to + offset, from->bytes + offset, bytes);
}

static struct page_data *cut_page(const struct cut *cut, struct page *page, uint32_t low,
                                  uint32_t high)
{
    uint8_t bytes[SIM_PAGE_BYTES];
    for (uint32_t at = 0; at < SIM_PAGE_BYTES; at += cut->sector_bytes) {
        uint32_t version = cut_sector(cut, page, low, high);
        copy_part(bytes, version_data(page, version), at, cut->sector_bytes);
        if (cut->loss == SIM_LOSS_TORN && high > low && prng_chance(cut->prng, TEAR_PERCENT, 100)) {
            uint32_t from = (uint32_t)prng_below(cut->prng, cut->sector_bytes);
            uint32_t other = low + (uint32_t)prng_below(cut->prng, high - low + 1);
            copy_part(bytes, version_data(page, other), at + from, cut->sector_bytes - from);
        }
    }
    return page_data_make(bytes);
}

static void cut_file(const struct cut *cut, struct sim_inode *inode)
{
    uint32_t size = cut_size(cut, inode);
    uint64_t size_sequence = size == 0 ? 0 : inode->sizes[size - 1].sequence;
    uint64_t bytes = size == 0 ? inode->durable_bytes : inode->sizes[size - 1].bytes;
    for (uint64_t number = 0; number < inode->page_count; number++) {
        struct page *page = &inode->pages[number];
        /* A truncation empties pages exactly when its size survives. */
        uint32_t low = 0, high = page->count;
        for (uint32_t v = 0; v < page->count; v++) {
            if (!page->versions[v].truncates)
                continue;
            if (page->versions[v].sequence <= size_sequence) {
                low = v + 1;
            } else {
                high = v;
                break;
            }
        }
        struct page_data *kept =
            page->count == 0 ? page_data_ref(page->durable) : cut_page(cut, page, low, high);
        page_data_unref(page->durable);
        for (uint32_t v = 0; v < page->count; v++)
            page_data_unref(page->versions[v].data);
        page->count = 0;
        page->durable = kept;
        /* Bytes beyond the end do not come back when the file grows. */
        uint64_t start = number * SIM_PAGE_BYTES;
        if (kept != NULL && start + SIM_PAGE_BYTES > bytes) {
            uint8_t scratch[SIM_PAGE_BYTES] = {0};
            if (bytes > start)
                memcpy(scratch, kept->bytes, bytes - start);
            page->durable = page_data_make(scratch);
            page_data_unref(kept);
        }
    }
    inode->durable_bytes = bytes;
    inode->size_count = 0;
    inode->locked_by = NULL;
}

static bool cut_keeps_operation(const struct cut *cut, const struct name_operation *operation)
{
    switch (cut->loss) {
    case SIM_LOSS_ALL:
        return false;
    case SIM_LOSS_NONE:
    case SIM_LOSS_TORN:
    case SIM_LOSS_DATA:
        return true;
    case SIM_LOSS_SECTORS:
    case SIM_LOSS_NAMES:
        return prng_chance(cut->prng, 1, 2);
    case SIM_LOSS_ORDERED:
        return operation->sequence <= cut->moment;
    case SIM_LOSS_COUNT:
        break;
    }
    invariant(!"a loss pattern");
    return false;
}

/* True when an operation that was lost had changed one of the same names before. */
static bool builds_on_a_lost_one(const struct sim_disk *disk, uint32_t at)
{
    const struct name_operation *operation = &disk->operations[at];
    for (uint32_t i = 0; i < at; i++) {
        const struct name_operation *earlier = &disk->operations[i];
        for (uint32_t a = 0; !earlier->marked && a < earlier->change_count; a++)
            for (uint32_t b = 0; b < operation->change_count; b++)
                if (earlier->changes[a].directory == operation->changes[b].directory &&
                    strcmp(earlier->changes[a].name, operation->changes[b].name) == 0)
                    return true;
    }
    return false;
}

static void cut_names(const struct cut *cut, struct sim_disk *disk)
{
    for (uint32_t i = 0; i < disk->operation_count; i++) {
        struct name_operation *operation = &disk->operations[i];
        operation->marked = cut_keeps_operation(cut, operation) && !builds_on_a_lost_one(disk, i);
        for (uint32_t c = 0; operation->marked && c < operation->change_count; c++) {
            struct name_change *change = &operation->changes[c];
            entry_set(disk, &directory_entry(change->directory, change->name)->durable, change->to);
        }
    }
    for (uint32_t i = 0; i < disk->operation_count; i++)
        operation_release(disk, &disk->operations[i]);
    disk->operation_count = 0;
    for (struct sim_inode *inode = disk->inodes; inode != NULL; inode = inode->next)
        inode_ref(inode); /* none goes while the list is walked */
    for (struct sim_inode *inode = disk->inodes; inode != NULL; inode = inode->next) {
        for (uint32_t i = 0; i < inode->entry_count; i++)
            entry_set(disk, &inode->entries[i].current, inode->entries[i].durable);
        directory_tidy(inode);
    }
}

/* Ends the references that cut_names() took, and those that keep a clone's inodes. */
static void release_all(struct sim_disk *disk)
{
    uint32_t count = 0, at = 0;
    for (struct sim_inode *inode = disk->inodes; inode != NULL; inode = inode->next)
        count++;
    struct sim_inode **all = sim_alloc(count * sizeof(all[0]) + 1);
    for (struct sim_inode *inode = disk->inodes; inode != NULL; inode = inode->next)
        all[at++] = inode;
    for (uint32_t i = 0; i < count; i++) {
        if (all[i]->is_kept)
            inode_unref(disk, all[i]);
        all[i]->is_kept = false;
    }
    for (uint32_t i = 0; i < count; i++)
        inode_unref(disk, all[i]);
    free(all);
}

void sim_disk_power_cut(struct sim_disk *disk, enum sim_loss loss, struct prng *prng)
{
    uint64_t oldest = disk->sequence;
    for (uint32_t i = 0; i < disk->operation_count; i++)
        oldest = u64_min(oldest, disk->operations[i].sequence);
    for (const struct sim_inode *inode = disk->inodes; inode != NULL; inode = inode->next) {
        for (uint64_t p = 0; p < inode->page_count; p++)
            if (inode->pages[p].count > 0)
                oldest = u64_min(oldest, inode->pages[p].versions[0].sequence);
        if (inode->size_count > 0)
            oldest = u64_min(oldest, inode->sizes[0].sequence);
    }
    struct cut cut = {.loss = loss,
                      .prng = prng,
                      .moment = oldest + prng_below(prng, disk->sequence - oldest + 1),
                      .sector_bytes = disk->sector_bytes};
    cut_names(&cut, disk);
    for (struct sim_inode *inode = disk->inodes; inode != NULL; inode = inode->next)
        if (!inode->is_directory)
            cut_file(&cut, inode);
    release_all(disk);
}

/* ---- hash ----------------------------------------------------------------------------------- */

static void hash_inode(const struct sim_inode *inode, XXH3_state_t *state)
{
    uint64_t facts[2] = {inode_bytes(inode), inode->is_directory};
    XXH3_64bits_update(state, facts, sizeof(facts));
    for (uint64_t i = 0; i < inode->page_count; i++) {
        const struct page_data *data = page_current(&inode->pages[i]);
        uint64_t mark = data == NULL ? i : ~i;
        XXH3_64bits_update(state, &mark, sizeof(mark));
        if (data != NULL)
            XXH3_64bits_update(state, data->bytes, SIM_PAGE_BYTES);
    }
    for (uint32_t i = 0; i < inode->entry_count; i++) {
        const struct entry_name *entry = &inode->entries[i];
        if (entry->current == NULL)
            continue;
        XXH3_64bits_update(state, entry->name, strlen(entry->name));
        hash_inode(entry->current, state);
    }
}

uint64_t sim_disk_hash(const struct sim_disk *disk)
{
    XXH3_state_t *state = XXH3_createState();
    XXH3_64bits_reset(state);
    hash_inode(disk->root, state);
    uint64_t hash = XXH3_64bits_digest(state);
    XXH3_freeState(state);
    return hash;
}
