/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/qcow2/deflate.c: writing clusters that are compressed, by zlib or zstd: packed one
 * after the other, as far as a host cluster goes. What does not get smaller is written as it is.
 *
 * Source: the specification, "Compressed Clusters Descriptor". */
#include "block/drivers/qcow2/qcow2.h"
#include "util/range.h"
#include "util/sync.h"

#include <errno.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#define WINDOW_BITS (-12) /* raw deflate, as QEMU writes it; larger windows are read too */

/* Bytes of @to, or 0: it does not get smaller. */
static size_t deflate_zlib(void *to, size_t size, const void *from, size_t length)
{
    z_stream z = {
        .next_in = (Bytef *)from, .avail_in = (uInt)length, .next_out = to, .avail_out = (uInt)size
    };
    int ret =
        deflateInit2(&z, Z_DEFAULT_COMPRESSION, Z_DEFLATED, WINDOW_BITS, 9, Z_DEFAULT_STRATEGY);

    if (ret != Z_OK)
        return 0;
    ret = deflate(&z, Z_FINISH);
    deflateEnd(&z);
    return ret == Z_STREAM_END ? size - z.avail_out : 0;
}

static size_t deflate_zstd(void *to, size_t size, const void *from, size_t length)
{
    size_t n = ZSTD_compress(to, size, from, length, ZSTD_CLEVEL_DEFAULT);

    return ZSTD_isError(n) ? 0 : n;
}

/* The entry for @bytes at @at. 0: there is none, it is too far up in the file. */
static uint64_t descriptor_of(const Qcow2 *q, uint64_t at, uint64_t bytes)
{
    unsigned x = 62 - (q->header.cluster_bits - 8);

    if (at >> x)
        return 0;
    return QCOW2_COMPRESSED_FLAG | ((at + bytes - 1) / QCOW2_SECTOR - at / QCOW2_SECTOR) << x | at;
}

/* The new entry instead of the one that there is, whose clusters are let go. */
static int link_compressed(Qcow2 *q, uint64_t offset, uint64_t word)
{
    Qcow2Table *table;
    uint64_t *words, old;
    int ret = qcow2_table_pin(q, offset, &table);

    if (ret < 0)
        return ret;
    pthread_mutex_lock(&q->tables_lock);
    words = qcow2_table_entry(q, table, offset);
    old = words[0];
    words[0] = word;
    if (q->header.extended_l2)
        words[1] = 0;
    q->barrier = true;
    qcow2_table_changed(q, table, offset, 1);
    pthread_mutex_unlock(&q->tables_lock);
    qcow2_table_unpin(q, table);
    qcow2_free_entry(q, old, QCOW2_FREED_OTHER);
    return 0;
}

static void drop_inflated(Qcow2 *q)
{
    TM_GUARD(&q->inflated_lock);

    q->inflated_at = 0;
}

/* @to: what @from compresses to, @n bytes. */
static int write_packed(Qcow2 *q, const uint8_t *to, size_t n, uint64_t offset)
{
    uint64_t at, word;
    int ret = qcow2_alloc_bytes(q, n, &at);

    if (ret < 0)
        return ret;
    word = descriptor_of(q, at, n);
    ret = word ? qcow2_grow(q, QCOW2_FILE, tm_align_up(at + n, QCOW2_SECTOR)) : -EFBIG;
    if (ret == 0)
        ret = blk_host.child_pwrite(q->node, QCOW2_FILE, to, at, n, 0);
    if (ret == 0) {
        drop_inflated(q);
        ret = link_compressed(q, offset, word);
    }
    if (ret < 0)
        qcow2_unalloc(q, tm_align_down(at, q->cluster), 1);
    return ret;
}

/* @from: a cluster, with what the disk doesn't have of it as zeroes. */
static int write_cluster(Qcow2 *q, const uint8_t *from, uint8_t *to, uint64_t offset)
{
    size_t n = (q->header.compression == QCOW2_ZSTD ? deflate_zstd : deflate_zlib)(
        to, q->cluster - 1, from, q->cluster);

    if (n)
        return write_packed(q, to, n, offset);
    return qcow2_pwrite(q, from, offset, tm_min(q->cluster, q->header.size - offset),
                        TIDEMARK_EXCLUSIVE);
}

int qcow2_write_compressed(Qcow2 *q, const uint8_t *buf, uint64_t offset, uint64_t length)
{
    g_autofree uint8_t *from = NULL, *to = NULL;
    uint64_t end = offset + length;
    int ret = 0;

    if (__atomic_load_n(&q->corrupt, __ATOMIC_RELAXED))
        return -EIO;
    if (q->header.external_data)
        return -ENOTSUP;
    if (offset % q->cluster || (end % q->cluster && end != q->header.size))
        return -EINVAL;
    from = g_try_malloc(q->cluster);
    to = g_try_malloc(q->cluster);
    if (!from || !to)
        return -ENOMEM;
    for (; ret == 0 && offset < end; offset += q->cluster, buf += q->cluster) {
        uint64_t n = tm_min(q->cluster, end - offset);

        memcpy(from, buf, n);
        memset(from + n, 0, q->cluster - n);
        ret = write_cluster(q, from, to, offset);
    }
    return ret;
}
