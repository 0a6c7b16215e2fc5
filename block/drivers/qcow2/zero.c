/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/qcow2/zero.c: zeroing and discarding: entries that say so, instead of data.
 *
 * Both have their range exclusively. What an entry no longer refers to is free after the next
 * commit; its space goes back to the file then, as pass-discard-request says. */
#include "block/drivers/qcow2/qcow2.h"
#include "util/range.h"
#include "util/sync.h"

#include <errno.h>
#include <string.h>

typedef enum { ZERO_KEEP, ZERO_UNMAP, DISCARD } Deed;

/* ---- entries */

/* What a whole cluster's entry becomes, in @words; the old reference is to be let go if true. */
static bool clear_cluster(const Qcow2 *q, uint64_t *words, Deed deed, bool backing)
{
    bool occupied = words[0] & (QCOW2_OFFSET_MASK | QCOW2_COMPRESSED_FLAG);
    bool keep =
        !(words[0] & QCOW2_COMPRESSED_FLAG) && words[0] & QCOW2_COPIED &&
        (deed == ZERO_KEEP || q->header.data_raw || (deed == DISCARD && q->discard_no_unref));
    uint64_t place = keep ? words[0] & (QCOW2_OFFSET_MASK | QCOW2_COPIED) : 0;
    bool nothing = !keep && !backing && (deed == DISCARD || q->header.version < 3);

    if (nothing && !occupied && !(words[0] & QCOW2_READS_ZERO))
        return false;
    if (q->header.extended_l2) {
        words[0] = place;
        words[1] = UINT64_C(0xffffffff) << 32;
    } else {
        words[0] = q->header.version < 3 ? 0 : place | QCOW2_READS_ZERO;
    }
    return occupied && !keep;
}

/* Whole clusters that one table has. Let go are at most as many as it has entries. */
static int clear_in_table(Qcow2 *q, uint64_t offset, uint64_t clusters, Deed deed, bool backing)
{
    g_autofree uint64_t *old = g_try_new(uint64_t, clusters);
    Qcow2Table *table;
    uint64_t n = 0;
    int ret = old ? qcow2_table_pin(q, offset, &table) : -ENOMEM;

    if (ret < 0)
        return ret;
    pthread_mutex_lock(&q->tables_lock);
    for (uint64_t i = 0; i < clusters; i++) {
        uint64_t *words = qcow2_table_entry(q, table, offset + i * q->cluster);

        old[n] = words[0];
        n += clear_cluster(q, words, deed, backing);
    }
    qcow2_table_changed(q, table, offset, clusters);
    pthread_mutex_unlock(&q->tables_lock);
    qcow2_table_unpin(q, table);
    for (uint64_t i = 0; i < n; i++)
        qcow2_free_entry(q, old[i], deed == DISCARD ? QCOW2_FREED_REQUEST : QCOW2_FREED_OTHER);
    return 0;
}

static int clear_clusters(Qcow2 *q, uint64_t offset, uint64_t end, Deed deed)
{
    uint64_t covered = q->cluster << q->l2_bits;

    while (offset < end) {
        uint64_t stop = tm_min(end, tm_align_down(offset, covered) + covered);
        bool backing = !qcow2_backing_is_zero(q, offset, stop - offset);
        int ret = 0;

        if (backing || qcow2_table_exists(q, offset))
            ret = clear_in_table(q, offset, (stop - offset) / q->cluster, deed, backing);
        if (ret < 0)
            return ret;
        offset = stop;
    }
    return 0;
}

/* Subclusters within one cluster. */
static int clear_subclusters(Qcow2 *q, uint64_t offset, uint64_t end)
{
    uint64_t base = tm_align_down(offset, q->cluster);
    unsigned first = (unsigned)((offset - base) / q->subcluster);
    unsigned stop = (unsigned)((end - base) / q->subcluster);
    uint64_t set = ((UINT64_C(1) << stop) - 1) & ~((UINT64_C(1) << first) - 1);
    Qcow2Table *table;
    uint64_t *words;
    int ret;

    if (offset >= end)
        return 0;
    ret = qcow2_table_pin(q, offset, &table);
    if (ret < 0)
        return ret;
    pthread_mutex_lock(&q->tables_lock);
    words = qcow2_table_entry(q, table, offset);
    words[1] = (words[1] | set << 32) & ~set;
    qcow2_table_changed(q, table, offset, 1);
    pthread_mutex_unlock(&q->tables_lock);
    qcow2_table_unpin(q, table);
    return 0;
}

/* ---- zeroing */

