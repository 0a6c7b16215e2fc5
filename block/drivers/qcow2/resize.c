/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/qcow2/resize.c: another size of the disk. Nothing else is under way then.
 *
 * Growing: what tables have beyond the old end goes; then a longer L1 if it takes one, on the
 * medium before the header says where it is; then the size. What was beyond the old end, in its
 * last cluster or in a longer backing, reads as zeroes. Shrinking: what is cut off is let go, then
 * the size. */
#include "block/drivers/qcow2/snapshots.h"
#include "util/endian.h"
#include "util/error.h"
#include "util/range.h"
#include "util/sync.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

static uint64_t entries_for(const Qcow2 *q, uint64_t size)
{
    uint64_t covered = q->cluster << q->l2_bits;

    return size / covered + !!(size % covered);
}

/* Writes the header with other fields, or leaves them as they are. */
static int write_fields(Qcow2 *q, uint64_t size, uint64_t l1_offset, uint32_t l1_size)
{
    Qcow2Header before = q->header;
    int ret;
    TM_GUARD(&q->commit_lock);

    q->header.size = size;
    q->header.l1_offset = l1_offset;
    q->header.l1_size = l1_size;
    ret = qcow2_header_write(q);
    if (ret < 0)
        q->header = before;
    return ret;
}

/* A copy of L1 with room for @entries, elsewhere. */
static int grow_l1(Qcow2 *q, uint64_t entries)
{
    uint64_t bytes = tm_align_up(entries * 8, q->cluster), old = q->header.l1_offset, offset;
    uint64_t old_clusters = tm_align_up((uint64_t)q->header.l1_size * 8, q->cluster) / q->cluster;
    g_autofree uint8_t *table = NULL;
    bool fresh;
    int ret;

    if (entries * 8 > QCOW2_L1_MAX) {
        blk_host.error(q->node,
                       "An L1 table of %" PRIu64
                       " bytes would be too large, expected at most %" PRIu64,
                       entries * 8, QCOW2_L1_MAX);
        return -EFBIG;
    }
    table = g_try_malloc0(bytes);
    if (!table)
        return -ENOMEM;
    for (uint32_t i = 0; i < q->l1_size; i++)
        tm_put_be64(table + (uint64_t)i * 8, q->l1[i]);
    ret = qcow2_alloc(q, bytes / q->cluster, &offset, &fresh);
    if (ret < 0)
        return ret;
    qcow2_metadata_add(q, offset, bytes / q->cluster, QCOW2_OF_TABLES);
    ret = blk_host.child_pwrite(q->node, QCOW2_FILE, table, offset, bytes, 0);
    if (ret == 0)
        ret = qcow2_commit(q); /* its refcounts and itself */
    if (ret < 0) {
        qcow2_unalloc(q, offset, bytes / q->cluster);
        return ret;
    }
    ret = write_fields(q, q->header.size, offset, (uint32_t)entries);
    if (ret < 0 || !old_clusters) /* if it failed, the header may name either: both stay */
        return ret;
    TM_GUARD(&q->alloc_lock);
    qcow2_free_locked(q, old, old_clusters, QCOW2_FREED_OTHER);
    return 0;
}

/* Version 2 has no zeroes but written ones. */
static int clear_tail(Qcow2 *q, uint64_t from, uint64_t tail)
{
    g_autofree uint8_t *zeroes = NULL;
    Qcow2Run run;
    int ret = qcow2_lookup(q, from, tail - from, QCOW2_LOAD, &run);

    if (ret < 0 || (run.kind == QCOW2_UNALLOCATED && qcow2_backing_is_zero(q, from, tail - from)))
        return ret;
    zeroes = g_try_malloc0(tail - from);
    return zeroes ? qcow2_pwrite(q, zeroes, from, tail - from, TIDEMARK_EXCLUSIVE) : -ENOMEM;
}

/* What comes to light between the old end and the new one reads as zeroes. */
static int clear_grown(Qcow2 *q, uint64_t from, uint64_t size)
{
    uint64_t tail = tm_min(tm_align_up(from, q->cluster), size);
    uint64_t below = tm_min(blk_host.child_size(q->node, QCOW2_BACKING), size);
    uint64_t data = tm_min(blk_host.child_size(q->node, QCOW2_DATA_FILE), size);
    int ret = 0;

    if (q->header.data_raw && tail < data)
        ret = blk_host.child_write_zeroes(q->node, QCOW2_DATA_FILE, tail, data - tail,
                                          TIDEMARK_MAY_UNMAP);
    if (ret == 0 && from < tail)
        ret = q->header.version >= 3 ? qcow2_write_zeroes(q, from, tail - from, 0)
                                     : clear_tail(q, from, tail);
    if (ret < 0 || below <= tail)
        return ret;
    if (q->header.version >= 3)
        return qcow2_write_zeroes(q, tail, tm_min(tm_align_up(below, q->cluster), size) - tail, 0);
    blk_host.error(q->node, "A version 2 image can't grow over a longer backing file, whose data "
                            "would show in the added part");
    return -ENOTSUP;
}

