/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/qcow2/child.c: the files of an image: what is read beyond their end, the space that
 * they have, and what they say once something in them can't be.
 *
 * A free cluster at or beyond "touched" was never written to and reads as zeroes. Where that is the
 * refcounts say, for the file may have lost its end, or end within a cluster. */
#include "block/drivers/qcow2/qcow2.h"

#include "util/endian.h"
#include "util/range.h"
#include "util/sync.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>

#define GROW_MIN (UINT64_C(1) << 20) /* the file grows by this at least: rarely, then */
#define GROW_MAX (UINT64_C(64) << 20)
#define PART     (UINT64_C(64) << 10) /* bytes of a table that get their space together */

/* ---- reading */

int qcow2_read_child(Qcow2 *q, uint32_t child, void *buf, uint64_t offset, uint64_t length)
{
    uint64_t size = blk_host.child_size(q->node, child);
    uint64_t there = offset < size ? tm_min(length, size - offset) : 0;

    memset((char *)buf + there, 0, length - there);
    return there ? blk_host.child_pread(q->node, child, buf, offset, there, 0) : 0;
}

bool qcow2_backing_is_zero(Qcow2 *q, uint64_t offset, uint64_t length)
{
    return !length || offset >= blk_host.child_size(q->node, QCOW2_BACKING);
}

/* ---- what can't be */

int qcow2_corrupt(Qcow2 *q, const char *format, ...)
{
    uint8_t bytes[8];
    char reason[256];
    va_list ap;

    if (__atomic_exchange_n(&q->corrupt, true, __ATOMIC_ACQ_REL))
        return -EIO;
    va_start(ap, format);
    g_vsnprintf(reason, sizeof(reason), format, ap);
    va_end(ap);
    if (q->header.version >= 3 && q->writable) {
        tm_put_be64(bytes, __atomic_or_fetch(&q->header.incompatible, QCOW2_INCOMPATIBLE_CORRUPT,
                                             __ATOMIC_RELAXED));
        if (blk_host.child_pwrite(q->node, QCOW2_FILE, bytes, 72, sizeof(bytes), 0) == 0)
            blk_host.child_flush(q->node, QCOW2_FILE);
    }
    blk_host_corrupted(q->node, reason);
    return -EIO;
}

/* ---- space */

void qcow2_raise_touched(Qcow2 *q, uint64_t end)
{
    __atomic_store_n(&q->touched, tm_max(q->touched, end), __ATOMIC_RELAXED);
}

int qcow2_grow(Qcow2 *q, uint32_t child, uint64_t size)
{
    int ret = blk_host.child_grow(q->node, child, size);

    return ret == -EINVAL || ret == -ENOTSUP ? -ENOSPC : ret;
}

int qcow2_make_reach(Qcow2 *q, uint64_t end)
{
    uint64_t size = blk_host.child_size(q->node, QCOW2_FILE), more;

    if (end <= size)
        return 0;
    more = CLAMP(size / 8, GROW_MIN, GROW_MAX);
    if (qcow2_grow(q, QCOW2_FILE, end + more) == 0)
        return 0;
    return qcow2_grow(q, QCOW2_FILE, end);
}

void qcow2_touch(Qcow2 *q, uint64_t end)
{
    if (end <= __atomic_load_n(&q->touched, __ATOMIC_RELAXED))
        return;
    TM_GUARD(&q->alloc_lock);
    qcow2_raise_touched(q, tm_align_up(end, q->cluster));
}

bool qcow2_reaches(const Qcow2 *q, uint64_t offset)
{
    return offset < __atomic_load_n(&q->touched, __ATOMIC_RELAXED) ||
           offset < qcow2_reach(blk_host.child_size(q->node, QCOW2_FILE));
}

static int write_zeroes(Qcow2 *q, uint64_t offset, uint64_t length)
{
    g_autofree uint8_t *zeroes = g_try_malloc0(length);

    return zeroes ? blk_host.child_pwrite(q->node, QCOW2_FILE, zeroes, offset, length, 0) : -ENOMEM;
}

int qcow2_make_room(Qcow2 *q, uint64_t offset, uint64_t clusters)
{
    uint64_t length = clusters * q->cluster;
    int ret = qcow2_make_reach(q, offset + length);

    if (ret == 0)
        ret = blk_node_reserve(blk_node_child(q->node, QCOW2_FILE), offset, length);
    if (ret == -ENOTSUP)
        ret = write_zeroes(q, offset, length);
    if (ret == 0)
        qcow2_raise_touched(q, offset + length);
    return ret;
}

int qcow2_reserve_once(Qcow2 *q, bool *reserved, uint64_t offset, uint64_t length)
{
    int ret = 0;

    if (!__atomic_load_n(reserved, __ATOMIC_RELAXED))
        ret = blk_node_reserve(blk_node_child(q->node, QCOW2_FILE), offset, length);
    if (ret < 0 && ret != -ENOTSUP)
        return ret;
    __atomic_store_n(reserved, true, __ATOMIC_RELAXED);
    return 0;
}

int qcow2_reserve_part(Qcow2 *q, uint64_t *part, uint64_t offset, uint64_t bytes, uint64_t at)
{
    uint64_t number = at / PART;
    bool reserved = *part == number + 1;
    int ret = qcow2_reserve_once(q, &reserved, offset + number * PART,
                                 tm_min(PART, bytes - number * PART));

    if (ret == 0)
        *part = number + 1;
    return ret;
}
