#include "tests/sim/disk.h"

#include <errno.h>
#include <stdlib.h>

#include "core/invariant.h"
#include "tests/sim/disk_private.h"
#include "tests/sim/memory.h"

/* ---- pages ---------------------------------------------------------------------------------- */

static bool is_zero(const uint8_t *bytes)
{
    return bytes[0] == 0 && memcmp(bytes, bytes + 1, SIM_PAGE_BYTES - 1) == 0;
}

struct page_data *page_data_make(const void *bytes)
{
    if (is_zero(bytes))
        return NULL;
    struct page_data *data = sim_alloc_dirty(sizeof(*data));
    data->references = 1;
    memcpy(data->bytes, bytes, SIM_PAGE_BYTES);
    return data;
}

void page_data_unref(struct page_data *data)
{
    if (data == NULL)
        return;
    invariant(data->references > 0);
    if (--data->references == 0)
        free(data);
}

static void page_push(struct page *page, uint64_t sequence, struct page_data *data, bool truncates)
{
    if (page->count == page->capacity) {
        page->capacity = page->capacity == 0 ? 2 : page->capacity * 2;
        page->versions = sim_realloc(page->versions, page->capacity * sizeof(page->versions[0]));
    }
    page->versions[page->count++] =
        (struct page_version){.sequence = sequence, .data = data, .truncates = truncates};
}

void page_set_sound(struct page *page)
{
    page_data_unref(page->sound);
    page->sound = NULL;
    page->unreadable = page->damaged = false;
}

/* Versions up to `sequence` are superseded by the last of them, now durable. */
uint32_t page_commit(struct page *page, uint64_t sequence)
{
    uint32_t done = 0;
    while (done < page->count && page->versions[done].sequence <= sequence)
        done++;
    if (done == 0)
        return 0;
    page_data_unref(page->durable);
    for (uint32_t i = 0; i + 1 < done; i++)
        page_data_unref(page->versions[i].data);
    page->durable = page->versions[done - 1].data;
    memmove(page->versions, page->versions + done,
            (page->count - done) * sizeof(page->versions[0]));
    page->count -= done;
    return done;
}

/* A durable write of the whole page: nothing older counts any more. */
static void page_replace(struct page *page, struct page_data *data)
{
    for (uint32_t i = 0; i < page->count; i++)
        page_data_unref(page->versions[i].data);
    page->count = 0;
    page_data_unref(page->durable);
    page->durable = data;
}

void size_commit(struct sim_inode *inode, uint64_t sequence)
{
    uint32_t done = 0;
    while (done < inode->size_count && inode->sizes[done].sequence <= sequence)
        inode->durable_bytes = inode->sizes[done++].bytes;
    if (done == 0)
        return;
    memmove(inode->sizes, inode->sizes + done,
            (inode->size_count - done) * sizeof(inode->sizes[0]));
    inode->size_count -= done;
}

static void size_push(struct sim_inode *inode, uint64_t sequence, uint64_t bytes)
{
    if (inode->size_count == inode->size_capacity) {
        inode->size_capacity = inode->size_capacity == 0 ? 4 : inode->size_capacity * 2;
        inode->sizes = sim_realloc(inode->sizes, inode->size_capacity * sizeof(inode->sizes[0]));
    }
    inode->sizes[inode->size_count++] = (struct size_version){sequence, bytes};
}

/* ---- inodes --------------------------------------------------------------------------------- */

struct sim_inode *inode_create(struct sim_disk *disk, bool is_directory)
{
    struct sim_inode *inode = sim_alloc(sizeof(*inode));
    inode->id = disk->next_inode++;
    inode->is_directory = is_directory;
    inode->next = disk->inodes;
    if (disk->inodes != NULL)
        disk->inodes->previous = inode;
    disk->inodes = inode;
    return inode;
}

