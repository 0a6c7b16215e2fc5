/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/qcow2/tables.c: L1, and the L2 tables that are in memory.
 *
 * L1 is in memory whole (it is bounded), L2 tables as they are asked for, up to a limit, the least
 * recently used going first. What is not yet on the medium, and what somebody has pinned, stays.
 *
 * Invariant: a table in memory is what the next commit makes of it on the medium, at the place that
 * L1 in memory says.
 *
 * Source: the specification, "Cluster mapping". */
#include "block/drivers/qcow2/qcow2.h"
#include "util/endian.h"
#include "util/error.h"
#include "util/range.h"
#include "util/sync.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

struct Qcow2Table {
    uint32_t index;          /* in L1 */
    uint32_t pins;           /* users who will set entries, and a commit under way */
    bool is_new, taken_new;  /* no L1 on the medium refers to it at its place */
    bool reserved;           /* atomic: there is space for all of it */
    Qcow2Dirty dirty, taken; /* bytes of it: since the last commit; in the one under way */
    GList link;              /* in @used */
    uint64_t entries[];
};

/* One that is being read. Linked by who reads it. */
typedef struct Load {
    uint32_t index;
    bool stale; /* it was in memory meanwhile, and went: the medium may have changed since */
    GList link;
} Load;

static uint64_t table_bytes(const Qcow2 *q)
{
    return q->cluster + sizeof(Qcow2Table);
}

static uint32_t index_of(const Qcow2 *q, uint64_t offset)
{
    return (uint32_t)(offset / qcow2_covered(q));
}

static bool is_clean(const Qcow2Table *t)
{
    return !t->pins && !t->is_new && t->dirty.from >= t->dirty.to;
}

/* ---- L1 */

static int check_entry(Qcow2 *q, uint32_t index)
{
    uint64_t word = tm_get_be64(&q->l1[index]), offset = word & QCOW2_OFFSET_MASK;

    q->l1[index] = offset ? offset | (word & QCOW2_COPIED) : 0;
    if (offset & (q->cluster - 1)) {
        blk_host.error(q->node,
                       "qcow2: L2 table %u is at %" PRIu64 ", expected the start of a cluster",
                       index, offset);
        return -EINVAL;
    }
    if (!offset || !q->writable)
        return 0;
    if (qcow2_reaches(q, offset) && qcow2_metadata_add(q, offset, 1, QCOW2_OF_TABLES))
        return 0;
    blk_host.error(q->node,
                   "qcow2: L2 table %u at %" PRIu64
                   " overlaps other metadata or is far beyond the end of the file: the image is "
                   "corrupt; repair it, or open it read-only",
                   index, offset);
    qcow2_corrupt(q, "L2 table %u at %" PRIu64 " overlaps other metadata or is far beyond the end",
                  index, offset);
    return -EIO;
}

static uint32_t entries_for(const Qcow2 *q, uint64_t size)
{
    return (uint32_t)(size / qcow2_covered(q) + !!(size % qcow2_covered(q)));
}

/* Entries [first, end) of L1 in memory, from the medium. */
static int read_entries(Qcow2 *q, uint32_t first, uint32_t end)
{
    int ret = 0;

    if (first < end)
        ret = qcow2_read_child(q, QCOW2_FILE, q->l1 + first,
                               q->header.l1_offset + (uint64_t)first * 8,
                               (uint64_t)(end - first) * 8);
    if (ret < 0)
        blk_host.error(q->node, "Could not read L1 table: %s", tm_strerror(-ret));
    for (uint32_t i = first; ret == 0 && i < end; i++) {
        ret = check_entry(q, i);
        while (ret < 0 && i-- > first) /* as if they had not been read */
            if (q->l1[i] && q->writable)
                qcow2_metadata_remove(q, q->l1[i] & QCOW2_OFFSET_MASK);
    }
    return ret;
}

int qcow2_tables_open(Qcow2 *q)
{
    q->l1_size = entries_for(q, q->header.size);
    q->l1 = g_try_malloc0((gsize)q->l1_size * 8 + 8);
    q->tables = g_try_malloc0((gsize)q->l1_size * sizeof(*q->tables) + 8);
    if (!q->l1 || !q->tables)
        return -ENOMEM;
    return read_entries(q, 0, q->l1_size);
}

void qcow2_tables_close(Qcow2 *q)
{
    for (uint32_t i = 0; q->tables && i < q->l1_size; i++)
        g_free(q->tables[i]);
    g_free(q->tables);
    g_free(q->l1);
}

/* ---- which tables are in memory */

