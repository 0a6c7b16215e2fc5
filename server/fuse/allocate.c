/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/fuse/allocate.c: fallocate: holes, zeroes, space for what is written later. */
#define FUSE_USE_VERSION 34
#include "server/fuse/fuse_internal.h"

#include "util/range.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>

/* ---- space */

/* Only a file itself has that. */
static void reserve(BlkWork *work)
{
    FexpRequest *r = (FexpRequest *)((char *)work - offsetof(FexpRequest, work));
    BlkUser *disk = r->x->disk;
    BlkNode *node = blk_user_node(disk);
    uint64_t size = blk_node_size(node), offset = r->blk.offset;
    int result = 0;

    if (offset < size)
        result = blk_node_reserve(node, offset, tm_min(r->blk.length, size - offset));
    blk_user_worked(disk);
    fexp_answer(r, result);
}

static void start_reserve(FexpRequest *r)
{
    r->work = (BlkWork){ .run = reserve, .background = blk_export_background(r->x->blk) };
    blk_user_work(r->x->disk, &r->work);
}

/* ---- by mode */

/* Of the range, what is within the disk. The mode has been checked. */
static void allocate(FexpRequest *r)
{
    uint64_t size = fexp_size(r->x), offset = r->blk.offset;

    if (!(r->mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)))
        start_reserve(r);
    else if (offset >= size)
        fexp_answer(r, 0);
    else
        fexp_zero(r, offset, tm_min(r->blk.length, size - offset), r->mode & FALLOC_FL_PUNCH_HOLE);
}

static void resized(FexpRequest *r, int result)
{
    if (result < 0)
        fexp_answer(r, result);
    else
        allocate(r);
}

static int check(const FexpExport *x, int mode, off_t offset, off_t length)
{
    if (!x->writable)
        return EACCES;
    if (offset < 0 || length <= 0 || (mode & FALLOC_FL_PUNCH_HOLE && !(mode & FALLOC_FL_KEEP_SIZE)))
        return EINVAL;
    if ((uint64_t)offset + (uint64_t)length > TM_SIZE_MAX)
        return EFBIG;
    switch (mode & ~FALLOC_FL_KEEP_SIZE) {
    case 0:
    case FALLOC_FL_PUNCH_HOLE:
    case FALLOC_FL_ZERO_RANGE:
        return 0;
    default:
        return EOPNOTSUPP;
    }
}

void fexp_op_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t offset, off_t length,
                       struct fuse_file_info *info)
{
    FexpExport *x = fuse_req_userdata(req);
    int err = check(x, mode, offset, length);
    uint64_t end = (uint64_t)offset + (uint64_t)length;
    FexpRequest *r;

    if (err) {
        fuse_reply_err(req, err);
        return;
    }
    r = fexp_request_new(req);
    if (!r)
        return;
    r->mode = mode;
    r->blk.offset = (uint64_t)offset;
    r->blk.length = (uint64_t)length;
    if (!(mode & FALLOC_FL_KEEP_SIZE) && end > fexp_size(x))
        fexp_resize(r, end, true, resized);
    else
        allocate(r);
}