static void inode_destroy(struct sim_disk *disk, struct sim_inode *inode)
{
    if (inode->previous != NULL)
        inode->previous->next = inode->next;
    else
        disk->inodes = inode->next;
    if (inode->next != NULL)
        inode->next->previous = inode->previous;
    for (uint64_t i = 0; i < inode->page_count; i++) {
        struct page *page = &inode->pages[i];
        page_data_unref(page->durable);
        page_data_unref(page->sound);
        for (uint32_t v = 0; v < page->count; v++)
            page_data_unref(page->versions[v].data);
        free(page->versions);
    }
    invariant(disk->used_bytes >= inode->allocated_bytes);
    disk->used_bytes -= inode->allocated_bytes;
    for (uint32_t i = 0; i < inode->entry_count; i++) {
        entry_set(disk, &inode->entries[i].durable, NULL);
        entry_set(disk, &inode->entries[i].current, NULL);
    }
    free(inode->pages);
    free(inode->sizes);
    free(inode->entries);
    free(inode);
}

struct sim_inode *inode_ref(struct sim_inode *inode)
{
    if (inode != NULL)
        inode->references++;
    return inode;
}

void inode_unref(struct sim_disk *disk, struct sim_inode *inode)
{
    if (inode == NULL)
        return;
    invariant(inode->references > 0);
    if (--inode->references == 0)
        inode_destroy(disk, inode);
}

void inode_reserve_pages(struct sim_inode *inode, uint64_t count)
{
    if (count <= inode->page_count)
        return;
    inode->pages = sim_realloc(inode->pages, count * sizeof(inode->pages[0]));
    memset(inode->pages + inode->page_count, 0,
           (count - inode->page_count) * sizeof(inode->pages[0]));
    inode->page_count = count;
}

/* ---- names ---------------------------------------------------------------------------------- */

void entry_set(struct sim_disk *disk, struct sim_inode **place, struct sim_inode *to)
{
    struct sim_inode *old = *place;
    *place = inode_ref(to);
    inode_unref(disk, old);
}

struct entry_name *directory_find(struct sim_inode *directory, const char *name)
{
    uint32_t low = 0, high = directory->entry_count;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        int order = strcmp(directory->entries[middle].name, name);
        if (order == 0)
            return &directory->entries[middle];
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

struct entry_name *directory_entry(struct sim_inode *directory, const char *name)
{
    struct entry_name *found = directory_find(directory, name);
    if (found != NULL)
        return found;
    if (directory->entry_count == directory->entry_capacity) {
        directory->entry_capacity =
            directory->entry_capacity == 0 ? 8 : directory->entry_capacity * 2;
        directory->entries =
            sim_realloc(directory->entries, directory->entry_capacity * sizeof(struct entry_name));
    }
    uint32_t at = directory->entry_count++;
    while (at > 0 && strcmp(directory->entries[at - 1].name, name) > 0) {
        directory->entries[at] = directory->entries[at - 1];
        at--;
    }
    memset(&directory->entries[at], 0, sizeof(struct entry_name));
    memcpy(directory->entries[at].name, name, strlen(name) + 1);
    return &directory->entries[at];
}

void directory_tidy(struct sim_inode *directory)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < directory->entry_count; i++) {
        const struct entry_name *entry = &directory->entries[i];
        if (entry->durable != NULL || entry->current != NULL)
            directory->entries[kept++] = *entry;
    }
    directory->entry_count = kept;
}

static struct sim_inode *lookup(struct sim_inode *directory, const char *name)
{
    struct entry_name *entry = directory_find(directory, name);
    return entry == NULL ? NULL : entry->current;
}

/* The directory that holds the last component of `path`, which goes to `name` ("" for the root). */
static int walk(struct sim_disk *disk, const char *path, struct sim_inode **directory, char *name)
{
    struct sim_inode *at = disk->root;
    name[0] = '\0';
    for (;;) {
        while (*path == '/')
            path++;
        if (*path == '\0')
            break;
        size_t length = strcspn(path, "/");
        if (length >= SIM_NAME_BYTES)
            return -ENAMETOOLONG;
        if (name[0] != '\0') { /* what came before must be a directory */
            at = lookup(at, name);
            if (at == NULL)
                return -ENOENT;
        }
        if (!at->is_directory)
            return -ENOTDIR;
        memcpy(name, path, length);
        name[length] = '\0';
        path += length;
    }
    *directory = at;
    return 0;
}

static int resolve(struct sim_disk *disk, const char *path, struct sim_inode **inode)
{
    struct sim_inode *directory;
    char name[SIM_NAME_BYTES];
    int error = walk(disk, path, &directory, name);
    if (error < 0)
        return error;
    *inode = name[0] == '\0' ? directory : lookup(directory, name);
    return *inode == NULL ? -ENOENT : 0;
}

