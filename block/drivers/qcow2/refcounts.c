/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/qcow2/refcounts.c: how often each host cluster is referred to.
 *
 * The table is in memory whole (it is bounded), blocks as they are needed, up to a limit. A block
 * is kept as the medium has it.
 *
 * Invariants:
 *  - what a block in memory says is what the next commit makes of it on the medium;
 *  - a count goes up before anything may refer to the cluster, and down after nothing on the medium
 *    does (clusters.c).
 *
 * Source: the specification, "Host cluster management". */
#include "block/drivers/qcow2/qcow2.h"
#include "util/endian.h"
#include "util/error.h"
#include "util/range.h"
#include "util/sync.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

struct Qcow2Block {
    uint64_t index;
    bool is_new, taken_new, pinned; /* pinned: by a commit under way */
    bool reserved;
    Qcow2Dirty dirty, taken;
    uint8_t bytes[];
};

/* ---- one count in a block */

uint64_t qcow2_count_get(const Qcow2 *q, const Qcow2Block *b, uint64_t i)
{
    unsigned order = q->header.refcount_order, bits = 1u << order;

    switch (order) {
    case 3:
        return b->bytes[i];
    case 4:
        return tm_get_be16(b->bytes + i * 2);
    case 5:
        return tm_get_be32(b->bytes + i * 4);
    case 6:
        return tm_get_be64(b->bytes + i * 8);
    default:
        return (unsigned)b->bytes[i * bits / 8] >> i * bits % 8 & ((1u << bits) - 1);
    }
}

void qcow2_count_set(Qcow2 *q, Qcow2Block *b, uint64_t i, uint64_t count)
{
    unsigned order = q->header.refcount_order, bits = 1u << order;
    uint8_t *at = b->bytes + i * bits / 8;

    switch (order) {
    case 3:
        *at = (uint8_t)count;
        break;
    case 4:
        tm_put_be16(at, (uint16_t)count);
        break;
    case 5:
        tm_put_be32(at, (uint32_t)count);
        break;
    case 6:
        tm_put_be64(at, count);
        break;
    default:
        *at = (uint8_t)((*at & ~(((1u << bits) - 1) << i * bits % 8)) | count << i * bits % 8);
    }
    qcow2_dirty_add(&b->dirty, i * bits / 8, i * bits / 8 + MAX(bits / 8, 1));
    qcow2_dirty(q);
}

/* ---- blocks */

static void block_free(void *block)
{
    g_free(block);
}

static bool can_go(void *key, void *value, void *opaque)
{
    const Qcow2Block *b = value;

    return !b->is_new && !b->pinned && b->dirty.from >= b->dirty.to;
}

/* Blocks are big and few: when there are too many, all go that can. */
static gboolean can_go_now(void *key, void *value, void *opaque)
{
    return can_go(key, value, opaque);
}

static Qcow2Block *block_new(Qcow2 *q, uint64_t index)
{
    Qcow2Block *b;

    if (g_hash_table_size(q->blocks) >= q->blocks_max)
        g_hash_table_foreach_remove(q->blocks, can_go_now, NULL);
    b = g_try_malloc0(sizeof(*b) + q->cluster);
    if (b)
        b->index = index;
    return b;
}

static void block_keep(Qcow2 *q, Qcow2Block *b)
{
    g_hash_table_insert(q->blocks, GSIZE_TO_POINTER(b->index), b);
}

/* *block is NULL where there is none: its counts are all 0. */
int qcow2_block_get(Qcow2 *q, uint64_t index, Qcow2Block **block)
{
    uint64_t offset = index < q->reftable_entries ? q->reftable[index] : 0;
    Qcow2Block *b;
    int ret;

    *block = offset ? g_hash_table_lookup(q->blocks, GSIZE_TO_POINTER(index)) : NULL;
    if (*block || !offset)
        return 0;
    b = block_new(q, index);
    ret = b ? qcow2_read_child(q, QCOW2_FILE, b->bytes, offset, q->cluster) : -ENOMEM;
    if (ret < 0) {
        g_free(b);
        return ret;
    }
    block_keep(q, b);
    *block = b;
    return 0;
}

