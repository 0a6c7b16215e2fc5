/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/io/progress.c: see the header. */
#include "block/io/progress.h"

#include "util/error.h"
#include "util/range.h"

#define RESERVE_STEP (UINT64_C(256) << 20) /* what is reserved between updates of the progress */
#define WRITE_STEP   (UINT64_C(1) << 20)

bool blk_progress_add(BlkProgress *work, uint64_t more, GError **error)
{
    work->done += more;
    if (work->total < work->done)
        work->total = work->done;
    if (!work->fn || work->fn(work->opaque, work->done, work->total))
        return true;
    return tm_error_set(error, "Operation canceled");
}

bool blk_preallocate(BlkNode *node, uint64_t offset, uint64_t length, bool written,
                     BlkProgress *work, GError **error)
{
    g_autofree char *zeroes = written ? g_malloc0(WRITE_STEP) : NULL;

    while (length) {
        uint64_t n = tm_min(length, written ? WRITE_STEP : RESERVE_STEP);
        int ret = written ? blk_node_pwrite(node, zeroes, offset, n, 0)
                          : blk_node_write_zeroes(node, offset, n, 0);

        if (ret < 0)
            return tm_error_set_errno(error, -ret, "Could not preallocate data");
        if (!blk_progress_add(work, n, error))
            return false;
        offset += n;
        length -= n;
    }
    return true;
}
