/* Requests that a disk refuses: what they leave behind. */
#include <errno.h>

#include "tests/sim/disk_private.h"

struct sim_disk_faults *sim_disk_faults(struct sim_disk *disk)
{
    return &disk->faults;
}

int32_t sim_disk_write_fails(struct sim_disk *disk, struct sim_inode *inode, struct io_span span,
                             struct prng *prng)
{
    disk->faults.errors++;
    uint32_t pages = span.bytes / SIM_PAGE_BYTES;
    span.bytes = (uint32_t)prng_below(prng, pages + 1) * SIM_PAGE_BYTES;
    if (span.bytes > 0)
        (void)!sim_disk_write(disk, inode, span, false);
    return -EIO;
}

/* The page's versions up to `sequence` leave the cache unwritten: what was durable shows again. */
static void page_forget(struct page *page, uint64_t sequence)
{
    uint32_t gone = 0;
    for (uint32_t v = 0; v < page->count; v++)
        if (page->versions[v].truncates)
            return; /* its size waits with it */
    while (gone < page->count && page->versions[gone].sequence <= sequence)
        page_data_unref(page->versions[gone++].data);
    if (gone > 0)
        memmove(page->versions, page->versions + gone,
                (page->count - gone) * sizeof(page->versions[0]));
    page->count -= gone;
}

int32_t sim_disk_sync_fails(struct sim_disk *disk, struct sim_inode *inode, uint64_t sequence,
                            struct prng *prng)
{
    disk->faults.errors++;
    for (uint64_t i = 0; i < inode->page_count; i++) {
        uint64_t draw = inode->pages[i].count == 0 ? 0 : prng_below(prng, 3);
        if (draw == 1)
            page_commit(&inode->pages[i], sequence);
        else if (draw == 2)
            page_forget(&inode->pages[i], sequence);
    }
    return -EIO;
}