void operation_release(struct sim_disk *disk, struct name_operation *operation)
{
    for (uint32_t i = 0; i < operation->change_count; i++) {
        inode_unref(disk, operation->changes[i].to);
        inode_unref(disk, operation->changes[i].directory);
    }
}

/* Starts an operation; its changes are added, and take effect, at once. */
static void operation_begin(struct sim_disk *disk)
{
    if (disk->operation_count == disk->operation_capacity) {
        disk->operation_capacity =
            disk->operation_capacity == 0 ? 16 : disk->operation_capacity * 2;
        disk->operations =
            sim_realloc(disk->operations, disk->operation_capacity * sizeof(disk->operations[0]));
    }
    disk->operations[disk->operation_count++] =
        (struct name_operation){.sequence = ++disk->sequence};
}

static void operation_change(struct sim_disk *disk, struct sim_inode *directory, const char *name,
                             struct sim_inode *to)
{
    struct name_operation *operation = &disk->operations[disk->operation_count - 1];
    struct name_change *change = &operation->changes[operation->change_count++];
    change->directory = inode_ref(directory);
    change->to = inode_ref(to);
    memcpy(change->name, name, strlen(name) + 1);
    entry_set(disk, &directory_entry(directory, name)->current, to);
}

static bool operations_share_a_name(const struct name_operation *a, const struct name_operation *b)
{
    for (uint32_t i = 0; i < a->change_count; i++)
        for (uint32_t j = 0; j < b->change_count; j++)
            if (a->changes[i].directory == b->changes[j].directory &&
                strcmp(a->changes[i].name, b->changes[j].name) == 0)
                return true;
    return false;
}

/* A directory's sync takes with it what those of its operations build on. */
static void sync_directory(struct sim_disk *disk, const struct sim_inode *directory,
                           uint64_t sequence)
{
    for (uint32_t i = disk->operation_count; i-- > 0;) {
        struct name_operation *operation = &disk->operations[i];
        operation->marked = false;
        for (uint32_t c = 0; c < operation->change_count; c++)
            operation->marked |=
                operation->sequence <= sequence && operation->changes[c].directory == directory;
        for (uint32_t later = i + 1; !operation->marked && later < disk->operation_count; later++)
            operation->marked = disk->operations[later].marked &&
                                operations_share_a_name(operation, &disk->operations[later]);
    }
    uint32_t kept = 0;
    for (uint32_t i = 0; i < disk->operation_count; i++) {
        struct name_operation operation = disk->operations[i];
        if (!operation.marked) {
            disk->operations[kept++] = operation;
            continue;
        }
        for (uint32_t c = 0; c < operation.change_count; c++) {
            struct name_change *change = &operation.changes[c];
            entry_set(disk, &directory_entry(change->directory, change->name)->durable, change->to);
            directory_tidy(change->directory);
        }
        operation_release(disk, &operation);
    }
    disk->operation_count = kept;
}

/* ---- life ----------------------------------------------------------------------------------- */

struct sim_disk *sim_disk_create(uint64_t capacity_bytes, uint32_t sector_bytes)
{
    invariant(sector_bytes == 512 || sector_bytes == SIM_PAGE_BYTES);
    struct sim_disk *disk = sim_alloc(sizeof(*disk));
    disk->capacity_bytes = capacity_bytes;
    disk->sector_bytes = sector_bytes;
    disk->next_inode = 1;
    disk->root = inode_ref(inode_create(disk, true));
    return disk;
}

void sim_disk_destroy(struct sim_disk *disk)
{
    for (uint32_t i = 0; i < disk->operation_count; i++)
        operation_release(disk, &disk->operations[i]);
    inode_unref(disk, disk->root);
    invariant(disk->inodes == NULL);
    free(disk->operations);
    free(disk);
}

uint64_t sim_disk_sequence(const struct sim_disk *disk)
{
    return disk->sequence;
}

/* ---- open files ----------------------------------------------------------------------------- */

