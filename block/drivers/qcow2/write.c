/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/qcow2/write.c: writes that can't be done in place: clusters are allocated, what is
 * around the write in them is copied there (copy on write), and L2 changes.
 *
 * A request goes run by run. It claims the guest clusters of a run before it allocates for them:
 * whoever else wants to waits and then finds them there (Q4). What takes clusters away that readers
 * may be reading, compressed ones and those that are not only ours, asks to hold its range
 * exclusively first (Q3). */
#include "block/drivers/qcow2/qcow2.h"
#include "util/range.h"
#include "util/sync.h"
#include "util/zeroes.h"

#include <errno.h>
#include <string.h>

#define ONE_WRITE (UINT64_C(256) << 10) /* up to this many bytes are put together for one write */

/* Guest clusters that a request allocates for. */
typedef struct Claim {
    uint64_t first, end; /* bytes */
    GList link;
} Claim;

/* What is done for one run. All in bytes of the disk but for the last two. */
typedef struct Plan {
    Qcow2Run run;
    const uint8_t *data;
    uint64_t offset, end; /* of the write */
    uint64_t base;        /* start of the first cluster */
    uint64_t clusters;
    uint64_t from, to; /* what is to be allocated afterwards: the write, and around it to the ends
                          of clusters or subclusters */
    bool zero;         /* what is around the write reads as zeroes */
    Qcow2Table *table;
    uint64_t host; /* of the first cluster */
    bool fresh;    /* nothing was ever written there */
} Plan;

/* ---- claims */

static bool claimed(const Qcow2 *q, uint64_t first, uint64_t end)
{
    for (const GList *l = q->claims.head; l; l = l->next) {
        const Claim *c = l->data;

        if (first < c->end && c->first < end)
            return true;
    }
    return false;
}

static void claim(Qcow2 *q, Claim *c)
{
    TM_GUARD(&q->alloc_lock);

    while (claimed(q, c->first, c->end))
        pthread_cond_wait(&q->unclaimed, &q->alloc_lock);
    c->link = (GList){ .data = c };
    g_queue_push_tail_link(&q->claims, &c->link);
}

static void unclaim(Qcow2 *q, Claim *c)
{
    TM_GUARD(&q->alloc_lock);

    g_queue_unlink(&q->claims, &c->link);
    pthread_cond_broadcast(&q->unclaimed);
}

/* ---- what there is around a write */

static int read_old(Qcow2 *q, uint8_t *to, uint64_t from, uint64_t end)
{
    uint64_t there = from < q->header.size ? tm_min(end, q->header.size) - from : 0;

    if (from >= end)
        return 0;
    memset(to + there, 0, end - from - there);
    return there ? qcow2_pread(q, to, from, there, 0) : 0;
}

static int write_host(Qcow2 *q, const Plan *p, const uint8_t *bytes, uint64_t from, uint64_t end)
{
    uint64_t at = p->host + (from - p->base);
    int ret;

    if (from >= end)
        return 0;
    ret = qcow2_grow(q, q->data_child, at + (end - from));
    return ret == 0 ? blk_host.child_pwrite(q->node, q->data_child, bytes, at, end - from, 0) : ret;
}

/* In one write with what is around it. */
static int write_together(Qcow2 *q, const Plan *p)
{
    g_autofree uint8_t *bytes = g_try_malloc(p->to - p->from);
    uint64_t head = p->offset - p->from, data = p->end - p->offset;
    int ret = bytes ? read_old(q, bytes, p->from, p->offset) : -ENOMEM;

    if (ret == 0)
        ret = read_old(q, bytes + head + data, p->end, p->to);
    if (ret < 0)
        return ret;
    if (p->fresh && tm_all_zero(bytes, head) && tm_all_zero(bytes + head + data, p->to - p->end))
        return write_host(q, p, p->data, p->offset, p->end);
    memcpy(bytes + head, p->data, data);
    return write_host(q, p, bytes, p->from, p->to);
}

/* One end of a long one. */
static int write_end(Qcow2 *q, const Plan *p, uint64_t from, uint64_t end)
{
    g_autofree uint8_t *bytes = NULL;
    int ret;

    if (from >= end)
        return 0;
    bytes = g_try_malloc(end - from);
    ret = bytes ? read_old(q, bytes, from, end) : -ENOMEM;
    return ret == 0 ? write_host(q, p, bytes, from, end) : ret;
}