int qcow2_count_of(Qcow2 *q, uint64_t cluster, uint64_t *count)
{
    Qcow2Block *b;
    int ret = qcow2_block_get(q, cluster / qcow2_per_block(q), &b);

    if (ret == 0)
        *count = b ? qcow2_count_get(q, b, cluster % qcow2_per_block(q)) : 0;
    return ret;
}

int qcow2_block_reserve(Qcow2 *q, Qcow2Block *block)
{
    return qcow2_reserve_once(q, &block->reserved, q->reftable[block->index], q->cluster);
}

/* ---- growing the structure */

static void set_block_place(Qcow2 *q, uint64_t index, uint64_t cluster)
{
    q->reftable[index] = cluster * q->cluster;
    qcow2_dirty_add(&q->reftable_dirty, index * 8, index * 8 + 8);
    qcow2_metadata_add(q, cluster * q->cluster, 1, QCOW2_OF_TABLES);
}

static int reserve_reftable(Qcow2 *q, uint64_t index)
{
    return qcow2_reserve_part(q, &q->reftable_reserved, q->reftable_offset,
                              q->reftable_clusters * q->cluster, index * 8);
}

/* A block for counts that had none, at @cluster, which is free: in a block that there is, or the
 * first that the new one counts. */
int qcow2_block_add(Qcow2 *q, uint64_t index, uint64_t cluster)
{
    int ret = qcow2_check_free(q, cluster, 1);
    Qcow2Block *b, *at = NULL;

    if (ret == 0)
        ret = qcow2_make_room(q, cluster * q->cluster, 1);
    if (ret == 0)
        ret = reserve_reftable(q, index);
    if (ret < 0)
        return ret;
    b = block_new(q, index);
    if (!b)
        return -ENOMEM;
    b->is_new = b->reserved = true;
    if (cluster / qcow2_per_block(q) == index)
        at = b;
    else
        ret = qcow2_block_get(q, cluster / qcow2_per_block(q), &at);
    if (ret == 0 && at != b)
        ret = qcow2_block_reserve(q, at);
    if (ret < 0) {
        g_free(b);
        return ret;
    }
    qcow2_count_set(q, at, cluster % qcow2_per_block(q), 1);
    block_keep(q, b);
    set_block_place(q, index, cluster);
    return 0;
}

/* A larger table, after all that the old one counts: first the blocks that count themselves and
 * it, then the table. */
int qcow2_reftable_grow(Qcow2 *q, uint64_t index)
{
    uint64_t first = q->reftable_entries * qcow2_per_block(q), entries, clusters, blocks = 0, n;
    uint64_t *table;
    int ret;

    entries = tm_max(index + 1, q->reftable_entries + q->reftable_entries / 2);
    do { /* each block that is added may take one more */
        blocks++;
        clusters =
            (tm_max(entries, q->reftable_entries + blocks) * 8 + q->cluster - 1) / q->cluster;
    } while (blocks * qcow2_per_block(q) < blocks + clusters);
    entries = clusters * q->cluster / 8;
    n = blocks + clusters;
    if (clusters * q->cluster > QCOW2_REFTABLE_MAX || (first + n) * q->cluster > QCOW2_OFFSET_END)
        return -EFBIG;
    ret = qcow2_check_free(q, first, n);
    if (ret == 0)
        ret = qcow2_make_room(q, first * q->cluster, n);
    if (ret < 0)
        return ret;
    table = g_try_malloc0(entries * 8);
    if (!table)
        return -ENOMEM;
    memcpy(table, q->reftable, q->reftable_entries * 8);
    for (uint64_t i = 0; i < blocks; i++) {
        Qcow2Block *b = block_new(q, q->reftable_entries + i);

        if (!b) { /* the blocks that were made stay unknown: no table has them */
            while (i--)
                g_hash_table_remove(q->blocks, GSIZE_TO_POINTER(q->reftable_entries + i));
            g_free(table);
            return -ENOMEM;
        }
        b->is_new = b->reserved = true;
        for (uint64_t k = i * qcow2_per_block(q); k < n && k < (i + 1) * qcow2_per_block(q); k++)
            qcow2_count_set(q, b, k % qcow2_per_block(q), 1);
        block_keep(q, b);
        table[q->reftable_entries + i] = (first + i) * q->cluster;
    }
    qcow2_free_locked(q, q->reftable_offset, q->reftable_clusters, QCOW2_FREED_OTHER);
    g_free(q->reftable);
    q->reftable = table;
    q->reftable_entries = entries;
    q->reftable_moved = true;
    q->reftable_offset = (first + blocks) * q->cluster;
    q->reftable_clusters = (uint32_t)clusters;
    qcow2_metadata_add(q, first * q->cluster, n, QCOW2_OF_TABLES);
    qcow2_dirty(q);
    return 0;
}

