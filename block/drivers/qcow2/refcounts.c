/* block/drivers/qcow2/refcounts.c: how often each host cluster is referred to, and which are free.
 *
 * The table is in memory whole (it is bounded), blocks as they are needed, up to a limit. A block
 * is kept as the medium has it.
 *
 * Invariants:
 *  - what a block in memory says is what the next commit makes of it on the medium;
 *  - a count goes up before anything may refer to the cluster, and down after nothing on the medium
 *    does: qcow2_free() only notes it, qcow2_let_go() does it;
 *  - a free cluster at or behind "touched" was never written to and reads as zeroes.
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

#define GROW_MIN                                                                                   \
    (UINT64_C(1) << 20) /* the file grows by this at least, so that it does so rarely */
#define GROW_MAX   (UINT64_C(64) << 20)
#define FREED_MANY 4096u               /* clusters: waiting for a commit, they are worth one */
#define OFFSET_END (UINT64_C(1) << 56) /* no cluster is at or behind this */

struct Qcow2Block {
    uint64_t index;
    bool is_new, taken_new, pinned; /* pinned: by a commit under way */
    Qcow2Dirty dirty, taken;
    uint8_t bytes[];
};

static uint64_t per_block(const Qcow2 *q)
{
    return q->cluster * 8 >> q->header.refcount_order;
}

static uint64_t count_max(const Qcow2 *q)
{
    unsigned bits = 1u << q->header.refcount_order;

    return bits == 64 ? UINT64_MAX : (UINT64_C(1) << bits) - 1;
}

/* ---- one count in a block */

static uint64_t count_get(const Qcow2 *q, const Qcow2Block *b, uint64_t i)
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

