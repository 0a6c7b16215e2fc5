/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/qcow2/commit.c: puts what has changed of the metadata on the medium, in order.
 *
 * At one instant everything dirty is copied. The copies are then written in steps:
 *   0  the header, if writing it has failed: it may say anything that it was to say before
 *   1  what nothing on the medium refers to yet (new tables and blocks), and refcounts, which never
 *      say too little that way
 *   2  where new refcount structures are, once they are synced
 *   3  L1 and L2 entries, once all that and the data that they rest on is synced
 *   4  once that is synced, references that went away are let go: those refcounts go with the next
 *      commit
 * A step that has nothing to do costs no sync. What could not be written is dirty again. */
#include "block/drivers/qcow2/qcow2.h"
#include "util/range.h"
#include "util/sync.h"

#include <errno.h>

static int sync_children(Qcow2 *q)
{
    int ret = q->header.external_data ? blk_host.child_flush(q->node, QCOW2_DATA_FILE) : 0;

    return ret == 0 ? blk_host.child_flush(q->node, QCOW2_FILE) : ret;
}

static int write_pieces(Qcow2 *q, const GArray *pieces)
{
    int ret = 0;

    for (guint i = 0; ret == 0 && i < pieces->len; i++) {
        const Qcow2Piece *p = &g_array_index(pieces, Qcow2Piece, i);

        ret = qcow2_grow(q, QCOW2_FILE, p->offset + p->length);
        if (ret == 0)
            ret = blk_host.child_pwrite(q->node, QCOW2_FILE, p->bytes, p->offset, p->length, 0);
    }
    return ret;
}

static int move_reftable(Qcow2 *q, const Qcow2Pieces *p)
{
    pthread_mutex_lock(&q->alloc_lock);
    q->reftable_in_header = p->reftable_offset; /* it may have moved on since */
    pthread_mutex_unlock(&q->alloc_lock);
    q->header.reftable_offset = p->reftable_offset;
    q->header.reftable_clusters = p->reftable_clusters;
    return qcow2_header_write(q);
}

static int write_steps(Qcow2 *q, Qcow2Pieces *p)
{
    bool unsynced = p->fresh->len || p->barrier;
    int ret = q->header_in_doubt ? qcow2_header_write(q) : 0;

    if (ret == 0)
        ret = write_pieces(q, p->fresh);
    if (ret == 0 && (p->anchors->len || p->reftable_moved)) {
        ret = sync_children(q);
        if (ret == 0)
            ret = write_pieces(q, p->anchors);
        if (ret == 0 && p->reftable_moved)
            ret = move_reftable(q, p);
        unsynced = true;
    }
    if (ret == 0 && p->entries->len) {
        if (unsynced)
            ret = sync_children(q);
        p->entries_begun = ret == 0;
        if (ret == 0)
            ret = write_pieces(q, p->entries);
    }
    return ret == 0 ? sync_children(q) : ret;
}

static void piece_clear(void *piece)
{
    g_free(((Qcow2Piece *)piece)->bytes);
}

static GArray *pieces_array(void)
{
    GArray *array = g_array_new(FALSE, FALSE, sizeof(Qcow2Piece));

    g_array_set_clear_func(array, piece_clear);
    return array;
}

/* @freed: what is to be let go afterwards. */
static int take(Qcow2 *q, Qcow2Pieces *p, GArray **freed)
{
    int ret;
    TM_GUARD(&q->alloc_lock);

    pthread_mutex_lock(&q->tables_lock);
    __atomic_store_n(&q->redirtied, false, __ATOMIC_RELAXED);
    ret = qcow2_tables_take(q, p);
    if (ret == 0)
        ret = qcow2_refcounts_take(q, p);
    pthread_mutex_unlock(&q->tables_lock);
    *freed = q->freed;
    q->freed = g_array_new(FALSE, FALSE, sizeof(Qcow2Freed));
    q->n_freed = 0;
    return ret;
}

static void done(Qcow2 *q, Qcow2Pieces *p, GArray *freed, bool written)
{
    TM_GUARD(&q->alloc_lock);

    pthread_mutex_lock(&q->tables_lock);
    qcow2_tables_done(q, p, written);
    qcow2_refcounts_done(q, p, written);
    if (written && !q->redirtied)
        __atomic_store_n(&q->dirty, false, __ATOMIC_RELEASE);
    pthread_mutex_unlock(&q->tables_lock);
    for (guint i = 0; !written && i < freed->len; i++) {
        g_array_append_val(q->freed, g_array_index(freed, Qcow2Freed, i));
        q->n_freed += g_array_index(freed, Qcow2Freed, i).clusters;
    }
}

static int commit(Qcow2 *q)
{
    Qcow2Pieces p = { .fresh = pieces_array(),
                      .anchors = pieces_array(),
                      .entries = pieces_array(),
                      .tables = g_ptr_array_new(),
                      .blocks = g_ptr_array_new() };
    GArray *freed;
    int ret = take(q, &p, &freed);

    if (ret == 0)
        ret = write_steps(q, &p);
    done(q, &p, freed, ret == 0);
    if (ret == 0)
        qcow2_let_go(q, freed);
    g_array_unref(freed);
    g_array_unref(p.fresh);
    g_array_unref(p.anchors);
    g_array_unref(p.entries);
    g_ptr_array_unref(p.tables);
    g_ptr_array_unref(p.blocks);
    return ret;
}

int qcow2_commit(Qcow2 *q)
{
    uint64_t seen = __atomic_load_n(&q->commits, __ATOMIC_ACQUIRE), number;
    int ret;

    if (!__atomic_load_n(&q->dirty, __ATOMIC_ACQUIRE))
        return sync_children(q);
    TM_GUARD(&q->commit_lock);
    if (q->committed > seen) /* one that began after this was asked for */
        return 0;
    number = __atomic_add_fetch(&q->commits, 1, __ATOMIC_ACQ_REL);
    ret = __atomic_load_n(&q->corrupt, __ATOMIC_RELAXED) ? -EIO : commit(q);
    if (ret == 0)
        q->committed = number;
    __atomic_store_n(&q->failing, ret < 0, __ATOMIC_RELAXED);
    return ret;
}