/* ---- commit */

static bool take(GArray *pieces, uint64_t offset, const uint8_t *bytes, Qcow2Dirty range)
{
    Qcow2Piece piece = { offset + range.from, range.to - range.from, NULL };

    piece.bytes = g_try_malloc(piece.length);
    if (!piece.bytes)
        return false;
    memcpy(piece.bytes, bytes + range.from, piece.length);
    g_array_append_val(pieces, piece);
    return true;
}

static bool take_block(Qcow2 *q, Qcow2Pieces *pieces, Qcow2Block *b)
{
    if (b->is_new)
        b->dirty = (Qcow2Dirty){ 0, (uint32_t)q->cluster };
    if (b->dirty.from >= b->dirty.to)
        return true;
    if (!take(pieces->fresh, q->reftable[b->index], b->bytes, b->dirty))
        return false;
    b->taken = b->dirty;
    b->taken_new = b->is_new;
    b->dirty = (Qcow2Dirty){ 0 };
    b->is_new = false;
    b->pinned = true;
    g_ptr_array_add(pieces->blocks, b);
    return true;
}

/* What the table has changed, or all of it where it is new. */
static bool take_table(Qcow2 *q, Qcow2Pieces *pieces)
{
    g_autofree uint8_t *bytes = NULL;
    Qcow2Dirty range = q->reftable_moved ? (Qcow2Dirty){ 0, (uint32_t)(q->reftable_entries * 8) }
                                         : q->reftable_dirty;

    if (range.from >= range.to)
        return true;
    bytes = g_try_malloc(q->reftable_entries * 8);
    if (!bytes)
        return false;
    for (uint32_t i = range.from; i < range.to; i += 8)
        tm_put_be64(bytes + i, q->reftable[i / 8]);
    return take(q->reftable_moved && q->reftable_in_header != q->reftable_offset ? pieces->fresh
                                                                                 : pieces->anchors,
                q->reftable_offset, bytes, range);
}

int qcow2_refcounts_take(Qcow2 *q, Qcow2Pieces *pieces)
{
    GHashTableIter iter;
    void *block;

    g_hash_table_iter_init(&iter, q->blocks);
    while (g_hash_table_iter_next(&iter, NULL, &block)) {
        if (!take_block(q, pieces, block))
            return -ENOMEM;
    }
    if (!take_table(q, pieces))
        return -ENOMEM;
    pieces->reftable_moved = q->reftable_moved;
    pieces->reftable_offset = q->reftable_offset;
    pieces->reftable_clusters = q->reftable_clusters;
    pieces->reftable_taken = q->reftable_dirty;
    q->reftable_moved = false;
    q->reftable_dirty = (Qcow2Dirty){ 0 };
    return 0;
}