static void count_set(Qcow2 *q, Qcow2Block *b, uint64_t i, uint64_t count)
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
static int block_get(Qcow2 *q, uint64_t index, Qcow2Block **block)
{
    uint64_t offset = index < q->reftable_entries ? q->reftable[index] : 0;
    Qcow2Block *b;
    int ret;

    *block = offset ? g_hash_table_lookup(q->blocks, GSIZE_TO_POINTER(index)) : NULL;
    if (*block || !offset)
        return 0;
    if (offset >= blk_host.child_size(q->node, QCOW2_FILE))
        return qcow2_corrupt(
            q, "refcount block %" PRIu64 " at %" PRIu64 " is behind the end of the image", index,
            offset);
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

static int count_of(Qcow2 *q, uint64_t cluster, uint64_t *count)
{
    Qcow2Block *b;
    int ret = block_get(q, cluster / per_block(q), &b);

    if (ret == 0)
        *count = b ? count_get(q, b, cluster % per_block(q)) : 0;
    return ret;
}

/* ---- growing the structure */

static void add_metadata(Qcow2 *q, uint64_t cluster, uint64_t n)
{
    TM_GUARD(&q->tables_lock);

    for (uint64_t i = 0; i < n; i++)
        g_hash_table_add(q->metadata, GSIZE_TO_POINTER(cluster + i));
}

static void set_block_place(Qcow2 *q, uint64_t index, uint64_t cluster)
{
    q->reftable[index] = cluster * q->cluster;
    qcow2_dirty_add(&q->reftable_dirty, index * 8, index * 8 + 8);
    add_metadata(q, cluster, 1);
    q->touched = tm_max(q->touched, (cluster + 1) * q->cluster);
}

/* Clusters that are free, but by the tables are not: the image is not what its refcounts say. */
static int check_free(Qcow2 *q, uint64_t first, uint64_t clusters)
{
    bool taken = false;

    pthread_mutex_lock(&q->tables_lock);
    for (uint64_t i = 0; i < clusters; i++)
        taken |= g_hash_table_contains(q->metadata, GSIZE_TO_POINTER(first + i));
    pthread_mutex_unlock(&q->tables_lock);
    return taken ? qcow2_corrupt(q, "a cluster of metadata at %" PRIu64 " has refcount 0",
                                 first * q->cluster)
                 : 0;
}

/* A block for counts that had none, at @cluster, which is free: in a block that there is, or the
 * first that the new one counts. */
static int add_block(Qcow2 *q, uint64_t index, uint64_t cluster)
{
    int ret = check_free(q, cluster, 1);
    Qcow2Block *b, *at;

    if (ret < 0)
        return ret;
    b = block_new(q, index);
    if (!b)
        return -ENOMEM;
    b->is_new = true;
    if (cluster / per_block(q) == index) {
        at = b;
    } else {
        ret = block_get(q, cluster / per_block(q), &at);
        if (ret < 0) {
            g_free(b);
            return ret;
        }
    }
    count_set(q, at, cluster % per_block(q), 1);
    block_keep(q, b);
    set_block_place(q, index, cluster);
    return 0;
}

/* A larger table, behind all that the old one counts: first the blocks that count themselves and
 * it, then the table. */
static int grow_table(Qcow2 *q, uint64_t index)
{
    uint64_t first = q->reftable_entries * per_block(q), entries, clusters, blocks = 0, n;
    uint64_t *table;

    entries = tm_max(index + 1, q->reftable_entries + q->reftable_entries / 2);
    do { /* each block that is added may take one more */
        blocks++;
        clusters =
            (tm_max(entries, q->reftable_entries + blocks) * 8 + q->cluster - 1) / q->cluster;
    } while (blocks * per_block(q) < blocks + clusters);
    entries = clusters * q->cluster / 8;
    n = blocks + clusters;
    if (clusters * q->cluster > QCOW2_REFTABLE_MAX || (first + n) * q->cluster > OFFSET_END)
        return -EFBIG;
    if (check_free(q, first, n) < 0)
        return -EIO;
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
        b->is_new = true;
        for (uint64_t k = i * per_block(q); k < n && k < (i + 1) * per_block(q); k++)
            count_set(q, b, k % per_block(q), 1);
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
    q->touched = tm_max(q->touched, (first + n) * q->cluster);
    add_metadata(q, first, n);
    qcow2_dirty(q);
    return 0;
}

/* ---- allocating */

/* The first @clusters that are free in a row from the hint on; the blocks to count them are there.
 */
static int find_free(Qcow2 *q, uint64_t clusters, uint64_t *first)
{
    uint64_t run = 0, i = q->free_hint;

    while (run < clusters) {
        uint64_t index = i / per_block(q);
        Qcow2Block *b;
        int ret;

        if ((i + 1) * q->cluster > OFFSET_END)
            return -EFBIG;
        if (index >= q->reftable_entries) {
            ret = grow_table(q, index);
            if (ret < 0)
                return ret;
            continue;
        }
        ret = block_get(q, index, &b);
        if (ret == 0 && !b) {
            /* At the start of what is found so far, which stays in one piece. */
            ret = add_block(q, index, run ? i - run : i);
            if (run)
                run--;
            else
                i++;
        } else if (ret == 0) {
            run = count_get(q, b, i % per_block(q)) ? 0 : run + 1;
            i++;
        }
        if (ret < 0)
            return ret;
    }
    *first = i - run;
    return 0;
}

static int make_file_reach(Qcow2 *q, uint64_t end)
{
    uint64_t size = blk_host.child_size(q->node, QCOW2_FILE), more;

    if (end <= size)
        return 0;
    more = CLAMP(size / 8, GROW_MIN, GROW_MAX);
    if (blk_host.child_grow(q->node, QCOW2_FILE, end + more) == 0)
        return 0;
    return blk_host.child_grow(q->node, QCOW2_FILE, end);
}

static int count_up(Qcow2 *q, uint64_t first, uint64_t clusters)
{
    for (uint64_t i = 0; i < clusters; i++) {
        uint64_t cluster = first + i;
        Qcow2Block *b;
        int ret = block_get(q, cluster / per_block(q), &b);

        if (ret < 0 || !b)
            return ret < 0 ? ret : -EIO;
        count_set(q, b, cluster % per_block(q), count_get(q, b, cluster % per_block(q)) + 1);
    }
    return 0;
}

int qcow2_alloc_locked(Qcow2 *q, uint64_t clusters, uint64_t *offset, bool *fresh)
{
    uint64_t first;
    int ret = find_free(q, clusters, &first);

    if (ret == 0)
        ret = check_free(q, first, clusters);
    if (ret == 0)
        ret = make_file_reach(q, (first + clusters) * q->cluster);
    if (ret == 0)
        ret = count_up(q, first, clusters);
    if (ret < 0)
        return ret;
    q->free_hint = first + clusters;
    *offset = first * q->cluster;
    *fresh = *offset >= q->touched;
    q->touched = tm_max(q->touched, *offset + clusters * q->cluster);
    return 0;
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
           count_of(q, q->packed / q->cluster, &count) == 0 && count && count < count_max(q) &&
           count_up(q, q->packed / q->cluster, 1) == 0;
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

int qcow2_refcount(Qcow2 *q, uint64_t offset, uint64_t *refcount)
{
    TM_GUARD(&q->alloc_lock);

    return count_of(q, offset / q->cluster, refcount);
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

    pthread_mutex_lock(&q->alloc_lock);
    qcow2_free_locked(q, offset, clusters, by);
    many = q->n_freed > FREED_MANY;
    pthread_mutex_unlock(&q->alloc_lock);
    if (many)
        qcow2_commit(q); /* a failure is met again by whoever flushes */
}

static int count_down(Qcow2 *q, uint64_t cluster)
{
    uint64_t count;
    Qcow2Block *b;
    int ret = block_get(q, cluster / per_block(q), &b);

    if (ret < 0)
        return ret;
    count = b ? count_get(q, b, cluster % per_block(q)) : 0;
    if (!count)
        return qcow2_corrupt(q, "the cluster at %" PRIu64 " is to lose a reference and has none",
                             cluster * q->cluster);
    count_set(q, b, cluster % per_block(q), count - 1);
    if (count > 1)
        return 0;
    q->free_hint = tm_min(q->free_hint, cluster);
    if (q->packed / q->cluster == cluster)
        q->packed = 0;
    TM_GUARD(&q->tables_lock);
    g_hash_table_remove(q->metadata, GSIZE_TO_POINTER(cluster));
    return 0;
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

    return count_of(q, cluster, &count) == 0 && count == 1 && q->packed / q->cluster != cluster;
}

/* The space goes back before the clusters can be had again. Advice: failing costs space only. */
static void discard_clusters(Qcow2 *q, const Qcow2Freed *f)
{
    uint64_t first = f->offset / q->cluster, run = 0;

    for (uint64_t i = 0; i <= f->clusters; i++) {
        if (i < f->clusters && last_reference(q, first + i)) {
            run++;
            continue;
        }
        if (run)
            blk_host.child_discard(q->node, QCOW2_FILE, (first + i - run) * q->cluster,
                                   run * q->cluster);
        run = 0;
    }
}

void qcow2_let_go(Qcow2 *q, const GArray *freed)
{
    for (guint i = 0; i < freed->len; i++) {
        const Qcow2Freed *f = &g_array_index(freed, Qcow2Freed, i);

        if (q->pass_discard[f->by])
            discard_clusters(q, f);
        TM_GUARD(&q->alloc_lock);
        for (uint64_t k = 0; k < f->clusters; k++)
            if (count_down(q, f->offset / q->cluster + k) < 0)
                break; /* leaks */
    }
}

int qcow2_used_end(Qcow2 *q, uint64_t *end)
{
    TM_GUARD(&q->alloc_lock);

    for (uint64_t index = q->reftable_entries; index-- > 0;) {
        Qcow2Block *b;
        int ret = block_get(q, index, &b);

        if (ret < 0)
            return ret;
        for (uint64_t i = b ? per_block(q) : 0; i-- > 0;) {
            if (count_get(q, b, i)) {
                *end = (index * per_block(q) + i + 1) * q->cluster;
                return 0;
            }
        }
    }
    *end = q->cluster;
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
    return take(q->reftable_moved ? pieces->fresh : pieces->anchors, q->reftable_offset, bytes,
                range);
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

/* ---- metadata */

bool qcow2_is_metadata(const Qcow2 *q, uint64_t offset)
{
    return g_hash_table_contains(q->metadata, GSIZE_TO_POINTER(offset / q->cluster));
}

bool qcow2_metadata_add(Qcow2 *q, uint64_t offset, uint64_t clusters)
{
    bool apart = true;
    TM_GUARD(&q->tables_lock);

    for (uint64_t i = 0; i < clusters; i++)
        apart &= g_hash_table_add(q->metadata, GSIZE_TO_POINTER(offset / q->cluster + i));
    return apart;
}

void qcow2_metadata_remove(Qcow2 *q, uint64_t offset, uint64_t clusters)
{
    TM_GUARD(&q->tables_lock);

    for (uint64_t i = 0; i < clusters; i++)
        g_hash_table_remove(q->metadata, GSIZE_TO_POINTER(offset / q->cluster + i));
}

/* ---- opening */

static int check_blocks(Qcow2 *q)
{
    for (uint64_t i = 0; i < q->reftable_entries; i++) {
        uint64_t offset = q->reftable[i] = tm_get_be64(&q->reftable[i]) & ~UINT64_C(511);

        if (!offset)
            continue;
        if (offset & (q->cluster - 1) || offset >= OFFSET_END) {
            blk_host.error(q->node,
                           "qcow2: refcount block %" PRIu64 " is said to be at %" PRIu64
                           ", which is no cluster",
                           i, offset);
            return -EINVAL;
        }
        if (!qcow2_metadata_add(q, offset, 1)) {
            blk_host.error(
                q->node,
                "qcow2: refcount block %" PRIu64 " at %" PRIu64
                " lies over other metadata: the image is corrupt and can only be read, or "
                "be repaired",
                i, offset);
            qcow2_corrupt(q, "refcount block %" PRIu64 " at %" PRIu64 " lies over other metadata",
                          i, offset);
            return -EIO;
        }
    }
    return 0;
}

int qcow2_refcounts_open(Qcow2 *q)
{
    uint64_t bytes = (uint64_t)q->header.reftable_clusters * q->cluster;
    int ret;

    q->blocks = g_hash_table_new_full(NULL, NULL, NULL, block_free);
    q->freed = g_array_new(FALSE, FALSE, sizeof(Qcow2Freed));
    q->touched = blk_host.child_size(q->node, QCOW2_FILE);
    q->reftable_entries = bytes / 8;
    q->reftable_offset = q->header.reftable_offset;
    q->reftable_clusters = q->header.reftable_clusters;
    q->reftable = g_try_malloc(bytes);
    if (!q->reftable)
        return -ENOMEM;
    if (!qcow2_metadata_add(q, q->header.reftable_offset, q->header.reftable_clusters)) {
        blk_host.error(q->node, "qcow2: the refcount table at %" PRIu64 " lies over other metadata",
                       q->header.reftable_offset);
        return -EIO;
    }
    ret = qcow2_read_child(q, QCOW2_FILE, q->reftable, q->header.reftable_offset, bytes);
    if (ret < 0) {
        blk_host.error(q->node, "Could not read the refcount table: %s", tm_strerror(-ret));
        return ret;
    }
    return check_blocks(q);
}

void qcow2_refcounts_close(Qcow2 *q)
{
    g_clear_pointer(&q->blocks, g_hash_table_unref);
    g_clear_pointer(&q->reftable, g_free);
    if (q->freed)
        g_array_unref(q->freed);
}
