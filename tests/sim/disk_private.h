/*
 * disk_private.h - the structures of the simulated disk, shared by disk.c (files and names),
 * disk_crash.c (clones and power cuts), disk_media.c (what is at rest) and disk_faults.c.
 *
 * Invariants
 *   D1  versions of a page, sizes of a file and waiting name operations ascend by sequence.
 *   D2  an inode lives while a name (durable or current), a waiting operation, or an open file
 *       refers to it: `references` counts these.
 *   D3  page data is never changed once a second reference to it exists.
 */
#ifndef TESTS_SIM_DISK_PRIVATE_H
#define TESTS_SIM_DISK_PRIVATE_H

#include "tests/sim/disk.h"

struct page_data { /* NULL stands for zeros */
    uint32_t references;
    uint8_t bytes[SIM_PAGE_BYTES];
};

struct page_version {
    uint64_t sequence;
    struct page_data *data;
    bool truncates; /* exists only if the size of the same sequence does */
};

struct page {
    struct page_data *durable;
    struct page_version *versions;
    uint32_t count, capacity;
    struct page_data *sound;  /* what it held before it was damaged */
    bool unreadable, damaged; /* until it is written again, or mended */
};

struct size_version {
    uint64_t sequence, bytes;
};

struct entry_name {
    char name[SIM_NAME_BYTES];
    struct sim_inode *durable, *current;
};

struct sim_inode {
    uint64_t id;
    bool is_directory;
    bool is_kept; /* of a clone, until its cut: one reference is the clone's own */
    uint32_t references;
    struct sim_inode *next, *previous; /* of the disk */
    struct sim_inode *clone;           /* in the disk cloned last */

    /* a file */
    struct page *pages;
    uint64_t page_count;
    uint64_t durable_bytes;
    struct size_version *sizes;
    uint32_t size_count, size_capacity;
    uint64_t allocated_bytes;
    const struct sim_file *locked_by;

    /* a directory, in byte order */
    struct entry_name *entries;
    uint32_t entry_count, entry_capacity;
};

struct name_change {
    struct sim_inode *directory;
    char name[SIM_NAME_BYTES];
    struct sim_inode *to; /* NULL: the name goes */
};

struct name_operation {
    uint64_t sequence;
    uint32_t change_count;
    struct name_change changes[2];
    bool marked;
};

struct sim_disk {
    uint64_t sequence;
    uint64_t next_inode;
    uint64_t capacity_bytes, used_bytes;
    uint32_t sector_bytes;
    struct sim_disk_faults faults;
    struct sim_inode *inodes;
    struct sim_inode *root;
    struct name_operation *operations;
    uint32_t operation_count, operation_capacity;
};

struct page_data *page_data_make(const void *bytes); /* NULL when all are zero */
void page_data_unref(struct page_data *data);

static inline struct page_data *page_data_ref(struct page_data *data)
{
    if (data != NULL)
        data->references++;
    return data;
}

static inline struct page_data *page_current(const struct page *page)
{
    return page->count > 0 ? page->versions[page->count - 1].data : page->durable;
}

static inline uint64_t inode_bytes(const struct sim_inode *inode)
{
    return inode->size_count > 0 ? inode->sizes[inode->size_count - 1].bytes : inode->durable_bytes;
}

struct sim_inode *inode_create(struct sim_disk *disk, bool is_directory);
struct sim_inode *inode_ref(struct sim_inode *inode);
void inode_unref(struct sim_disk *disk, struct sim_inode *inode);
void inode_reserve_pages(struct sim_inode *inode, uint64_t count);
struct entry_name *directory_find(struct sim_inode *directory, const char *name);
struct entry_name *directory_entry(struct sim_inode *directory, const char *name); /* or adds */
void directory_tidy(struct sim_inode *directory); /* drops entries that nothing refers to */
void entry_set(struct sim_disk *disk, struct sim_inode **place, struct sim_inode *to);
void operation_release(struct sim_disk *disk, struct name_operation *operation);
void page_set_sound(struct page *page); /* as it is now */
uint32_t page_commit(struct page *page, uint64_t sequence);
void size_commit(struct sim_inode *inode, uint64_t sequence);

#endif