static int zeroes_already(Qcow2 *q, uint64_t offset, uint64_t end)
{
    while (offset < end) {
        Qcow2Run run;
        int ret = qcow2_lookup(q, offset, end - offset, QCOW2_LOAD, &run);

        if (ret < 0)
            return ret;
        if (run.kind != QCOW2_ZERO &&
            !(run.kind == QCOW2_UNALLOCATED && qcow2_backing_is_zero(q, offset, run.length)))
            return 0;
        offset += run.length;
    }
    return 1;
}

/* Whether the cluster's subclusters can be changed one by one. */
static int is_compressed(Qcow2 *q, uint64_t offset)
{
    Qcow2Run run;
    int ret = qcow2_lookup(q, offset, 1, QCOW2_LOAD, &run);

    return ret < 0 ? ret : run.kind == QCOW2_COMPRESSED;
}

static int write_zero_data(Qcow2 *q, uint64_t offset, uint64_t end)
{
    g_autofree uint8_t *zeroes = g_try_malloc0(end - offset);

    if (!zeroes)
        return -ENOMEM;
    return qcow2_pwrite(q, zeroes, offset, end - offset, TIDEMARK_EXCLUSIVE);
}

/* A part of one cluster: what is no whole subcluster of it is written. */
static int zero_part(Qcow2 *q, uint64_t offset, uint64_t end, uint32_t flags)
{
    uint64_t first = tm_align_up(offset, q->subcluster), last = tm_align_down(end, q->subcluster);
    int ret = zeroes_already(q, offset, end);

    if (ret != 0 || offset >= end)
        return ret < 0 ? ret : 0;
    ret = q->header.extended_l2 ? is_compressed(q, offset) : 1;
    if (ret < 0)
        return ret;
    if (ret || first >= last)
        return flags & TIDEMARK_FAST_ZERO ? -ENOTSUP : write_zero_data(q, offset, end);
    if (flags & TIDEMARK_FAST_ZERO && (offset < first || last < end))
        return -ENOTSUP;
    if (offset < first)
        ret = write_zero_data(q, offset, first);
    if (ret == 0 && last < end)
        ret = write_zero_data(q, last, end);
    return ret == 0 ? clear_subclusters(q, first, last) : ret;
}

int qcow2_write_zeroes(void *handle, uint64_t offset, uint64_t length, uint32_t flags)
{
    Qcow2 *q = handle;
    uint64_t end = offset + length,
             stop = end == q->header.size ? tm_align_up(end, q->cluster) : end;
    uint64_t first = tm_align_up(offset, q->cluster), last = tm_align_down(stop, q->cluster);
    int ret = 0;

    if (__atomic_load_n(&q->corrupt, __ATOMIC_RELAXED))
        return -EIO;
    if (q->header.version < 3)
        return -ENOTSUP;
    if (q->header.data_raw) {
        ret = qcow2_grow(q, QCOW2_DATA_FILE, end);
        if (ret == 0)
            ret = blk_host.child_write_zeroes(q->node, QCOW2_DATA_FILE, offset, length,
                                              flags & ~TIDEMARK_EXCLUSIVE);
    }
    if (ret == 0 && first >= last && first < end) { /* two parts */
        ret = zero_part(q, offset, first, flags);
        return ret == 0 ? zero_part(q, first, end, flags) : ret;
    }
    if (ret == 0)
        ret = zero_part(q, offset, tm_min(first, end), flags);
    if (ret == 0 && last < stop && first <= last)
        ret = zero_part(q, last, end, flags);
    if (ret == 0 && first < last)
        ret = clear_clusters(q, first, last, flags & TIDEMARK_MAY_UNMAP ? ZERO_UNMAP : ZERO_KEEP);
    return ret;
}

/* ---- discarding */

int qcow2_discard(void *handle, uint64_t offset, uint64_t length)
{
    Qcow2 *q = handle;
    uint64_t end = offset + length, first = tm_align_up(offset, q->cluster), last;
    int ret = 0;

    if (__atomic_load_n(&q->corrupt, __ATOMIC_RELAXED))
        return -EIO;
    last = tm_align_down(end == q->header.size ? tm_align_up(end, q->cluster) : end, q->cluster);
    if (first >= last)
        return 0;
    /* Version 2 can't say that something reads as zeroes: what is below would come through. */
    if (q->header.version < 3 && !qcow2_backing_is_zero(q, first, last - first))
        return 0;
    if (q->header.data_raw)
        ret = blk_host.child_write_zeroes(q->node, QCOW2_DATA_FILE, first,
                                          tm_min(last, end) - first, TIDEMARK_MAY_UNMAP);
    else if (q->header.external_data && q->pass_discard[QCOW2_FREED_REQUEST])
        blk_host.child_discard(q->node, QCOW2_DATA_FILE, first, tm_min(last, end) - first);
    return ret == 0 ? clear_clusters(q, first, last, DISCARD) : ret;
}
