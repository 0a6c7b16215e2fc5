/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/qcow2/bitmaps.c: what block/bitmaps.c asks of an image that is open: which of its
 * bits say where its bitmaps are, and what it can keep. */
#include "block/drivers/qcow2/bitmaps.h"
#include "util/endian.h"
#include "util/error.h"
#include "util/range.h"
#include "util/sync.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

static bool beside(void *handle)
{
    const Qcow2 *q = handle;

    return q->header.autoclear & QCOW2_AUTOCLEAR_STORE;
}

static bool set_beside(void *handle, bool wanted, GError **error)
{
    Qcow2 *q = handle;
    int ret;

    if (q->header.version < 3 || beside(q) == wanted)
        return true;
    pthread_mutex_lock(&q->commit_lock);
    q->header.autoclear ^= QCOW2_AUTOCLEAR_STORE;
    ret = qcow2_header_write(q);
    if (ret < 0)
        q->header.autoclear ^= QCOW2_AUTOCLEAR_STORE;
    pthread_mutex_unlock(&q->commit_lock);
    return ret == 0 || tm_error_set_errno(error, -ret, "Could not update the qcow2 header");
}

/* ---- in use */

static int write_flags(Qcow2 *q, const Qcow2Bitmap *b)
{
    uint8_t bytes[4];

    tm_put_be32(bytes, b->flags | QCOW2_BITMAP_IN_USE);
    return blk_host.child_pwrite(q->node, QCOW2_FILE, bytes, q->header.bitmaps_offset + b->at + 12,
                                 sizeof(bytes), 0);
}

static bool mark_in_use(Qcow2 *q, GError **error)
{
    g_autoptr(GArray) bitmaps = qcow2_bitmaps_read(q, error);
    bool any = false;
    int ret = 0;

    if (!bitmaps)
        return false;
    for (guint i = 0; ret == 0 && i < bitmaps->len; i++) {
        const Qcow2Bitmap *b = &g_array_index(bitmaps, Qcow2Bitmap, i);

        if (b->flags & QCOW2_BITMAP_IN_USE)
            continue;
        ret = write_flags(q, b);
        any = true;
    }
    if (ret == 0 && any)
        ret = blk_host.child_flush(q->node, QCOW2_FILE);
    return ret == 0 || tm_error_set_errno(error, -ret, "Could not update the bitmap directory");
}

static bool begin(void *handle, bool wanted, GError **error)
{
    return set_beside(handle, wanted, error) && mark_in_use(handle, error);
}

/* ---- what can be kept */

static bool may_keep(void *handle, const char *name, uint64_t granularity, uint64_t size, size_t n,
                     uint64_t names, GError **error)
{
    const Qcow2 *q = handle;
    unsigned bits = (unsigned)__builtin_ctzll(granularity);
    uint64_t directory = names + n * QCOW2_BITMAP_ENTRY + qcow2_bitmap_entry_bytes(strlen(name), 0);

    if (q->header.version < 3)
        return tm_error_set(error, "Cannot store dirty bitmaps in qcow2 v2 files");
    if (!size)
        return tm_error_set(error, "Cannot store dirty bitmaps of a disk of 0 bytes");
    if (qcow2_bitmap_table_size(size, bits, q->cluster) > QCOW2_BITMAP_BYTES_MAX / q->cluster)
        return tm_error_set(
            error, "Too much space will be occupied by the bitmap. Use larger granularity");
    if (n >= QCOW2_BITMAPS_MAX)
        return tm_error_set(error, "Maximum number of persistent bitmaps is already reached");
    if (directory > QCOW2_BITMAP_DIRECTORY_MAX)
        return tm_error_set(error, "Not enough space in the bitmap directory");
    return true;
}

const BlkKeptBitmaps qcow2_kept_bitmaps = {
    .beside = beside,
    .load = qcow2_bitmaps_load,
    .may_keep = may_keep,
    .set_beside = set_beside,
    .begin = begin,
    .drop = qcow2_bitmaps_drop,
    .store = qcow2_bitmaps_store,
};