int sim_disk_open(struct sim_disk *disk, const char *path, uint32_t flags, struct sim_file **opened)
{
    struct sim_inode *directory;
    char name[SIM_NAME_BYTES];
    int error = walk(disk, path, &directory, name);
    if (error < 0)
        return error;
    struct sim_inode *inode = name[0] == '\0' ? directory : lookup(directory, name);
    if (inode != NULL && (flags & IO_OPEN_CREATE) != 0 && (flags & IO_OPEN_EXCLUSIVE) != 0)
        return -EEXIST;
    if (inode != NULL && inode->is_directory && (flags & IO_OPEN_WRITE) != 0)
        return -EISDIR;
    if (inode == NULL && (flags & IO_OPEN_CREATE) == 0)
        return -ENOENT;
    if (inode == NULL) {
        inode = inode_create(disk, false);
        operation_begin(disk);
        operation_change(disk, directory, name, inode);
    } else if ((flags & IO_OPEN_TRUNCATE) != 0 && inode_bytes(inode) > 0) {
        error = sim_disk_truncate(disk, inode, 0);
        invariant(error == 0);
    }
    struct sim_file *file = sim_alloc(sizeof(*file));
    *file = (struct sim_file){.inode = inode_ref(inode), .flags = flags, .references = 1};
    *opened = file;
    return 0;
}

void sim_file_release(struct sim_disk *disk, struct sim_file *file)
{
    invariant(file->references > 0);
    if (--file->references > 0)
        return;
    if (file->inode->locked_by == file)
        file->inode->locked_by = NULL;
    inode_unref(disk, file->inode);
    free(file);
}

bool sim_disk_lock(struct sim_disk *disk, struct sim_file *file)
{
    (void)disk;
    if (file->inode->locked_by != NULL && file->inode->locked_by != file)
        return false;
    file->inode->locked_by = file;
    return true;
}

int32_t sim_disk_check_span(const struct sim_file *file, struct io_span span, bool write)
{
    if ((file->flags & (uint32_t)(write ? IO_OPEN_WRITE : IO_OPEN_READ)) == 0)
        return -EBADF;
    if (file->inode->is_directory)
        return -EISDIR;
    if ((file->flags & IO_OPEN_DIRECT) != 0 &&
        ((uintptr_t)span.base % IO_ALIGN_BYTES != 0 || span.offset % IO_ALIGN_BYTES != 0 ||
         span.bytes % IO_ALIGN_BYTES != 0))
        return -EINVAL;
    return 0;
}

static bool has_unreadable_page(const struct sim_inode *inode, uint64_t offset, uint32_t bytes)
{
    uint64_t end =
        u64_min((offset + bytes + SIM_PAGE_BYTES - 1) / SIM_PAGE_BYTES, inode->page_count);
    for (uint64_t number = offset / SIM_PAGE_BYTES; number < end; number++)
        if (inode->pages[number].unreadable)
            return true;
    return false;
}

int32_t sim_disk_read(struct sim_disk *disk, struct sim_file *file, struct io_span span)
{
    const struct sim_inode *inode = file->inode;
    uint64_t size = inode_bytes(inode);
    if (span.offset >= size)
        return 0;
    uint32_t total = (uint32_t)u64_min(span.bytes, size - span.offset);
    if (has_unreadable_page(inode, span.offset, total)) {
        disk->faults.errors++;
        return -EIO;
    }
    for (uint32_t done = 0; done < total;) {
        uint64_t number = (span.offset + done) / SIM_PAGE_BYTES;
        uint32_t inside = (uint32_t)((span.offset + done) % SIM_PAGE_BYTES);
        uint32_t step = (uint32_t)u64_min(SIM_PAGE_BYTES - inside, total - done);
        const struct page_data *data =
            number < inode->page_count ? page_current(&inode->pages[number]) : NULL;
        if (data == NULL)
            memset((uint8_t *)span.base + done, 0, step);
        else
            memcpy((uint8_t *)span.base + done, data->bytes + inside, step);
        done += step;
    }
    return (int32_t)total;
}

static uint64_t limit_bytes(const struct sim_disk *disk)
{
    return disk->faults.limit_bytes == 0 ? disk->capacity_bytes : disk->faults.limit_bytes;
}

