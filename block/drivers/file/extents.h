/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/file/extents.h: which parts of a file are data and which are holes, asked of the
 * kernel once and remembered until they change.
 *
 * Right only as long as every change goes through here: zeroing and discarding by the driver call
 * invalidate(), resizing calls resize(), and writing through the descriptor calls wrote(). The
 * driver's locks keep other programs that respect them from writing; what one that doesn't changes
 * is seen when the file is opened again.
 *
 * Memory is bounded: a table that is made at the first look-up (at most 256 KiB) and at most
 * FILE_EXTENTS_MAX runs of 8 bytes, beyond which windows give way in turn.
 *
 * Threads: init and free when nobody else is there, resize with no change under way; the rest from
 * any. */
#pragma once
#include "util/sys.h"

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FILE_EXTENTS_MAX ((size_t)512 * 1024) /* runs */

typedef struct FileWindow FileWindow;

typedef struct FileExtents {
    const TmSys *sys;     /* borrowed */
    int fd;               /* borrowed */
    bool opaque;          /* atomic: the file system doesn't say: all is data */
    uint64_t size;        /* atomic; changes with no change under way, under the lock */
    unsigned shift;       /* a window is 1 << shift bytes; likewise */
    unsigned asking;      /* atomic: look-ups that are asking the kernel now */
    FileWindow *windows;  /* atomic; NULL until the first look-up */
    pthread_mutex_t lock; /* guards all below and the windows' runs; a leaf, no I/O under it */
    uint64_t sequence;    /* counts changes */
    uint64_t resized;     /* the sequence of the last resize */
    size_t runs, hand;    /* remembered in all; the next window to give way */
} FileExtents;

void blk_file_extents_init(FileExtents *x, const TmSys *sys, int fd, uint64_t size);
void blk_file_extents_free(FileExtents *x);
/* The file has a new size: nothing is remembered. */
void blk_file_extents_resize(FileExtents *x, uint64_t size);

/* What @offset, below the size, lies in: *data, and how far that goes on, at most @length. 0 or
 * -errno. May ask the kernel, which doesn't wait for the medium for long. */
int blk_file_extents_lookup(FileExtents *x, uint64_t offset, uint64_t length, bool *data,
                            uint64_t *run);

/* Data is written to the range: call before and after. Where data was known to be, or nothing is
 * remembered, it costs a few loads. */
void blk_file_extents_wrote(FileExtents *x, uint64_t offset, uint64_t length);
/* The range is zeroed or freed: call before and after. */
void blk_file_extents_invalidate(FileExtents *x, uint64_t offset, uint64_t length);
