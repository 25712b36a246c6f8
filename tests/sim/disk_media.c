/* What is on the medium of a simulated disk for certain: what every power cut would leave. */
#include <errno.h>

#include "tests/sim/disk_private.h"

/* The file that durable names lead to, or NULL. */
static struct sim_inode *durable_file(struct sim_disk *disk, const char *path)
{
    struct sim_inode *at = disk->root;
    while (at != NULL) {
        char name[SIM_NAME_BYTES];
        while (*path == '/')
            path++;
        size_t length = strcspn(path, "/");
        if (length == 0)
            return at->is_directory ? NULL : at;
        if (!at->is_directory || length >= sizeof(name))
            return NULL;
        memcpy(name, path, length);
        name[length] = '\0';
        path += length;
        const struct entry_name *entry = directory_find(at, name);
        at = entry == NULL ? NULL : entry->durable;
    }
    return NULL;
}

bool sim_disk_read_durable(struct sim_disk *disk, const char *path, uint64_t offset, void *to,
                           uint32_t bytes)
{
    const struct sim_inode *inode = durable_file(disk, path);
    if (inode == NULL || offset + bytes > inode->durable_bytes)
        return false;
    for (uint32_t done = 0; done < bytes;) {
        uint64_t number = (offset + done) / SIM_PAGE_BYTES;
        uint32_t inside = (uint32_t)((offset + done) % SIM_PAGE_BYTES);
        uint32_t step = (uint32_t)u64_min(SIM_PAGE_BYTES - inside, bytes - done);
        const struct page_data *data =
            number < inode->page_count ? inode->pages[number].durable : NULL;
        if (data == NULL)
            memset((uint8_t *)to + done, 0, step);
        else
            memcpy((uint8_t *)to + done, data->bytes + inside, step);
        done += step;
    }
    return true;
}

/* ---- damage --------------------------------------------------------------------------------- */

/* Nothing is under way to it, and neither it nor a neighbour is damaged. */
static bool is_sound(const struct sim_inode *inode, uint64_t number)
{
    const struct page *pages = inode->pages;
    return pages[number].count == 0 && !pages[number].damaged &&
           (number == 0 || !pages[number - 1].damaged) &&
           (number + 1 == inode->page_count || !pages[number + 1].damaged);
}

static bool can_be_damaged(const struct sim_inode *inode, uint64_t number)
{
    return inode->pages[number].durable != NULL && is_sound(inode, number);
}

/* One of the pages that can be damaged; UINT64_MAX: there is none. */
static uint64_t pick_page(const struct sim_inode *inode, struct prng *prng)
{
    uint64_t settled = 0, number = 0;
    for (uint64_t i = 0; inode != NULL && i < inode->page_count; i++)
        settled += can_be_damaged(inode, i);
    if (settled == 0)
        return UINT64_MAX;
    for (uint64_t skip = prng_below(prng, settled); !can_be_damaged(inode, number) || skip > 0;
         number++)
        skip -= can_be_damaged(inode, number);
    return number;
}

static void set_damaged(struct page *page)
{
    page->sound = page_data_ref(page->durable);
    page->damaged = true;
}

bool sim_disk_rot(struct sim_disk *disk, const char *path, uint32_t bytes_max, struct prng *prng,
                  uint64_t *offset)
{
    struct sim_inode *inode = durable_file(disk, path);
    uint64_t number = pick_page(inode, prng);
    if (number == UINT64_MAX)
        return false;
    uint8_t bytes[SIM_PAGE_BYTES];
    struct page *page = &inode->pages[number];
    memcpy(bytes, page->durable->bytes, sizeof(bytes));
    uint32_t count = 1 + (uint32_t)prng_below(prng, bytes_max);
    uint32_t first = (uint32_t)prng_below(prng, SIM_PAGE_BYTES - count + 1);
    first >>= 4 * prng_below(prng, 3); /* pages are full in front, and often empty behind */
    for (uint32_t i = first; i < first + count; i++)
        bytes[i] ^= (uint8_t)(1 + prng_below(prng, 255));
    set_damaged(page);
    page_data_unref(page->durable);
    page->durable = page_data_make(bytes);
    *offset = number * SIM_PAGE_BYTES + first;
    return true;
}

bool sim_disk_lose(struct sim_disk *disk, const char *path, struct prng *prng, uint64_t *offset)
{
    struct sim_inode *inode = durable_file(disk, path);
    uint64_t number = pick_page(inode, prng);
    if (number == UINT64_MAX)
        return false;
    set_damaged(&inode->pages[number]);
    inode->pages[number].unreadable = true;
    *offset = number * SIM_PAGE_BYTES;
    return true;
}

bool sim_disk_misdirect(struct sim_disk *disk, const char *path, uint64_t far_pages,
                        struct prng *prng, uint64_t *offset)
{
    struct sim_inode *inode = durable_file(disk, path);
    uint64_t from = pick_page(inode, prng);
    if (from == UINT64_MAX)
        return false;
    uint64_t to = prng_below(prng, inode->page_count);
    if ((from > to ? from - to : to - from) < far_pages || !is_sound(inode, to))
        return false;
    set_damaged(&inode->pages[to]);
    set_damaged(&inode->pages[from]);
    page_data_unref(inode->pages[to].durable);
    inode->pages[to].durable = inode->pages[from].durable;
    inode->pages[from].durable = NULL;
    *offset = from * SIM_PAGE_BYTES;
    return true;
}

bool sim_disk_mend(struct sim_disk *disk, const char *path)
{
    struct sim_inode *inode = durable_file(disk, path);
    bool mended = false;
    for (uint64_t i = 0; inode != NULL && i < inode->page_count; i++) {
        struct page *page = &inode->pages[i];
        if (!page->damaged)
            continue;
        mended = true;
        page_data_unref(page->durable);
        page->durable = page_data_ref(page->sound);
        page_set_sound(page);
    }
    return mended;
}
