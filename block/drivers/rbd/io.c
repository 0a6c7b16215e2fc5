/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/rbd/io.c: requests that are waited for, and those that complete later.
 *
 * A change that has completed is on stable storage in the cluster: there is no cache, and writes
 * say that they want none. */
#include "block/drivers/rbd/rbd.h"

#include <errno.h>
#include <stdlib.h>

#define PIECE (UINT64_C(1) << 30) /* librbd refuses discards of 2 GiB and more */

/* A change of the range has ended. If it has timed out, the cluster may still do it, when nobody
 * expects it any more. */
static int changed(RbdDisk *d, uint64_t offset, uint64_t length, bool frees, int64_t ret)
{
    rbd_status_touch(d, offset, length, frees);
    if (ret == -ETIMEDOUT)
        rbd_lose(d, "a write has timed out and may still happen");
    return rbd_result(d, ret);
}

static int read_result(RbdDisk *d, int64_t ret, uint64_t length)
{
    return ret < 0 || ret == (int64_t)length ? rbd_result(d, ret) : -EIO;
}

/* ---- waited for */

int rbd_disk_pread(void *handle, void *buf, uint64_t offset, uint64_t length, uint32_t flags)
{
    RbdDisk *d = handle;

    if (rbd_lost(d))
        return -EIO;
    return read_result(d, rbd_read(d->image, offset, length, buf), length);
}

int rbd_disk_pwrite(void *handle, const void *buf, uint64_t offset, uint64_t length, uint32_t flags)
{
    RbdDisk *d = handle;

    if (rbd_lost(d))
        return -EIO;
    rbd_status_touch(d, offset, length, false);
    return changed(d, offset, length, false,
                   rbd_write2(d->image, offset, length, buf, LIBRADOS_OP_FLAG_FADVISE_FUA));
}

int rbd_disk_flush(void *handle)
{
    RbdDisk *d = handle;

    return rbd_lost(d) ? -EIO : rbd_result(d, rbd_flush(d->image));
}

int rbd_disk_write_zeroes(void *handle, uint64_t offset, uint64_t length, uint32_t flags)
{
    bool unmap = flags & TIDEMARK_MAY_UNMAP;
    RbdDisk *d = handle;
    int ret = 0;

    if (!unmap && flags & TIDEMARK_FAST_ZERO)
        return -ENOTSUP; /* zeroes would be written */
    rbd_status_touch(d, offset, length, unmap);
    while (length && ret == 0) {
        uint64_t n = length < PIECE ? length : PIECE;

        if (rbd_lost(d))
            return -EIO;
        ret = changed(d, offset, n, unmap,
                      rbd_write_zeroes(d->image, offset, n,
                                       unmap ? 0 : RBD_WRITE_ZEROES_FLAG_THICK_PROVISION, 0));
        offset += n;
        length -= n;
    }
    return ret;
}

int rbd_disk_discard(void *handle, uint64_t offset, uint64_t length)
{
    RbdDisk *d = handle;
    int ret = 0;

    rbd_status_touch(d, offset, length, true);
    while (length && ret == 0) {
        uint64_t n = length < PIECE ? length : PIECE;

        if (rbd_lost(d))
            return -EIO;
        ret = changed(d, offset, n, true, rbd_discard(d->image, offset, n));
        offset += n;
        length -= n;
    }
    return ret;
}

/* ---- what completes later */

typedef struct Later {
    RbdDisk *disk;
    struct tidemark_transfer *transfer;
} Later;

static void later_done(rbd_completion_t completion, void *opaque)
{
    Later later = *(Later *)opaque;
    struct tidemark_transfer *t = later.transfer;
    int64_t ret = rbd_aio_get_return_value(completion);

    free(opaque);
    rbd_aio_release(completion);
    rbd_host->complete(t, t->write ? changed(later.disk, t->offset, t->length, false, ret)
                                   : read_result(later.disk, ret, t->length));
}

int rbd_disk_start(void *handle, struct tidemark_transfer *t)
{
    RbdDisk *d = handle;
    rbd_completion_t completion;
    Later *later;
    int ret;

    if (rbd_lost(d))
        return -EIO;
    later = malloc(sizeof(*later));
    if (!later)
        return -ENOMEM;
    *later = (Later){ d, t };
    ret = rbd_aio_create_completion(later, later_done, &completion);
    if (ret < 0) {
        free(later);
        return ret;
    }
    if (t->write) {
        rbd_status_touch(d, t->offset, t->length, false);
        ret = rbd_aio_write2(d->image, t->offset, t->length, t->buf, completion,
                             LIBRADOS_OP_FLAG_FADVISE_FUA);
    } else {
        ret = rbd_aio_read(d->image, t->offset, t->length, t->buf, completion);
    }
    if (ret < 0) { /* it was not begun */
        rbd_aio_release(completion);
        free(later);
    }
    return ret;
}
