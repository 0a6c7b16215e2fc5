/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/qcow2/clusters.c: which host clusters are given out, and when they come back.
 *
 * The first free ones are taken, from a hint on. What is freed is only noted: its references go
 * once the next commit has made everything durable that was changed before (Q2); then its space may
 * go back to the file, and only then can it be had again.
 *
 * Metadata has its space from the moment that its cluster is taken: a commit does not fail for want
 * of any, and what was answered can be flushed when the medium is full. */
#include "block/drivers/qcow2/qcow2.h"
#include "util/range.h"
#include "util/sync.h"

#include <errno.h>
#include <inttypes.h>

#define FREED_MANY 4096u /* clusters: waiting for a commit, they are worth one */

/* ---- allocating */

/* The first @clusters that are free in a row from the hint on; the blocks to count them are
 * there. */
static int find_free(Qcow2 *q, uint64_t clusters, uint64_t *first)
{
    uint64_t run = 0, i = q->free_hint;

    while (run < clusters) {
        uint64_t index = i / qcow2_per_block(q);
        Qcow2Block *b;
        int ret;

        if ((i + 1) * q->cluster > QCOW2_OFFSET_END)
            return -EFBIG;
        if (index >= q->reftable_entries) {
            ret = qcow2_reftable_grow(q, index);
            if (ret < 0)
                return ret;
            continue;
        }
        ret = qcow2_block_get(q, index, &b);
        if (ret == 0 && !b) {
            /* At the start of what is found so far, which stays in one piece. */
            ret = qcow2_block_add(q, index, run ? i - run : i);
            if (run)
                run--;
            else
                i++;
        } else if (ret == 0) {
            run = qcow2_count_get(q, b, i % qcow2_per_block(q)) ? 0 : run + 1;
            i++;
        }
        if (ret < 0)
            return ret;
    }
    *first = i - run;
    return 0;
}

/* ---- taking */

static int count_down(Qcow2 *q, uint64_t cluster)
{
    uint64_t count;
    Qcow2Block *b;
    int ret = qcow2_block_get(q, cluster / qcow2_per_block(q), &b);

    if (ret < 0)
        return ret;
    count = b ? qcow2_count_get(q, b, cluster % qcow2_per_block(q)) : 0;
    if (!count)
        return qcow2_corrupt(q, "the cluster at %" PRIu64 " is to be freed, but its refcount is 0",
                             cluster * q->cluster);
    qcow2_count_set(q, b, cluster % qcow2_per_block(q), count - 1);
    if (count > 1)
        return 0;
    q->free_hint = tm_min(q->free_hint, cluster);
    if (q->packed / q->cluster == cluster)
        q->packed = 0;
    qcow2_metadata_remove(q, cluster * q->cluster);
    return 0;
}

static int count_up(Qcow2 *q, uint64_t first, uint64_t clusters)
{
    for (uint64_t i = 0; i < clusters; i++) {
        uint64_t cluster = first + i;
        Qcow2Block *b;
        int ret = qcow2_block_get(q, cluster / qcow2_per_block(q), &b);

        if (ret == 0)
            ret = b ? qcow2_block_reserve(q, b) : -EIO;
        if (ret < 0) {
            while (i--) /* those are in memory, or were */
                count_down(q, first + i);
            return ret;
        }
        qcow2_count_set(q, b, cluster % qcow2_per_block(q),
                        qcow2_count_get(q, b, cluster % qcow2_per_block(q)) + 1);
    }
    return 0;
}

int qcow2_alloc_locked(Qcow2 *q, uint64_t clusters, uint64_t *offset, bool *fresh)
{
    uint64_t first;
    int ret = find_free(q, clusters, &first);

    if (ret == 0)
        ret = qcow2_check_free(q, first, clusters);
    if (ret == 0)
        ret = qcow2_make_reach(q, (first + clusters) * q->cluster);
    if (ret == 0)
        ret = count_up(q, first, clusters);
    if (ret < 0)
        return ret;
    q->free_hint = first + clusters;
    *offset = first * q->cluster;
    *fresh = *offset >= q->touched;
    qcow2_raise_touched(q, *offset + clusters * q->cluster);
    return 0;
}

int qcow2_alloc_metadata(Qcow2 *q, uint64_t *offset)
{
    bool fresh;
    int ret = qcow2_alloc_locked(q, 1, offset, &fresh);

    if (ret < 0)
        return ret;
    ret = qcow2_make_room(q, *offset, 1);
    if (ret < 0)
        count_down(q, *offset / q->cluster);
    return ret;
}

int qcow2_alloc(Qcow2 *q, uint64_t clusters, uint64_t *offset, bool *fresh)
{
    TM_GUARD(&q->alloc_lock);

    return qcow2_alloc_locked(q, clusters, offset, fresh);
}

/* What follows the last compressed cluster, if it fits there: its first cluster is then counted
 * once more. */
static bool pack(Qcow2 *q, uint64_t bytes)
{
    uint64_t room = q->packed ? q->cluster - (q->packed & (q->cluster - 1)) : 0, count;

    return q->packed & (q->cluster - 1) && bytes <= room &&
           qcow2_count_of(q, q->packed / q->cluster, &count) == 0 && count &&
           count < qcow2_count_max(q) && count_up(q, q->packed / q->cluster, 1) == 0;
}

int qcow2_alloc_bytes(Qcow2 *q, uint64_t bytes, uint64_t *offset)
{
    bool fresh;
    TM_GUARD(&q->alloc_lock);

    if (!pack(q, bytes)) {
        int ret = qcow2_alloc_locked(q, 1, &q->packed, &fresh);

        if (ret < 0) {
            q->packed = 0;
            return ret;
        }
    }
    *offset = q->packed;
    q->packed += bytes;
    return 0;
}

