/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/file/file.h: one open file or block device, shared by the parts of the file driver.
 *
 *   file.c          options, opening, what it is, map
 *   lock.c     who else may have it open
 *   io.c       reading, writing and flushing where map's answer won't do
 *   space.c    zeroing, discarding, caching, resizing
 *   extents.c  what is data and what is hole, remembered
 *
 * Everything but the atomics is set while opening and changed by resize only, both of which run
 * with no I/O under way. */
#pragma once
#include "block/drivers/file/extents.h"
#include "include/tidemark/driver.h"
#include "util/sys.h"

#include <glib.h>
#include <pthread.h>
#include <stdbool.h>

/* What the medium turned out not to support; bits of FileDisk.lacks. */
#define FILE_LACKS_ZERO_RANGE 1u
#define FILE_LACKS_PUNCH      2u

typedef struct FileDisk {
    const TmSys *sys;           /* borrowed */
    struct tidemark_node *node; /* the host's, for error() in resize */
    char *path;
    int fd;
    int tail_fd; /* direct: buffered descriptor for the odd bytes at the end; -1 until needed */
    bool device; /* a block device, not a regular file */
    bool read_only, direct, unmap, no_flush, uring;
    bool nowait;               /* RWF_NOWAIT works */
    bool locking;              /* takes the bytes of lock.c */
    unsigned used, unshared;   /* those that it has: BLK_PERM_* */
    uint64_t size;             /* bytes */
    uint32_t align;            /* direct: of offset, length and memory; else 1 */
    uint32_t sector;           /* device: its logical block; else 1 */
    unsigned lacks;            /* atomic */
    pthread_mutex_t sync_lock; /* guards the five below; a leaf */
    pthread_cond_t synced;     /* one sync has ended */
    uint64_t sync_wanted;      /* flushes that have begun */
    uint64_t sync_done;        /* of these, how many the syncs that succeeded have served */
    bool syncing;
    int sync_error;              /* a positive errno once a sync failed */
    pthread_mutex_t bounce_lock; /* serialises read-modify-write; a leaf, held over I/O */
    FileExtents extents;
} FileDisk;

/* ---- lock.c */
/* Whether there are such locks: 0 or -errno; -ENOTSUP if the file system has none, and then the
 * host has the error. */
int blk_file_locks_probe(FileDisk *file);
/* As BlkLocks of block/permissions.h: QEMU's bytes. */
int blk_file_locks_take(void *handle, unsigned needs, unsigned unshared);
void blk_file_locks_keep(void *handle, unsigned needs, unsigned unshared);

/* ---- io.c: the driver's callbacks */
int blk_file_pread(void *handle, void *buf, uint64_t offset, uint64_t length, uint32_t flags);
int blk_file_pwrite(void *handle, const void *buf, uint64_t offset, uint64_t length,
                    uint32_t flags);
int blk_file_flush(void *handle);
/* The end of what O_DIRECT reaches; beyond it only tail_fd does. */
uint64_t blk_file_direct_end(const FileDisk *file);
/* Opens tail_fd if the size needs it. 0 or -errno. Main thread, no I/O under way. */
int blk_file_open_tail(FileDisk *file);

/* ---- space.c: the driver's callbacks */
int blk_file_write_zeroes(void *handle, uint64_t offset, uint64_t length, uint32_t flags);
int blk_file_discard(void *handle, uint64_t offset, uint64_t length);
int blk_file_cache(void *handle, uint64_t offset, uint64_t length);
int blk_file_resize(void *handle, uint64_t size);