static void drop_table(Qcow2 *q, Qcow2Table *t)
{
    for (GList *l = q->loads.head; l; l = l->next) {
        Load *load = l->data;

        load->stale |= load->index == t->index;
    }
    g_queue_unlink(&q->used, &t->link);
    q->tables[t->index] = NULL;
    q->tables_bytes -= table_bytes(q);
    g_free(t);
}

static void remember(Qcow2 *q, Qcow2Table *t)
{
    q->tables[t->index] = t;
    q->tables_bytes += table_bytes(q);
    g_queue_push_head_link(&q->used, &t->link);
}

/* Those that can go do, the last used ones last, until there are no more than so many bytes. Under
 * tables_lock. */
static void shrink_to(Qcow2 *q, uint64_t bytes)
{
    for (GList *l = q->used.tail; l && q->tables_bytes > bytes;) {
        Qcow2Table *t = l->data;

        l = l->prev;
        if (is_clean(t))
            drop_table(q, t);
    }
}

/* For one more. */
static void make_room(Qcow2 *q)
{
    shrink_to(q, q->tables_max - tm_min(q->tables_max, table_bytes(q)));
}

static Qcow2Table *table_new(const Qcow2 *q, uint32_t index)
{
    Qcow2Table *t = g_try_malloc(table_bytes(q));

    if (!t)
        return NULL;
    memset(t, 0, sizeof(*t));
    t->index = index;
    t->link.data = t;
    return t;
}

static int read_table(Qcow2 *q, Qcow2Table *t, uint64_t offset)
{
    int ret = qcow2_read_child(q, QCOW2_FILE, t->entries, offset, q->cluster);

    for (uint64_t i = 0; ret == 0 && i < q->cluster / 8; i++)
        t->entries[i] = tm_get_be64(&t->entries[i]);
    return ret;
}

/* The caller must check whether it is in memory then. */
static int load_table(Qcow2 *q, uint32_t index)
{
    Qcow2Table *t = table_new(q, index);
    Load load = { .index = index, .link.data = &load };
    uint64_t word;
    int ret;

    if (!t)
        return -ENOMEM;
    pthread_mutex_lock(&q->tables_lock);
    word = q->l1[index];
    g_queue_push_tail_link(&q->loads, &load.link);
    pthread_mutex_unlock(&q->tables_lock);
    ret = read_table(q, t, word & QCOW2_OFFSET_MASK);
    TM_GUARD(&q->tables_lock);
    g_queue_unlink(&q->loads, &load.link);
    /* Somebody else may have been faster: the caller looks again. */
    if (ret < 0 || q->tables[index] || q->l1[index] != word || load.stale) {
        g_free(t);
        return ret;
    }
    make_room(q);
    remember(q, t);
    return 0;
}

/* What is not clean can't go: after a commit it can. */
static int relieve(Qcow2 *q)
{
    bool full;
    int ret;

    pthread_mutex_lock(&q->tables_lock);
    full = q->tables_bytes > q->tables_max + table_bytes(q);
    pthread_mutex_unlock(&q->tables_lock);
    if (!full || !q->writable)
        return 0;
    ret = qcow2_commit(q);
    if (ret < 0)
        return ret;
    TM_GUARD(&q->tables_lock);
    shrink_to(q, q->tables_max + table_bytes(q)); /* that is one at least, the last used */
    return 0;
}

int qcow2_table_load(Qcow2 *q, uint64_t offset)
{
    int ret = load_table(q, index_of(q, offset));

    if (ret == 0 && !__atomic_load_n(&q->failing, __ATOMIC_RELAXED))
        relieve(q); /* who reads can do without; who writes asks again */
    return ret;
}

bool qcow2_table_find(Qcow2 *q, uint64_t offset, const uint64_t **entries)
{
    uint32_t index = index_of(q, offset);
    Qcow2Table *t = q->tables[index];

    if (!q->l1[index])
        return false;
    if (t && q->used.head != &t->link) {
        g_queue_unlink(&q->used, &t->link);
        g_queue_push_head_link(&q->used, &t->link);
    }
    *entries = t ? t->entries : NULL;
    return true;
}

/* ---- changing them */

static int reserve_l1(Qcow2 *q, uint32_t index)
{
    return qcow2_reserve_part(q, &q->l1_reserved, q->header.l1_offset,
                              (uint64_t)q->header.l1_size * 8, (uint64_t)index * 8);
}

/* One that is pinned. */
static int reserve_table(Qcow2 *q, Qcow2Table *t, uint64_t word)
{
    int ret = qcow2_reserve_once(q, &t->reserved, word & QCOW2_OFFSET_MASK, q->cluster);

    if (ret < 0)
        qcow2_table_unpin(q, t);
    return ret;
}

