/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/qcow2/metadata.c: which host clusters hold metadata, by the tables and not by their
 * refcounts: an image whose tables and refcounts are at odds would lose it to data.
 *
 * Kept apart are the header, L1 and L2, the refcount table and its blocks, the snapshot table and
 * the L1 tables of snapshots, and what the bitmaps are in. */
#include "block/drivers/qcow2/snapshots.h"
#include "util/range.h"
#include "util/sync.h"

#include <errno.h>
#include <inttypes.h>

#define SNAPSHOT_L1_MAX 65536u /* clusters of the L1 tables of snapshots that are kept apart */

bool qcow2_is_metadata(const Qcow2 *q, uint64_t offset)
{
    return g_hash_table_contains(q->metadata, GSIZE_TO_POINTER(offset / q->cluster));
}

bool qcow2_metadata_add_locked(Qcow2 *q, uint64_t offset, Qcow2Metadata kind)
{
    if (qcow2_is_metadata(q, offset))
        return false;
    g_hash_table_insert(q->metadata, GSIZE_TO_POINTER(offset / q->cluster), GUINT_TO_POINTER(kind));
    return true;
}

bool qcow2_metadata_add(Qcow2 *q, uint64_t offset, uint64_t clusters, Qcow2Metadata kind)
{
    bool apart = true;
    TM_GUARD(&q->tables_lock);

    for (uint64_t i = 0; i < clusters; i++)
        apart &= qcow2_metadata_add_locked(q, offset + i * q->cluster, kind);
    return apart;
}

void qcow2_metadata_remove(Qcow2 *q, uint64_t offset)
{
    TM_GUARD(&q->tables_lock);

    g_hash_table_remove(q->metadata, GSIZE_TO_POINTER(offset / q->cluster));
}

bool qcow2_has_metadata(Qcow2 *q, uint64_t offset, uint64_t clusters, bool of_tables)
{
    uint64_t first = offset / q->cluster;
    TM_GUARD(&q->tables_lock);

    for (uint64_t i = first; i < first + clusters; i++) {
        gpointer kind = g_hash_table_lookup(q->metadata, GSIZE_TO_POINTER(i));

        if (kind && !(of_tables && GPOINTER_TO_UINT(kind) == QCOW2_OF_BITMAPS))
            return true;
    }
    return false;
}

/* The image is not what its refcounts say. */
int qcow2_check_free(Qcow2 *q, uint64_t first, uint64_t clusters)
{
    if (!qcow2_has_metadata(q, first * q->cluster, clusters, false))
        return 0;
    return qcow2_corrupt(q, "a cluster of metadata at %" PRIu64 " has refcount 0",
                         first * q->cluster);
}

/* ---- what the header names */

static uint64_t clusters_of(const Qcow2 *q, uint64_t bytes)
{
    return bytes / q->cluster + !!(bytes % q->cluster);
}

/* Theirs are only looked after: who reads a snapshot checks them. */
static void add_snapshot_tables(Qcow2 *q, const GArray *snapshots)
{
    uint64_t size = qcow2_reach(blk_host.child_size(q->node, QCOW2_FILE)), all = 0;

    for (guint i = 0; i < snapshots->len; i++) {
        const Qcow2Snapshot *s = &g_array_index(snapshots, Qcow2Snapshot, i);
        uint64_t clusters = clusters_of(q, (uint64_t)s->l1_size * 8);

        if (!qcow2_snapshot_check(&q->header, s, size, NULL) || clusters > SNAPSHOT_L1_MAX - all)
            continue;
        qcow2_metadata_add(q, s->l1_offset, clusters, QCOW2_OF_TABLES);
        all += clusters;
    }
}

int qcow2_metadata_open(Qcow2 *q)
{
    const Qcow2Header *h = &q->header;
    g_autoptr(GError) error = NULL;
    g_autoptr(GArray) snapshots = NULL;
    uint64_t bytes;

    q->metadata = g_hash_table_new(NULL, NULL);
    snapshots = qcow2_snapshots_read(blk_node_child(q->node, QCOW2_FILE), h, &bytes, NULL, &error);
    if (!snapshots) {
        blk_host.error(q->node, "%s", error->message);
        return -EINVAL;
    }
    if (qcow2_metadata_add(q, 0, 1, QCOW2_OF_TABLES) &&
        qcow2_metadata_add(q, h->l1_offset, clusters_of(q, (uint64_t)h->l1_size * 8),
                           QCOW2_OF_TABLES) &&
        qcow2_metadata_add(q, h->snapshots_offset, clusters_of(q, bytes), QCOW2_OF_TABLES)) {
        add_snapshot_tables(q, snapshots);
        return 0;
    }
    blk_host.error(q->node, "qcow2: the L1 table or the snapshot table overlaps other metadata: "
                            "the image is corrupt; repair it, or open it read-only");
    return qcow2_corrupt(q, "the L1 table or the snapshot table overlaps other metadata");
}
