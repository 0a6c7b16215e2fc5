/* block/drivers/qcow2/resize.c: another size of the disk. Nothing else is under way then.
 *
 * Growing: a longer L1 if it takes one, on the medium before the header says where it is; then the
 * size. What was behind the old end, in its last cluster or in a longer backing, reads as zeroes.
 * Shrinking: what is cut off is let go, then the size. */
#include "block/drivers/qcow2/qcow2.h"
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
        blk_host.error(q->node, "An L1 table of %" PRIu64 " bytes would be too large", entries * 8);
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
    int ret = 0;

    if (from < tail)
        ret = q->header.version >= 3 ? qcow2_write_zeroes(q, from, tail - from, 0)
                                     : clear_tail(q, from, tail);
    if (ret < 0 || below <= tail)
        return ret;
    if (q->header.version >= 3)
        return qcow2_write_zeroes(q, tail, tm_min(tm_align_up(below, q->cluster), size) - tail, 0);
    blk_host.error(
        q->node,
        "A version 2 image can't hide what its longer backing file has behind the old end");
    return -ENOTSUP;
}

static int grow(Qcow2 *q, uint64_t size)
{
    uint64_t entries = entries_for(q, size), before = q->header.size;
    int ret = entries > q->header.l1_size ? grow_l1(q, entries) : 0;

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
        ret = blk_host.child_grow(q->node, QCOW2_DATA_FILE, size);
    if (ret == 0)
        ret = write_fields(q, size, q->header.l1_offset, q->header.l1_size);
    return ret;
}

/* Entries of whole clusters behind the new end, and tables that have no others. */
static int cut(Qcow2 *q, uint64_t size)
{
    uint64_t covered = q->cluster << q->l2_bits, kept = tm_align_up(size, covered);

    for (uint64_t at = tm_align_up(size, q->cluster); at < q->header.size;) {
        uint64_t stop = tm_min(tm_align_down(at, covered) + covered, q->header.size);
        Qcow2Table *table;
        int ret;

        if (qcow2_table_exists(q, at)) {
            ret = qcow2_table_pin(q, at, &table);
            if (ret < 0)
                return ret;
            for (uint64_t c = at; c < stop; c += q->cluster) {
                uint64_t *words = qcow2_table_entry(q, table, c), old = words[0];

                pthread_mutex_lock(&q->tables_lock);
                memset(words, 0, q->entry_bytes);
                qcow2_table_changed(q, table, c, 1);
                pthread_mutex_unlock(&q->tables_lock);
                qcow2_free_entry(q, old, QCOW2_FREED_REQUEST);
            }
            qcow2_table_unpin(q, table);
        }
        at = stop;
    }
    TM_GUARD(&q->alloc_lock);
    qcow2_tables_drop(q, (uint32_t)(kept / covered));
    return 0;
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
    /* It has its new size. What fails now costs space only, and is told to who flushes. */
    qcow2_tables_resize(q, size);
    if (qcow2_commit(q) == 0 && qcow2_used_end(q, &end) == 0 &&
        end < blk_host.child_size(q->node, QCOW2_FILE) &&
        blk_host.child_resize(q->node, QCOW2_FILE, end) == 0)
        q->touched = tm_min(q->touched, end);
    if (q->header.data_raw)
        blk_host.child_resize(q->node, QCOW2_DATA_FILE, size);
    return 0;
}

int qcow2_resize(void *handle, uint64_t size)
{
    Qcow2 *q = handle;

    if (!q->writable) {
        blk_host.error(q->node, "Image is read-only");
        return -EROFS;
    }
    if (size % 512) {
        blk_host.error(q->node, "The new size must be a multiple of 512");
        return -EINVAL;
    }
    if (q->header.n_snapshots && (q->header.version < 3 || size < q->header.size)) {
        blk_host.error(q->node, q->header.version < 3
                                    ? "Can't resize a v2 image which has snapshots"
                                    : "Can't shrink an image which has snapshots");
        return -ENOTSUP;
    }
    if (size == q->header.size) /* which may be what it came back to */
        return q->header_in_doubt ? qcow2_commit(q) : 0;
    return size > q->header.size ? grow(q, size) : shrink(q, size);
}