/* A table where there was none, or one of our own instead of one that a snapshot has too. Under
 * alloc_lock. */
static int make_table(Qcow2 *q, uint32_t index)
{
    uint64_t word, offset, old;
    Qcow2Table *t = NULL;
    int ret;

    for (;;) {
        pthread_mutex_lock(&q->tables_lock);
        word = q->l1[index];
        if (!word || (!(word & QCOW2_COPIED) && q->tables[index])) {
            if (q->tables[index])
                q->tables[index]->pins++;
            pthread_mutex_unlock(&q->tables_lock);
            break;
        }
        pthread_mutex_unlock(&q->tables_lock);
        if (word & QCOW2_COPIED) /* somebody else was faster */
            return 0;
        ret = load_table(q, index);
        if (ret < 0)
            return ret;
    }
    if (!word)
        t = table_new(q, index);
    ret = word || t ? reserve_l1(q, index) : -ENOMEM;
    if (ret == 0)
        ret = qcow2_alloc_metadata(q, &offset);
    pthread_mutex_lock(&q->tables_lock);
    if (word)
        (t = q->tables[index])->pins--;
    if (ret < 0) {
        pthread_mutex_unlock(&q->tables_lock);
        if (!word)
            g_free(t);
        return ret;
    }
    if (!word) {
        memset(t->entries, 0, q->cluster);
        make_room(q);
        remember(q, t);
    }
    old = word & QCOW2_OFFSET_MASK;
    q->l1[index] = offset | QCOW2_COPIED;
    qcow2_dirty_add(&q->l1_dirty, (uint64_t)index * 8, (uint64_t)index * 8 + 8);
    t->is_new = t->reserved = true;
    qcow2_metadata_add_locked(q, offset, QCOW2_OF_TABLES);
    qcow2_dirty(q);
    pthread_mutex_unlock(&q->tables_lock);
    if (old)
        qcow2_free_locked(q, old, 1, QCOW2_FREED_OTHER);
    return 0;
}

int qcow2_table_pin(Qcow2 *q, uint64_t offset, Qcow2Table **table)
{
    uint32_t index = index_of(q, offset);
    int ret = relieve(q);

    while (ret == 0) {
        uint64_t word;

        pthread_mutex_lock(&q->tables_lock);
        word = q->l1[index];
        if (word & QCOW2_COPIED && q->tables[index]) {
            *table = q->tables[index];
            (*table)->pins++;
            pthread_mutex_unlock(&q->tables_lock);
            return reserve_table(q, *table, word);
        }
        pthread_mutex_unlock(&q->tables_lock);
        if (word & QCOW2_COPIED) {
            ret = load_table(q, index);
        } else {
            TM_GUARD(&q->alloc_lock);
            ret = make_table(q, index);
        }
        if (ret == 0)
            ret = relieve(q);
    }
    return ret;
}

void qcow2_table_unpin(Qcow2 *q, Qcow2Table *table)
{
    TM_GUARD(&q->tables_lock);

    table->pins--;
}

uint64_t *qcow2_table_entry(Qcow2 *q, Qcow2Table *table, uint64_t offset)
{
    uint64_t i = (offset / q->cluster) & ((UINT64_C(1) << q->l2_bits) - 1);

    return table->entries + i * (q->entry_bytes / 8);
}

void qcow2_table_changed(Qcow2 *q, Qcow2Table *table, uint64_t offset, uint64_t clusters)
{
    uint64_t at =
        (uint64_t)((uint8_t *)qcow2_table_entry(q, table, offset) - (uint8_t *)table->entries);

    qcow2_dirty_add(&table->dirty, at, at + clusters * q->entry_bytes);
    qcow2_dirty(q);
}

bool qcow2_table_exists(Qcow2 *q, uint64_t offset)
{
    TM_GUARD(&q->tables_lock);

    return q->l1[index_of(q, offset)] != 0;
}

/* The table's entries (g_free); NULL: it is not in memory. */
static uint64_t *copy_entries(Qcow2 *q, uint32_t index)
{
    TM_GUARD(&q->tables_lock);

    return q->tables[index] ? g_memdup2(q->tables[index]->entries, q->cluster) : NULL;
}