/* Counts what the file will occupy; -ENOSPC when the disk is full. */
static int32_t occupy(struct sim_disk *disk, struct sim_inode *inode, uint64_t end)
{
    uint64_t wanted = u64_round_up(end, SIM_PAGE_BYTES);
    if (wanted <= inode->allocated_bytes)
        return 0;
    uint64_t more = wanted - inode->allocated_bytes;
    if (disk->used_bytes + more > limit_bytes(disk)) {
        disk->faults.errors++;
        return -ENOSPC;
    }
    disk->used_bytes += more;
    inode->allocated_bytes = wanted;
    return 0;
}

/* As much of a write as there is room for; all of it, when there is for nothing. */
static uint32_t writable_bytes(const struct sim_disk *disk, const struct sim_inode *inode,
                               const struct io_span *span)
{
    uint64_t limit = limit_bytes(disk);
    uint64_t room = limit > disk->used_bytes ? limit - disk->used_bytes : 0;
    uint64_t end = (inode->allocated_bytes + room) / SIM_PAGE_BYTES * SIM_PAGE_BYTES;
    if (end <= span->offset)
        return span->bytes;
    return (uint32_t)u64_min(span->bytes, end - span->offset);
}

int32_t sim_disk_write(struct sim_disk *disk, struct sim_inode *inode, struct io_span span,
                       bool durable)
{
    span.bytes = writable_bytes(disk, inode, &span);
    uint64_t end = span.offset + span.bytes;
    int32_t error = occupy(disk, inode, end);
    if (error < 0)
        return error;
    uint64_t sequence = ++disk->sequence;
    inode_reserve_pages(inode, (end + SIM_PAGE_BYTES - 1) / SIM_PAGE_BYTES);
    if (end > inode_bytes(inode))
        size_push(inode, sequence, end);
    uint8_t scratch[SIM_PAGE_BYTES];
    for (uint32_t done = 0; done < span.bytes;) {
        struct page *page = &inode->pages[(span.offset + done) / SIM_PAGE_BYTES];
        uint32_t inside = (uint32_t)((span.offset + done) % SIM_PAGE_BYTES);
        uint32_t step = (uint32_t)u64_min(SIM_PAGE_BYTES - inside, span.bytes - done);
        const uint8_t *bytes = (const uint8_t *)span.base + done;
        if (step < SIM_PAGE_BYTES) {
            const struct page_data *old = page_current(page);
            if (old == NULL)
                memset(scratch, 0, sizeof(scratch));
            else
                memcpy(scratch, old->bytes, sizeof(scratch));
            memcpy(scratch + inside, bytes, step);
            bytes = scratch;
        }
        page_set_sound(page);
        if (durable)
            page_replace(page, page_data_make(bytes));
        else
            page_push(page, sequence, page_data_make(bytes), false);
        done += step;
    }
    if (durable)
        size_commit(inode, sequence);
    return (int32_t)span.bytes;
}

void sim_disk_sync(struct sim_disk *disk, struct sim_inode *inode, uint64_t sequence)
{
    if (inode->is_directory) {
        sync_directory(disk, inode, sequence);
        return;
    }
    for (uint64_t i = 0; i < inode->page_count; i++)
        page_commit(&inode->pages[i], sequence);
    size_commit(inode, sequence);
}

int32_t sim_disk_allocate(struct sim_disk *disk, struct sim_inode *inode, uint64_t offset,
                          uint64_t bytes)
{
    int32_t error = occupy(disk, inode, offset + bytes);
    if (error < 0)
        return error;
    uint64_t sequence = ++disk->sequence;
    inode_reserve_pages(inode, (offset + bytes + SIM_PAGE_BYTES - 1) / SIM_PAGE_BYTES);
    if (offset + bytes > inode_bytes(inode))
        size_push(inode, sequence, offset + bytes);
    return 0;
}

int32_t sim_disk_truncate(struct sim_disk *disk, struct sim_inode *inode, uint64_t bytes)
{
    uint64_t sequence = ++disk->sequence;
    uint64_t old_bytes = inode_bytes(inode);
    size_push(inode, sequence, bytes);
    for (uint64_t number = bytes / SIM_PAGE_BYTES; bytes < old_bytes && number < inode->page_count;
         number++) {
        struct page *page = &inode->pages[number];
        const struct page_data *old = page_current(page);
        if (old == NULL)
            continue;
        uint8_t scratch[SIM_PAGE_BYTES] = {0};
        if (number == bytes / SIM_PAGE_BYTES)
            memcpy(scratch, old->bytes, bytes % SIM_PAGE_BYTES);
        page_push(page, sequence, page_data_make(scratch), true);
    }
    return 0;
}

