/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/qcow2/check_refs.c: counting what the tables of an image refer to. */
#include "block/drivers/qcow2/check.h"
#include "util/endian.h"
#include "util/error.h"
#include "util/range.h"

#include <errno.h>
#include <inttypes.h>

#define L1_RESERVED UINT64_C(0x7f000000000001ff)
#define L2_RESERVED UINT64_C(0x3f000000000001fe)
#define CHUNK       (UINT64_C(64) << 10)

/* ---- entries of L2 */

Qcow2Kind qcow2_check_kind(const Qcow2Check *k, uint64_t entry, uint64_t *offset, uint64_t *length)
{
    *offset = entry & QCOW2_OFFSET_MASK;
    *length = k->cluster;
    if (entry & QCOW2_COMPRESSED_FLAG) {
        unsigned shift = 62 - (k->header.cluster_bits - 8);
        uint64_t sectors = (entry & (QCOW2_COMPRESSED_FLAG - 1)) >> shift;

        *offset = entry & ((UINT64_C(1) << shift) - 1);
        *length = (sectors + 1) * 512 - (*offset & 511);
        return QCOW2_COMPRESSED;
    }
    if (entry & QCOW2_READS_ZERO && k->entry_bytes == 8)
        return QCOW2_ZERO;
    /* In a data file, the first cluster is as good as any other. */
    if (!*offset && !(k->external_data && entry & QCOW2_COPIED))
        return QCOW2_UNALLOCATED;
    return QCOW2_DATA;
}

/* What is wrong, counted. */
static void wrong(Qcow2Check *k, const char *what, uint64_t entry)
{
    k->result.corruptions++;
    qcow2_check_found(k, "ERROR %s: entry=0x%" PRIx64, what, entry);
}

static void count_compressed(Qcow2Check *k, uint64_t entry, uint64_t bitmap, uint64_t offset,
                             uint64_t length, bool active)
{
    if (entry & QCOW2_COPIED)
        wrong(k, "copied flag must never be set for compressed clusters", entry);
    if (k->external_data) {
        wrong(k, "compressed cluster with data file", entry);
        return;
    }
    if (bitmap) {
        wrong(k, "compressed cluster with non-zero subcluster allocation bitmap", entry);
        return;
    }
    qcow2_check_refer(k, offset, length, QCOW2_HOLDS_DATA);
    if (active) {
        k->result.allocated_clusters++;
        k->result.compressed_clusters++;
        k->result.fragmented_clusters++;
    }
}

/* An entry with a place of its own, be it read or not. *next: where the cluster after this one is
 * expected. */
static void count_placed(Qcow2Check *k, uint64_t entry, uint64_t bitmap, uint64_t offset,
                         uint64_t *next, bool active)
{
    if ((bitmap >> 32) & bitmap)
        wrong(k, "allocated cluster has corrupted subcluster allocation bitmap", entry);
    if (offset & (k->cluster - 1)) {
        bool data = k->entry_bytes == 16 ? (uint32_t)bitmap : !(entry & QCOW2_READS_ZERO);

        if (data) {
            wrong(k, "data cluster is not properly aligned", entry);
        } else {
            wrong(k, "preallocated cluster is not properly aligned", entry);
            k->fixable++;
        }
    }
    if (active) {
        k->result.allocated_clusters++;
        if (*next && offset != *next)
            k->result.fragmented_clusters++;
        *next = offset + k->cluster;
    }
    if (!k->external_data)
        qcow2_check_refer(k, offset, k->cluster, QCOW2_HOLDS_DATA);
}

static void count_entry(Qcow2Check *k, uint64_t entry, uint64_t bitmap, uint64_t *next, bool active)
{
    uint64_t offset, length;
    Qcow2Kind kind = qcow2_check_kind(k, entry, &offset, &length);

    if (kind != QCOW2_COMPRESSED && entry & L2_RESERVED)
        wrong(k, "found l2 entry with reserved bits set", entry);
    if (kind == QCOW2_COMPRESSED)
        count_compressed(k, entry, bitmap, offset, length, active);
    else if (kind == QCOW2_DATA || (kind == QCOW2_ZERO && offset))
        count_placed(k, entry, bitmap, offset, next, active);
    else if (kind == QCOW2_UNALLOCATED && (uint32_t)bitmap)
        wrong(k, "unallocated cluster has non-zero subcluster allocation map", entry);
}

/* ---- tables */

/* *visits: tables that this L1 refers to. */
static bool count_l2(Qcow2Check *k, uint64_t offset, bool active, uint64_t *visits, GError **error)
{
    g_autofree uint8_t *table = NULL;
    uint64_t next = 0;
    int ret;

    if (qcow2_check_hole(k, offset, k->cluster) == k->cluster)
        return true;
    if (++*visits > k->allocated + QCOW2_REPEATED_MAX)
        return tm_error_set(error,
                            "The image is too corrupt to be checked: L2 tables have too many "
                            "references");
    table = g_try_malloc(k->cluster);
    ret = table ? qcow2_check_read(k, table, offset, k->cluster) : -ENOMEM;
    if (ret < 0)
        return tm_error_set_errno(error, -ret, "Could not read the L2 table at %" PRIu64, offset);
    for (uint64_t at = 0; at < k->cluster; at += k->entry_bytes)
        count_entry(k, tm_get_be64(table + at),
                    k->entry_bytes == 16 ? tm_get_be64(table + at + 8) : 0, &next, active);
    return true;
}