static int write_data(Qcow2 *q, const Plan *p)
{
    int ret;

    if (p->zero && p->fresh)
        return write_host(q, p, p->data, p->offset, p->end);
    if (p->from == p->offset && p->to == p->end)
        return write_host(q, p, p->data, p->offset, p->end);
    if (p->to - p->from <= tm_max(ONE_WRITE, q->cluster))
        return write_together(q, p);
    ret = write_end(q, p, p->from, p->offset);
    if (ret == 0)
        ret = write_host(q, p, p->data, p->offset, p->end);
    return ret == 0 ? write_end(q, p, p->end, p->to) : ret;
}

/* ---- planning */

static bool takes_away(const Qcow2Run *run)
{
    return run->kind == QCOW2_COMPRESSED || (run->occupied && !run->own);
}

/* Which of a cluster's subclusters hold data that a new cluster must have, too. */
static uint32_t carried(Qcow2 *q, const Plan *p, uint64_t cluster)
{
    const uint64_t *words;
    TM_GUARD(&q->tables_lock);

    words = qcow2_table_entry(q, p->table, cluster);
    return words[0] & QCOW2_COMPRESSED_FLAG ? UINT32_MAX : (uint32_t)words[1];
}

static void plan_around(Qcow2 *q, Plan *p)
{
    uint64_t last = p->base + (p->clusters - 1) * q->cluster;

    p->from = tm_align_down(p->offset, q->subcluster);
    p->to = tm_align_up(p->end, q->subcluster);
    p->zero = !takes_away(&p->run) && (p->run.kind == QCOW2_ZERO ||
                                       (qcow2_backing_is_zero(q, p->from, p->offset - p->from) &&
                                        qcow2_backing_is_zero(q, p->end, p->to - p->end)));
    if (q->header.extended_l2 && takes_away(&p->run)) {
        uint32_t head = carried(q, p, p->base), tail = carried(q, p, last);

        if (head)
            p->from = tm_min(p->from, p->base + (unsigned)__builtin_ctz(head) * q->subcluster);
        if (tail)
            p->to = tm_max(p->to, last + (32u - (unsigned)__builtin_clz(tail)) * q->subcluster);
    }
}

/* Where the clusters of the run are to be. */
static int place(Qcow2 *q, Plan *p)
{
    uint64_t within = p->offset - p->base;

    if (p->run.occupied && p->run.own) {
        p->host = p->run.host - within;
        p->fresh = false;
        return 0;
    }
    if (q->data_child == QCOW2_DATA_FILE) { /* there each cluster has its own place */
        p->host = p->base;
        p->fresh = p->host >= blk_host.child_size(q->node, QCOW2_DATA_FILE);
        return 0;
    }
    return qcow2_alloc(q, p->clusters, &p->host, &p->fresh);
}

static bool has_own_place(const Qcow2 *q, const Plan *p)
{
    return (p->run.occupied && p->run.own) || q->data_child == QCOW2_DATA_FILE;
}

/* ---- telling L2 */

/* Subclusters of the cluster at @cluster that [from, to) covers. */
static uint32_t subclusters_in(const Qcow2 *q, const Plan *p, uint64_t cluster)
{
    uint64_t from = tm_max(p->from, cluster) - cluster;
    uint64_t to = tm_min(p->to, cluster + q->cluster) - cluster;
    unsigned first = (unsigned)(from / q->subcluster), end = (unsigned)(to / q->subcluster);

    return (uint32_t)(((UINT64_C(1) << end) - 1) & ~((UINT64_C(1) << first) - 1));
}

static void link_clusters(Qcow2 *q, Plan *p)
{
    TM_GUARD(&q->tables_lock);

    for (uint64_t i = 0; i < p->clusters; i++) {
        uint64_t cluster = p->base + i * q->cluster;
        uint64_t *words = qcow2_table_entry(q, p->table, cluster);

        if (q->header.extended_l2) {
            uint64_t set = subclusters_in(q, p, cluster);

            if (words[0] & QCOW2_COMPRESSED_FLAG)
                words[1] = 0;
            words[1] = (words[1] | set) & ~(set << 32);
        }
        words[0] = (p->host + i * q->cluster) | QCOW2_COPIED;
    }
    q->barrier = true;
    qcow2_table_changed(q, p->table, p->base, p->clusters);
}