int qcow2_table_drop(Qcow2 *q, uint64_t offset, uint64_t **entries)
{
    uint32_t index = index_of(q, offset);
    uint64_t word = q->l1[index];
    int ret = 0;

    *entries = NULL;
    while (word && ret == 0 && !(*entries = copy_entries(q, index)))
        ret = load_table(q, index);
    if (!word || ret < 0)
        return ret;
    pthread_mutex_lock(&q->commit_lock); /* a commit may have it pinned */
    pthread_mutex_lock(&q->alloc_lock);
    pthread_mutex_lock(&q->tables_lock);
    q->l1[index] = 0;
    if (q->tables[index])
        drop_table(q, q->tables[index]);
    qcow2_dirty_add(&q->l1_dirty, (uint64_t)index * 8, (uint64_t)index * 8 + 8);
    pthread_mutex_unlock(&q->tables_lock);
    qcow2_free_locked(q, word & QCOW2_OFFSET_MASK, 1, QCOW2_FREED_OTHER);
    pthread_mutex_unlock(&q->alloc_lock);
    pthread_mutex_unlock(&q->commit_lock);
    return 0;
}

int qcow2_tables_resize(Qcow2 *q, uint64_t size)
{
    uint32_t n = entries_for(q, size), before = q->l1_size, keep = MIN(n, before);
    uint64_t *l1 = g_try_malloc0((gsize)n * 8 + 8);
    Qcow2Table **tables = g_try_malloc0((gsize)n * sizeof(*tables) + 8);
    int ret;

    if (!l1 || !tables) {
        g_free(l1);
        g_free(tables);
        return -ENOMEM;
    }
    pthread_mutex_lock(&q->tables_lock);
    memcpy(l1, q->l1, (gsize)keep * 8);
    memcpy(tables, q->tables, (gsize)keep * sizeof(*tables));
    g_free(q->l1);
    g_free(q->tables);
    q->l1 = l1;
    q->tables = tables;
    q->l1_size = n;
    pthread_mutex_unlock(&q->tables_lock);
    ret = read_entries(q, before, MIN(n, q->header.l1_size));
    if (ret < 0)
        q->l1_size = before;
    return ret;
}

/* ---- commit */

/* Host-endian words as the medium has them. */
static bool take(GArray *pieces, uint64_t at, const uint64_t *words, Qcow2Dirty range)
{
    Qcow2Piece piece = { at + range.from, range.to - range.from, NULL };

    piece.bytes = g_try_malloc(piece.length);
    if (!piece.bytes)
        return false;
    for (uint32_t i = 0; i < piece.length; i += 8)
        tm_put_be64(piece.bytes + i, words[(range.from + i) / 8]);
    g_array_append_val(pieces, piece);
    return true;
}

static bool take_table(Qcow2 *q, Qcow2Pieces *pieces, Qcow2Table *t)
{
    uint64_t at = q->l1[t->index] & QCOW2_OFFSET_MASK;

    if (t->is_new)
        t->dirty = (Qcow2Dirty){ 0, (uint32_t)q->cluster };
    if (t->dirty.from >= t->dirty.to)
        return true;
    if (!take(t->is_new ? pieces->fresh : pieces->entries, at, t->entries, t->dirty))
        return false;
    t->taken = t->dirty;
    t->taken_new = t->is_new;
    t->dirty = (Qcow2Dirty){ 0 };
    t->is_new = false;
    t->pins++;
    g_ptr_array_add(pieces->tables, t);
    return true;
}

int qcow2_tables_take(Qcow2 *q, Qcow2Pieces *pieces)
{
    for (GList *l = q->used.head; l; l = l->next) {
        if (!take_table(q, pieces, l->data))
            return -ENOMEM;
    }
    if (q->l1_dirty.from < q->l1_dirty.to) {
        if (!take(pieces->entries, q->header.l1_offset, q->l1, q->l1_dirty))
            return -ENOMEM;
        pieces->l1_taken = q->l1_dirty;
        q->l1_dirty = (Qcow2Dirty){ 0 };
    }
    pieces->barrier = q->barrier;
    q->barrier = false;
    return 0;
}

void qcow2_tables_done(Qcow2 *q, Qcow2Pieces *pieces, bool written)
{
    for (guint i = 0; i < pieces->tables->len; i++) {
        Qcow2Table *t = pieces->tables->pdata[i];

        t->pins--;
        if (!written) {
            qcow2_dirty_add(&t->dirty, t->taken.from, t->taken.to);
            t->is_new |= t->taken_new && !pieces->entries_begun;
        }
    }
    if (!written && pieces->l1_taken.from < pieces->l1_taken.to)
        qcow2_dirty_add(&q->l1_dirty, pieces->l1_taken.from, pieces->l1_taken.to);
    q->barrier |= !written && pieces->barrier;
}