static bool count_l1_entry(Qcow2Check *k, uint64_t entry, bool active, uint64_t *visits,
                           GError **error)
{
    uint64_t offset = entry & QCOW2_OFFSET_MASK;

    if (!entry)
        return true;
    if (entry & L1_RESERVED)
        wrong(k, "found L1 entry with reserved bits set", entry);
    qcow2_check_refer(k, offset, k->cluster, QCOW2_HOLDS_L2);
    if (offset & (k->cluster - 1))
        wrong(k, "L2 table is not cluster aligned", entry);
    return count_l2(k, offset, active, visits, error);
}

static bool count_l1(Qcow2Check *k, uint64_t offset, uint32_t entries, bool active, GError **error)
{
    uint64_t bytes = (uint64_t)entries * 8, visits = 0;
    g_autofree uint8_t *chunk = g_malloc(CHUNK);

    if (!qcow2_check_fresh(k, offset, bytes, QCOW2_HOLDS_L1))
        return tm_error_set(error, "The image is too corrupt to be checked: L1 tables overlap");
    qcow2_check_refer(k, offset, bytes, QCOW2_HOLDS_L1);
    for (uint64_t done = 0; done < bytes;) {
        uint64_t n = tm_align_down(qcow2_check_hole(k, offset + done, bytes - done), 8);
        int ret;

        if (!n) {
            n = tm_min(bytes - done, CHUNK);
            ret = qcow2_check_read(k, chunk, offset + done, n);
            if (ret < 0)
                return tm_error_set_errno(error, -ret, "Could not read the L1 table at %" PRIu64,
                                          offset);
            for (uint64_t i = 0; i < n; i += 8)
                if (!count_l1_entry(k, tm_get_be64(chunk + i), active, &visits, error))
                    return false;
        }
        if (!blk_progress_add(&k->work, n / 8, error))
            return false;
        done += n;
    }
    return true;
}

static bool count_snapshots(Qcow2Check *k, GError **error)
{
    uint64_t before = k->result.corruptions;

    if (k->no_snapshots) {
        k->result.unlisted = true;
        k->result.corruptions++;
        qcow2_check_found(k, "ERROR %s", k->no_snapshots);
    }
    if (k->external_data && k->snapshots->len) {
        k->result.corruptions++;
        qcow2_check_found(k, "ERROR %u snapshots in image with data file", k->snapshots->len);
    }
    for (guint i = 0; i < k->snapshots->len; i++) {
        const Qcow2Snapshot *s = &g_array_index(k->snapshots, Qcow2Snapshot, i);
        bool aligned = !(s->l1_offset & (k->cluster - 1));

        if (k->header.version >= 3 && s->extra_size < QCOW2_SNAPSHOT_DISK_SIZE_END) {
            k->result.corruptions++;
            qcow2_check_found(k, "ERROR snapshot table entry %u is incomplete", i);
        }
        if (!aligned || (uint64_t)s->l1_size * 8 > QCOW2_L1_MAX) {
            k->result.corruptions++;
            qcow2_check_found(k,
                              "ERROR snapshot %s (%s): L1 table of %u entries at %" PRIu64
                              " is %s; snapshot table entry corrupted",
                              s->id, s->name, s->l1_size, s->l1_offset,
                              aligned ? "too large" : "not cluster aligned");
            continue;
        }
        if (!count_l1(k, s->l1_offset, s->l1_size, false, error))
            return false;
    }
    if (k->cut_snapshots && k->result.corruptions == before) {
        k->result.corruptions++;
        qcow2_check_found(k, "ERROR snapshot table extends beyond the end of the image");
    }
    qcow2_check_refer(k, k->header.snapshots_offset, k->snapshots_bytes, QCOW2_HOLDS_OTHER);
    return true;
}

bool qcow2_check_count(Qcow2Check *k, bool refcounts_too, GError **error)
{
    const Qcow2Header *h = &k->header;

    g_hash_table_remove_all(k->pages);
    k->counted_max = k->fixable = k->repeated = k->cut_end = 0;
    k->rebuild = false;
    k->result = (BlkImageCheck){ 0 };
    k->result.total_clusters = h->size / k->cluster + !!(h->size % k->cluster);
    qcow2_check_refer(k, 0, k->cluster, QCOW2_HOLDS_HEADER);
    if (!count_l1(k, h->l1_offset, h->l1_size, true, error) || !count_snapshots(k, error) ||
        !qcow2_check_bitmaps(k, error))
        return false;
    if (!refcounts_too)
        return true;
    qcow2_check_refer(k, h->reftable_offset, (uint64_t)h->reftable_clusters * k->cluster,
                      QCOW2_HOLDS_REFS);
    return qcow2_check_blocks(k, error);
}