/* The entries of one table from that of @from on. */
static int cut_entries(Qcow2 *q, uint64_t from)
{
    uint64_t end = tm_align_up(from, qcow2_covered(q));
    Qcow2Table *table;
    int ret = qcow2_table_exists(q, from) ? qcow2_table_pin(q, from, &table) : 0;

    if (ret < 0 || !qcow2_table_exists(q, from))
        return ret;
    for (uint64_t c = from; c < end; c += q->cluster) {
        uint64_t *words = qcow2_table_entry(q, table, c), old = words[0];

        pthread_mutex_lock(&q->tables_lock);
        memset(words, 0, q->entry_bytes);
        qcow2_table_changed(q, table, c, 1);
        pthread_mutex_unlock(&q->tables_lock);
        qcow2_free_entry(q, old, QCOW2_FREED_REQUEST);
    }
    qcow2_table_unpin(q, table);
    return 0;
}

/* Entries of whole clusters from @from on, and tables that have no others: all that L1 in memory
 * has, which may be more than the disk. */
static int cut(Qcow2 *q, uint64_t from)
{
    uint64_t covered = qcow2_covered(q), at = tm_align_up(from, q->cluster);
    uint64_t end = q->l1_size * covered;
    int ret = 0;

    if (at < end && at % covered) {
        ret = cut_entries(q, at);
        at = tm_align_up(at, covered);
    }
    for (; ret == 0 && at < end; at += covered) {
        g_autofree uint64_t *entries = NULL;

        ret = qcow2_table_drop(q, at, &entries);
        for (uint64_t i = 0; entries && i < q->cluster / q->entry_bytes; i++)
            qcow2_free_entry(q, entries[i * q->entry_bytes / 8], QCOW2_FREED_REQUEST);
    }
    return ret;
}

/* What L1 and L2 have beyond the end of the disk, as of the saved state of a machine, must not come
 * to light. */
static int cut_stale(Qcow2 *q, uint64_t size)
{
    uint64_t there = tm_min(size, q->header.l1_size * qcow2_covered(q));
    int ret = entries_for(q, there) > q->l1_size ? qcow2_tables_resize(q, there) : 0;

    if (ret == 0)
        ret = cut(q, q->header.size);
    return ret == 0 && q->dirty ? qcow2_commit(q) : ret;
}

static int grow(Qcow2 *q, uint64_t size)
{
    uint64_t entries = entries_for(q, size), before = q->header.size;
    int ret = cut_stale(q, size);

    if (ret == 0 && entries > q->header.l1_size)
        ret = grow_l1(q, entries);
    if (ret == 0)
        ret = qcow2_tables_resize(q, size);
    if (ret < 0)
        return ret;
    /* First what the new part reads as, as long as nobody can see it. */
    q->header.size = size;
    ret = clear_grown(q, before, size);
    if (ret == 0)
        ret = qcow2_commit(q);
    q->header.size = before;
    if (ret == 0 && q->header.data_raw)
        ret = qcow2_grow(q, QCOW2_DATA_FILE, size);
    if (ret == 0)
        ret = write_fields(q, size, q->header.l1_offset, q->header.l1_size);
    return ret;
}

static int shrink(Qcow2 *q, uint64_t size)
{
    uint64_t end;
    int ret = qcow2_commit(q);

    if (ret == 0)
        ret = cut(q, size);
    if (ret == 0)
        ret = qcow2_commit(q);
    if (ret == 0)
        ret = write_fields(q, size, q->header.l1_offset, q->header.l1_size);
    if (ret < 0)
        return ret;
    /* It has its new size. What fails now costs space only, and is reported to whoever flushes. */
    qcow2_tables_resize(q, size);
    if (qcow2_commit(q) == 0 && qcow2_used_end(q, q->cluster, &end) == 0 &&
        end < blk_host.child_size(q->node, QCOW2_FILE) &&
        blk_host.child_resize(q->node, QCOW2_FILE, end) == 0)
        q->touched = end;
    if (q->header.data_raw)
        blk_host.child_resize(q->node, QCOW2_DATA_FILE, size);
    return 0;
}

/* They keep their size, if it is recorded. */
static int check_snapshots(Qcow2 *q)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GArray) list = NULL;
    uint64_t bytes;

    if (q->header.version < 3) {
        blk_host.error(q->node, "Can't resize a v2 image which has snapshots");
        return -ENOTSUP;
    }
    list =
        qcow2_snapshots_read(blk_node_child(q->node, QCOW2_FILE), &q->header, &bytes, NULL, &error);
    for (guint i = 0; list && i < list->len; i++) {
        const Qcow2Snapshot *s = &g_array_index(list, Qcow2Snapshot, i);

        if (s->extra_size >= QCOW2_SNAPSHOT_DISK_SIZE_END)
            continue;
        blk_host.error(q->node, "Can't resize an image with a snapshot that has no size: '%s'",
                       s->name);
        return -ENOTSUP;
    }
    if (!list)
        blk_host.error(q->node, "%s", error->message);
    return list ? 0 : -EIO;
}

int qcow2_resize(void *handle, uint64_t size)
{
    Qcow2 *q = handle;
    int ret;

    if (!q->writable) {
        blk_host.error(q->node, "Image is read-only");
        return -EROFS;
    }
    if (size % 512) {
        blk_host.error(q->node, "The new size must be a multiple of 512");
        return -EINVAL;
    }
    if (size == q->header.size) /* which may be what it came back to */
        return q->header_in_doubt ? qcow2_commit(q) : 0;
    ret = q->header.n_snapshots ? check_snapshots(q) : 0;
    if (ret < 0)
        return ret;
    ret = size > q->header.size ? grow(q, size) : shrink(q, size);
    __atomic_store_n(&q->size, q->header.size, __ATOMIC_RELAXED);
    return ret;
}