void qcow2_refcounts_done(Qcow2 *q, Qcow2Pieces *pieces, bool written)
{
    for (guint i = 0; i < pieces->blocks->len; i++) {
        Qcow2Block *b = pieces->blocks->pdata[i];

        b->pinned = false;
        if (!written) {
            qcow2_dirty_add(&b->dirty, b->taken.from, b->taken.to);
            b->is_new |= b->taken_new;
        }
    }
    if (!written) {
        q->reftable_moved |= pieces->reftable_moved;
        if (pieces->reftable_taken.from < pieces->reftable_taken.to)
            qcow2_dirty_add(&q->reftable_dirty, pieces->reftable_taken.from,
                            pieces->reftable_taken.to);
    }
}

/* ---- opening */

/* Without it nobody knows what is free. */
static int lost(Qcow2 *q, const char *what, uint64_t offset)
{
    blk_host.error(q->node,
                   "qcow2: the %s at %" PRIu64
                   " is beyond the end of the file: repair the image, or open it read-only",
                   what, offset);
    return -EIO;
}

static int check_blocks(Qcow2 *q)
{
    for (uint64_t i = 0; i < q->reftable_entries; i++) {
        uint64_t offset = q->reftable[i] = tm_get_be64(&q->reftable[i]) & ~UINT64_C(511);

        if (!offset)
            continue;
        if (offset & (q->cluster - 1) || offset >= QCOW2_OFFSET_END) {
            blk_host.error(q->node,
                           "qcow2: refcount block %" PRIu64 " is at %" PRIu64
                           ", expected the start of a cluster",
                           i, offset);
            return -EINVAL;
        }
        if (offset >= blk_host.child_size(q->node, QCOW2_FILE))
            return lost(q, "refcount block", offset);
        if (!qcow2_metadata_add(q, offset, 1, QCOW2_OF_TABLES)) {
            blk_host.error(
                q->node,
                "qcow2: refcount block %" PRIu64 " at %" PRIu64
                " overlaps other metadata: the image is corrupt; repair it, or open it read-only",
                i, offset);
            qcow2_corrupt(q, "refcount block %" PRIu64 " at %" PRIu64 " overlaps other metadata", i,
                          offset);
            return -EIO;
        }
    }
    return 0;
}

int qcow2_refcounts_open(Qcow2 *q)
{
    uint64_t bytes = (uint64_t)q->header.reftable_clusters * q->cluster;
    uint64_t size = blk_host.child_size(q->node, QCOW2_FILE);
    int ret;

    q->blocks = g_hash_table_new_full(NULL, NULL, NULL, block_free);
    q->freed = g_array_new(FALSE, FALSE, sizeof(Qcow2Freed));
    q->retired = g_array_new(FALSE, FALSE, sizeof(Qcow2Freed));
    q->reftable_entries = bytes / 8;
    q->reftable_offset = q->header.reftable_offset;
    q->reftable_clusters = q->header.reftable_clusters;
    q->reftable = g_try_malloc(bytes);
    if (!q->reftable)
        return -ENOMEM;
    if (q->header.reftable_offset >= size)
        return lost(q, "refcount table", q->header.reftable_offset);
    if (!qcow2_metadata_add(q, q->header.reftable_offset, q->header.reftable_clusters,
                            QCOW2_OF_TABLES)) {
        blk_host.error(q->node, "qcow2: the refcount table at %" PRIu64 " overlaps other metadata",
                       q->header.reftable_offset);
        return -EIO;
    }
    ret = qcow2_read_child(q, QCOW2_FILE, q->reftable, q->header.reftable_offset, bytes);
    if (ret < 0) {
        blk_host.error(q->node, "Could not read the refcount table: %s", tm_strerror(-ret));
        return ret;
    }
    ret = check_blocks(q);
    if (ret < 0)
        return ret;
    ret = qcow2_used_end(q, tm_align_up(size, q->cluster), &q->touched);
    if (ret < 0)
        blk_host.error(q->node, "Could not read the refcounts: %s", tm_strerror(-ret));
    return ret;
}

void qcow2_refcounts_close(Qcow2 *q)
{
    g_clear_pointer(&q->blocks, g_hash_table_unref);
    g_clear_pointer(&q->reftable, g_free);
    if (q->freed)
        g_array_unref(q->freed);
    if (q->retired)
        g_array_unref(q->retired);
}
