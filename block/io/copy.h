/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/io/copy.h: copying from one node to another, for copy-before-write and for jobs.
 *
 * Zeroes stay zeroes. Data is copied by reference where both are in files that can share extents
 * (FICLONERANGE), else by the kernel (copy_file_range), else it is read and written. */
#pragma once
#include "block/node.h"

enum {
    BLK_COPY_COMPRESS = 1,     /* whole clusters are stored compressed (TIDEMARK_COMPRESSED) */
    BLK_COPY_NO_REFERENCE = 2, /* it is read and written, whatever the files can do */
    BLK_COPY_SOON = 4, /* so is what would have to reach the medium before it can be shared */
    /* Only what is in the page cache, through memory, on a loop thread: -EAGAIN: it would wait. */
    BLK_COPY_AT_ONCE = 8,
};

typedef struct BlkCopied {
    uint64_t data;   /* bytes that were data */
    uint64_t cloned; /* those of them that were copied by reference */
    uint64_t zeroes; /* bytes that read as zeroes */
    bool on_source;  /* of a failure: reading failed, else writing did */
} BlkCopied;

/* Copies [offset, offset + length), which lies in both, to the same place of @target. Nothing is
 * written where the source reads as zeroes and the target has zeroes itself, not from a backing,
 * which may be the source. Adds to *copied. 0 or -errno: some of it may have been copied. Nobody
 * may write to the range of @source meanwhile. Blocking lane and threads of jobs, but for
 * AT_ONCE. */
int blk_node_copy(BlkNode *source, BlkNode *target, uint64_t offset, uint64_t length,
                  unsigned flags, BlkCopied *copied);
