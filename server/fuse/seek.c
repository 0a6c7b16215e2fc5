/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/fuse/seek.c: SEEK_DATA and SEEK_HOLE: what is known to read as zeroes is a hole.
 *
 * Workers ask, as the answer may wait for a server. After some look-ups a search gives way to
 * others, and goes on after them. */
#define FUSE_USE_VERSION 34
#include "server/fuse/fuse_internal.h"

#include <errno.h>
#include <unistd.h>

#define RUNS  512
#define TURNS 16 /* questions for RUNS runs */

/* Goes on from r->size; whether that is the place now, or an error the answer. */
static bool search(FexpRequest *r, BlkNode *node, int *result)
{
    uint64_t end = blk_node_size(node), described;
    TmExtent list[RUNS];

    for (unsigned turn = 0; turn < TURNS; turn++) {
        TmExtents runs = { .list = list, .max = RUNS };

        if (r->size >= end)
            return true;
        *result = fexp_is_cut(r->x)
                      ? -ENOTCONN
                      : blk_node_status(node, r->size, end - r->size, &runs, &described);
        if (*result < 0)
            return true;
        for (size_t i = 0; i < runs.count; i++) {
            if (!(list[i].flags & TM_STATE_ZERO) == (r->whence == SEEK_DATA))
                return true;
            r->size += list[i].length;
        }
    }
    return false;
}

static void answer(FexpRequest *r, uint64_t end, int result)
{
    if (result < 0) {
        fexp_answer(r, result);
    } else if (r->size >= end && r->whence == SEEK_DATA) {
        fexp_answer(r, -ENXIO);
    } else { /* the end is a hole */
        fuse_reply_lseek(r->req, (off_t)r->size);
        fexp_request_end(r);
    }
}

static void run(BlkWork *work)
{
    FexpRequest *r = (FexpRequest *)((char *)work - offsetof(FexpRequest, work));
    BlkUser *disk = r->x->disk;
    BlkNode *node = blk_user_node(disk);
    uint64_t end = blk_node_size(node);
    int result = 0;
    bool found = search(r, node, &result);

    blk_user_worked(disk);
    if (found)
        answer(r, end, result);
    else
        blk_user_work(disk, &r->work);
}

void fexp_op_lseek(fuse_req_t req, fuse_ino_t ino, off_t offset, int whence,
                   struct fuse_file_info *info)
{
    FexpExport *x = fuse_req_userdata(req);
    FexpRequest *r;

    if (offset < 0 || (whence != SEEK_DATA && whence != SEEK_HOLE)) {
        fuse_reply_err(req, EINVAL);
        return;
    }
    if ((uint64_t)offset >= fexp_size(x)) {
        fuse_reply_err(req, ENXIO);
        return;
    }
    r = fexp_request_new(req);
    if (!r)
        return;
    r->size = (uint64_t)offset;
    r->whence = whence;
    r->work = (BlkWork){ .run = run, .background = blk_export_background(x->blk) };
    blk_user_work(x->disk, &r->work);
}