/* ---- one run */

static int allocate(Qcow2 *q, Plan *p)
{
    int ret = qcow2_table_pin(q, p->offset, &p->table);

    if (ret < 0)
        return ret;
    plan_around(q, p);
    ret = place(q, p);
    if (ret == 0) {
        ret = write_data(q, p);
        if (ret == 0)
            link_clusters(q, p);
        else if (!has_own_place(q, p))
            qcow2_unalloc(q, p->host, p->clusters);
    }
    qcow2_table_unpin(q, p->table);
    if (ret == 0 && p->run.kind == QCOW2_COMPRESSED)
        qcow2_free_entry(q, p->run.host | QCOW2_COMPRESSED_FLAG, QCOW2_FREED_OTHER);
    else if (ret == 0 && takes_away(&p->run))
        qcow2_free(q, p->run.host - (p->offset - p->base), p->clusters, QCOW2_FREED_OTHER);
    return ret;
}

static int write_in_place(Qcow2 *q, const Qcow2Run *run, const uint8_t *buf)
{
    int ret = qcow2_grow(q, q->data_child, run->host + run->length);

    if (ret < 0)
        return ret;
    if (q->data_child == QCOW2_FILE)
        qcow2_touch(q, run->host + run->length);
    return blk_host.child_pwrite(q->node, q->data_child, buf, run->host, run->length, 0);
}

static bool in_place(const Qcow2Run *run)
{
    return run->kind == QCOW2_DATA && run->own;
}

static int write_claimed(Qcow2 *q, const uint8_t *buf, uint64_t offset, uint64_t length,
                         uint32_t flags, Qcow2Run *run)
{
    Plan p = { .data = buf, .offset = offset };
    int ret = qcow2_lookup(q, offset, length, QCOW2_LOAD | QCOW2_FOR_WRITE, run);

    if (ret < 0)
        return ret;
    if (in_place(run))
        return write_in_place(q, run, buf);
    if (takes_away(run) && !(flags & TIDEMARK_EXCLUSIVE))
        return -EBUSY;
    p.run = *run;
    p.end = offset + run->length;
    p.base = tm_align_down(offset, q->cluster);
    p.clusters = (tm_align_up(p.end, q->cluster) - p.base) / q->cluster;
    return allocate(q, &p);
}

static int write_run(Qcow2 *q, const uint8_t *buf, uint64_t offset, uint64_t length, uint32_t flags,
                     uint64_t *done)
{
    Qcow2Run run;
    Claim c;
    int ret = qcow2_lookup(q, offset, length, QCOW2_LOAD | QCOW2_FOR_WRITE, &run);

    *done = run.length;
    if (ret < 0)
        return ret;
    if (in_place(&run))
        return write_in_place(q, &run, buf);
    c.first = tm_align_down(offset, q->cluster);
    c.end = tm_align_up(offset + run.length, q->cluster);
    claim(q, &c);
    ret = write_claimed(q, buf, offset, run.length, flags, &run); /* as it is now */
    unclaim(q, &c);
    *done = run.length;
    return ret;
}

int qcow2_pwrite(void *handle, const void *buf, uint64_t offset, uint64_t length, uint32_t flags)
{
    Qcow2 *q = handle;
    const uint8_t *at = buf;

    if (__atomic_load_n(&q->corrupt, __ATOMIC_RELAXED))
        return -EIO;
    while (length) {
        uint64_t done;
        int ret = write_run(q, at, offset, length, flags, &done);

        if (ret < 0)
            return ret;
        at += done;
        offset += done;
        length -= done;
    }
    return 0;
}

void qcow2_free_entry(Qcow2 *q, uint64_t word, Qcow2FreedBy by)
{
    uint64_t offset = word & QCOW2_OFFSET_MASK, length = q->cluster;

    if (q->data_child == QCOW2_DATA_FILE)
        return;
    if (word & QCOW2_COMPRESSED_FLAG) {
        qcow2_compressed_place(q, word & ~QCOW2_COPIED, &offset, &length);
        length = tm_align_up(offset + length, q->cluster) - tm_align_down(offset, q->cluster);
        offset = tm_align_down(offset, q->cluster);
    }
    if (offset)
        qcow2_free(q, offset, length / q->cluster, by);
}