/* ---- operations on names -------------------------------------------------------------------- */

int32_t sim_disk_rename(struct sim_disk *disk, const char *from, const char *to)
{
    struct sim_inode *directories[2];
    char names[2][SIM_NAME_BYTES];
    int error = walk(disk, from, &directories[0], names[0]);
    if (error == 0)
        error = walk(disk, to, &directories[1], names[1]);
    if (error < 0)
        return error;
    struct sim_inode *inode = lookup(directories[0], names[0]);
    struct sim_inode *target = lookup(directories[1], names[1]);
    if (inode == NULL)
        return -ENOENT;
    if (inode == target)
        return 0;
    if (target != NULL && target->is_directory)
        return -EISDIR;
    operation_begin(disk);
    operation_change(disk, directories[1], names[1], inode);
    operation_change(disk, directories[0], names[0], NULL);
    return 0;
}

static int32_t remove_name(struct sim_disk *disk, const char *path, bool directory_wanted)
{
    struct sim_inode *directory;
    char name[SIM_NAME_BYTES];
    int error = walk(disk, path, &directory, name);
    if (error < 0)
        return error;
    struct sim_inode *inode = lookup(directory, name);
    if (inode == NULL)
        return -ENOENT;
    if (inode->is_directory != directory_wanted)
        return directory_wanted ? -ENOTDIR : -EISDIR;
    for (uint32_t i = 0; i < inode->entry_count; i++)
        if (inode->entries[i].current != NULL)
            return -ENOTEMPTY;
    operation_begin(disk);
    operation_change(disk, directory, name, NULL);
    return 0;
}

int32_t sim_disk_unlink(struct sim_disk *disk, const char *path)
{
    return remove_name(disk, path, false);
}

int32_t sim_disk_remove_directory(struct sim_disk *disk, const char *path)
{
    return remove_name(disk, path, true);
}

int32_t sim_disk_link(struct sim_disk *disk, const char *from, const char *to)
{
    struct sim_inode *inode, *directory;
    char name[SIM_NAME_BYTES];
    int error = resolve(disk, from, &inode);
    if (error == 0)
        error = walk(disk, to, &directory, name);
    if (error < 0)
        return error;
    if (lookup(directory, name) != NULL)
        return -EEXIST;
    operation_begin(disk);
    operation_change(disk, directory, name, inode);
    return 0;
}

int32_t sim_disk_make_directory(struct sim_disk *disk, const char *path)
{
    struct sim_inode *directory;
    char name[SIM_NAME_BYTES];
    int error = walk(disk, path, &directory, name);
    if (error < 0)
        return error;
    if (name[0] == '\0' || lookup(directory, name) != NULL)
        return -EEXIST;
    operation_begin(disk);
    operation_change(disk, directory, name, inode_create(disk, true));
    return 0;
}

int32_t sim_disk_stat(struct sim_disk *disk, const char *path, struct io_stat *stat)
{
    struct sim_inode *inode;
    int error = resolve(disk, path, &inode);
    if (error < 0)
        return error;
    *stat = (struct io_stat){.bytes = inode_bytes(inode),
                             .bytes_allocated = inode->allocated_bytes,
                             .is_directory = inode->is_directory};
    return 0;
}

int sim_disk_list(struct sim_disk *disk, const char *path,
                  void (*each)(void *context, const char *name), void *context)
{
    struct sim_inode *inode;
    int error = resolve(disk, path, &inode);
    if (error < 0)
        return error;
    if (!inode->is_directory)
        return -ENOTDIR;
    for (uint32_t i = 0; i < inode->entry_count; i++)
        if (inode->entries[i].current != NULL)
            each(context, inode->entries[i].name);
    return 0;
}

void sim_disk_space(const struct sim_disk *disk, uint64_t *free_bytes, uint64_t *total_bytes)
{
    uint64_t limit = limit_bytes(disk);
    *free_bytes = limit > disk->used_bytes ? limit - disk->used_bytes : 0;
    *total_bytes = disk->capacity_bytes;
}