/* ---- freeing */

void qcow2_free_locked(Qcow2 *q, uint64_t offset, uint64_t clusters, Qcow2FreedBy by)
{
    Qcow2Freed freed = { offset, clusters, by };
    Qcow2Freed *last =
        q->freed->len ? &g_array_index(q->freed, Qcow2Freed, q->freed->len - 1) : NULL;

    if (last && last->by == by && last->offset + last->clusters * q->cluster == offset)
        last->clusters += clusters;
    else
        g_array_append_val(q->freed, freed);
    q->n_freed += clusters;
    qcow2_dirty(q);
}

void qcow2_free(Qcow2 *q, uint64_t offset, uint64_t clusters, Qcow2FreedBy by)
{
    bool many;

    if (offset & (q->cluster - 1) || qcow2_has_metadata(q, offset, clusters, false)) {
        qcow2_corrupt(q,
                      "data at %" PRIu64
                      " is to be freed, but it is metadata, or not the start of a cluster",
                      offset);
        return;
    }
    pthread_mutex_lock(&q->alloc_lock);
    qcow2_free_locked(q, offset, clusters, by);
    many = q->n_freed > FREED_MANY;
    pthread_mutex_unlock(&q->alloc_lock);
    if (many)
        qcow2_commit(q); /* a failure is met again by whoever flushes */
}

void qcow2_free_bitmap(Qcow2 *q, uint64_t offset)
{
    uint64_t count;
    TM_GUARD(&q->alloc_lock);

    if (!qcow2_has_metadata(q, offset, 1, true) &&
        qcow2_count_of(q, offset / q->cluster, &count) == 0 && count)
        qcow2_free_locked(q, offset, 1, QCOW2_FREED_OTHER);
}

void qcow2_unalloc(Qcow2 *q, uint64_t offset, uint64_t clusters)
{
    TM_GUARD(&q->alloc_lock);

    for (uint64_t i = 0; i < clusters; i++)
        count_down(q, offset / q->cluster + i);
}

/* Whether the cluster is about to be free, and nobody can come to want it before it is. */
static bool last_reference(Qcow2 *q, uint64_t cluster)
{
    uint64_t count;
    TM_GUARD(&q->alloc_lock);

    return qcow2_count_of(q, cluster, &count) == 0 && count == 1 &&
           q->packed / q->cluster != cluster;
}

/* Kept, with no reference to them, until the image is closed. */
static void retire(Qcow2 *q, uint64_t offset, uint64_t clusters, Qcow2FreedBy by)
{
    Qcow2Freed retired = { offset, clusters, by };
    TM_GUARD(&q->alloc_lock);

    g_array_append_val(q->retired, retired);
}

void qcow2_free_retired(Qcow2 *q)
{
    TM_GUARD(&q->alloc_lock);

    for (guint i = 0; i < q->retired->len; i++) {
        const Qcow2Freed *r = &g_array_index(q->retired, Qcow2Freed, i);

        qcow2_free_locked(q, r->offset, r->clusters, r->by);
    }
    g_array_set_size(q->retired, 0);
    q->closing = true;
}

static void let_go(Qcow2 *q, uint64_t first, uint64_t clusters)
{
    TM_GUARD(&q->alloc_lock);

    for (uint64_t i = 0; i < clusters; i++)
        if (count_down(q, first + i) < 0)
            break; /* leaks */
}

/* They are free from now on, unless a client may still be reading what was in them: then they
 * are left alone until the image is closed (Q3). Giving back the space is advice: failing costs
 * that only. */
static void let_go_last(Qcow2 *q, uint64_t first, uint64_t clusters, Qcow2FreedBy by)
{
    uint64_t offset = first * q->cluster, size = blk_host.child_size(q->node, QCOW2_FILE);
    uint64_t length = offset < size ? tm_min(clusters * q->cluster, size - offset) : 0;
    int ret = 0;

    if (length)
        ret = blk_host.child_invalidate(q->node, QCOW2_FILE, offset, length,
                                        q->pass_discard[by] ? TIDEMARK_MAY_UNMAP : 0);

    if (ret == -ENODATA && q->pass_discard[by])
        blk_host.child_discard(q->node, QCOW2_FILE, offset, length);
    if (ret == 0 || ret == -ENODATA || q->closing)
        let_go(q, first, clusters);
    else
        retire(q, offset, clusters, by);
}

void qcow2_let_go(Qcow2 *q, const GArray *freed)
{
    for (guint i = 0; i < freed->len; i++) {
        const Qcow2Freed *f = &g_array_index(freed, Qcow2Freed, i);
        uint64_t first = f->offset / q->cluster;

        for (uint64_t k = 0, n; k < f->clusters; k += n) {
            bool last = last_reference(q, first + k);

            for (n = 1; k + n < f->clusters && last_reference(q, first + k + n) == last;)
                n++;
            if (last)
                let_go_last(q, first + k, n, f->by);
            else
                let_go(q, first + k, n);
        }
    }
}

int qcow2_used_end(Qcow2 *q, uint64_t from, uint64_t *end)
{
    uint64_t per = qcow2_per_block(q), first = from / q->cluster;
    TM_GUARD(&q->alloc_lock);

    for (uint64_t index = q->reftable_entries; index-- > first / per;) {
        Qcow2Block *b;
        int ret = qcow2_block_get(q, index, &b);

        if (ret < 0)
            return ret;
        for (uint64_t i = b ? per : 0; i-- > 0 && index * per + i >= first;) {
            if (qcow2_count_get(q, b, i)) {
                *end = (index * per + i + 1) * q->cluster;
                return 0;
            }
        }
    }
    *end = from;
    return 0;
}
