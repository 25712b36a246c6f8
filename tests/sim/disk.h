/*
 * disk.h - a simulated disk: directories, files in pages, and what of them a power cut keeps.
 *
 * Story     Every page of a file has its durable content and the versions written since, each with
 *           the disk's sequence number; so have sizes; names wait in a list of operations. A sync
 *           makes durable what was complete when it was submitted, a durable write its own range,
 *           nothing else ever. sim_disk_power_cut() then builds the disk that comes back: each
 *           sector of each page is any one of its versions, each waiting name operation happened or
 *           not (one that follows another on the same name only if that one did too).
 * Owner     The test, across incarnations of its node.
 * Threads   One.
 * Units     Bytes. Pages are SIM_PAGE_BYTES; sectors 512 or 4096, by seed.
 * Errors    As the kernel: -ENOENT, -EEXIST, -EISDIR, -ENOTDIR, -ENOTEMPTY, -EINVAL, -EBADF,
 *           -ENOSPC; a write for which there is some room is cut short.
 */
#ifndef TESTS_SIM_DISK_H
#define TESTS_SIM_DISK_H

#include "core/prng.h"
#include "core/reactor.h"

#define SIM_PAGE_BYTES ((uint32_t)4096)
#define SIM_NAME_BYTES 96

struct sim_inode; /* a file or a directory */
struct sim_disk;

/* An open file. Requests in flight hold it as well as its descriptor. */
struct sim_file {
    struct sim_inode *inode;
    uint32_t flags; /* enum io_open_flags */
    uint32_t references;
};

struct sim_disk *sim_disk_create(uint64_t capacity_bytes, uint32_t sector_bytes);
void sim_disk_destroy(struct sim_disk *disk); /* no file is open */

/* The same disk once more, waiting changes included; pages are shared until written. Only
 * sim_requests_land() and sim_disk_power_cut() may follow, in that order. */
struct sim_disk *sim_disk_clone(const struct sim_disk *disk);

/* The inode of `disk` that corresponds to one of the disk it was cloned from. */
struct sim_inode *sim_disk_cloned(struct sim_inode *original);

/* Every later change has a larger sequence. */
uint64_t sim_disk_sequence(const struct sim_disk *disk);

must_check int sim_disk_open(struct sim_disk *disk, const char *path, uint32_t flags,
                             struct sim_file **file);
void sim_file_release(struct sim_disk *disk, struct sim_file *file);

int32_t sim_disk_read(struct sim_disk *disk, struct sim_file *file, struct io_span span);
/* `durable`: IO_WRITE_DURABLE. The checks of sim_disk_check_span() were made before. */
int32_t sim_disk_write(struct sim_disk *disk, struct sim_inode *inode, struct io_span span,
                       bool durable);
int32_t sim_disk_check_span(const struct sim_file *file, struct io_span span, bool write);
/* Up to `sequence`. */
void sim_disk_sync(struct sim_disk *disk, struct sim_inode *inode, uint64_t sequence);
int32_t sim_disk_allocate(struct sim_disk *disk, struct sim_inode *inode, uint64_t offset,
                          uint64_t bytes);
int32_t sim_disk_truncate(struct sim_disk *disk, struct sim_inode *inode, uint64_t bytes);

int32_t sim_disk_rename(struct sim_disk *disk, const char *from, const char *to);
int32_t sim_disk_unlink(struct sim_disk *disk, const char *path);
int32_t sim_disk_link(struct sim_disk *disk, const char *from, const char *to);
int32_t sim_disk_make_directory(struct sim_disk *disk, const char *path);
int32_t sim_disk_remove_directory(struct sim_disk *disk, const char *path);
int32_t sim_disk_stat(struct sim_disk *disk, const char *path, struct io_stat *stat);
int sim_disk_list(struct sim_disk *disk, const char *path,
                  void (*each)(void *context, const char *name), void *context);
void sim_disk_space(const struct sim_disk *disk, uint64_t *free_bytes, uint64_t *total_bytes);
bool sim_disk_lock(struct sim_disk *disk, struct sim_file *file); /* false: somebody holds it */

/* ---- faults while it runs (disk_faults.c) ------------------------------------------------*/

/* What the disk does to requests from now on; all zero: nothing. */
struct sim_disk_faults {
    uint32_t slow_factor;     /* each takes so many times as long; 0: as usual */
    uint32_t error_per_mille; /* of writes, syncs and allocations fail with -EIO */
    uint64_t limit_bytes;     /* nothing more may be occupied, -ENOSPC; 0: the disk's capacity */
    uint64_t errors;          /* how many requests failed, ever, for one of these reasons */
};
struct sim_disk_faults *sim_disk_faults(struct sim_disk *disk);

/* Answer -EIO. Of the write some pages in front may have arrived, as if not durable. */
int32_t sim_disk_write_fails(struct sim_disk *disk, struct sim_inode *inode, struct io_span span,
                             struct prng *prng);
/* Each page that waits is durable, or forgotten (the disk's old content shows again, and a later
 * sync says nothing of it), or waits on. */
int32_t sim_disk_sync_fails(struct sim_disk *disk, struct sim_inode *inode, uint64_t sequence,
                            struct prng *prng);

/* ---- power cuts ----------------------------------------------------------------------------- */

enum sim_loss {
    SIM_LOSS_ALL,     /* nothing that was not durable survives */
    SIM_LOSS_NONE,    /* everything that was written does, what was in flight too */
    SIM_LOSS_SECTORS, /* each sector and each name by itself */
    SIM_LOSS_ORDERED, /* all up to a moment, nothing after it */
    SIM_LOSS_TORN,    /* sectors, some cut in the middle; names all kept */
    SIM_LOSS_NAMES,   /* data all kept; each name by itself */
    SIM_LOSS_DATA,    /* names and sizes all kept, no data that was not durable */
    SIM_LOSS_COUNT
};
const char *sim_loss_name(enum sim_loss loss);

/* Whether an operation in flight at the cut takes effect at all (its sectors may still be lost). */
bool sim_loss_keeps_in_flight(enum sim_loss loss, struct prng *prng);

/* Turns `disk` into what comes back after the cut. No file is open any more. */
void sim_disk_power_cut(struct sim_disk *disk, enum sim_loss loss, struct prng *prng);

/* What of a file would survive any power cut now, for checkers: its bytes under names that are
 * durable too; what cannot be read counts as well. False: not so much of it. */
bool sim_disk_read_durable(struct sim_disk *disk, const char *path, uint64_t offset, void *to,
                           uint32_t bytes);

/* Damage, to a page of the file that holds something durable, with nothing newer under way and no
 * damage to it or beside it since these were written; false: there is none. `offset` says where.
 *
 * Rot: up to `bytes_max` bytes turn into others. Lost: reads of the page say -EIO, until it is
 * written again. Misdirected: as if its write had gone elsewhere in
 * the file: zeros are here, and what it holds is `far_pages` or more from here, over something
 * else. */
bool sim_disk_rot(struct sim_disk *disk, const char *path, uint32_t bytes_max, struct prng *prng,
                  uint64_t *offset);
bool sim_disk_lose(struct sim_disk *disk, const char *path, struct prng *prng, uint64_t *offset);
bool sim_disk_misdirect(struct sim_disk *disk, const char *path, uint64_t far_pages,
                        struct prng *prng, uint64_t *offset);

/* As if all that had not happened to what is still there of a file; false: it had not. */
bool sim_disk_mend(struct sim_disk *disk, const char *path);

/* A hash of all names, sizes and bytes, durable or not. */
uint64_t sim_disk_hash(const struct sim_disk *disk);

#endif
