/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/qcow2/check_rebuild.c: the refcounts of an image written anew, all of them, by what
 * was counted. */
#include "block/drivers/qcow2/check.h"
#include "util/endian.h"
#include "util/error.h"
#include "util/range.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

typedef struct Rebuild {
    uint64_t start, total; /* clusters: of the new table, and after it the blocks */
    uint64_t table;        /* clusters of the table alone */
    uint64_t indexes;      /* entries that it needs */
} Rebuild;

static bool needs_block(Qcow2Check *k, const Rebuild *r, uint64_t index)
{
    uint64_t first = index * qcow2_check_per_block(k), end = first + qcow2_check_per_block(k);

    return (first < r->start + r->total && end > r->start) ||
           qcow2_check_any_counted(k, first, tm_min(end, r->start));
}

/* The new blocks need refcounts, too: it takes as much as it takes for what it takes. */
static void lay_out(Qcow2Check *k, Rebuild *r)
{
    uint64_t needed = 2;

    r->start = tm_max(k->clusters, k->counted_max);
    do {
        r->total = needed;
        r->indexes =
            (r->start + r->total + qcow2_check_per_block(k) - 1) / qcow2_check_per_block(k);
        needed = r->table = (r->indexes * 8 + k->cluster - 1) / k->cluster;
        for (uint64_t i = 0; i < r->indexes; i++)
            needed += needs_block(k, r, i);
    } while (needed > r->total);
}

static int write_blocks(Qcow2Check *k, const Rebuild *r, uint8_t *block, uint64_t *table)
{
    uint64_t at = (r->start + r->table) * k->cluster;
    int ret = 0;

    for (uint64_t i = 0; ret == 0 && i < r->indexes; i++) {
        uint64_t first = i * qcow2_check_per_block(k);

        if (!needs_block(k, r, i))
            continue;
        memset(block, 0, k->cluster);
        for (uint64_t c = 0; c < qcow2_check_per_block(k) && first + c < k->counted_max;) {
            uint64_t n = qcow2_check_per_block(k) - c;
            const uint32_t *cells = qcow2_check_cells(k, first + c, &n);

            for (uint64_t j = 0; cells && j < n; j++)
                qcow2_check_set(k, block, c + j, cells[j] & QCOW2_HOLDS_COUNT);
            c += n;
        }
        tm_put_be64(&table[i], at);
        ret = qcow2_check_write(k, block, at, k->cluster);
        at += k->cluster;
    }
    return ret == 0 ? blk_node_flush(k->file) : ret;
}

/* The header is the last to know. */
static int write_all(Qcow2Check *k, const Rebuild *r, uint8_t *block, uint64_t *table)
{
    uint8_t fields[12];
    int ret = qcow2_check_grow(k, (r->start + r->total) * k->cluster);

    if (ret == 0)
        ret = write_blocks(k, r, block, table);
    if (ret == 0)
        ret = qcow2_check_write(k, table, r->start * k->cluster, r->table * k->cluster);
    if (ret == 0)
        ret = blk_node_flush(k->file);
    tm_put_be64(fields, r->start * k->cluster);
    tm_put_be32(fields + 8, (uint32_t)r->table);
    if (ret == 0)
        ret = qcow2_check_write(k, fields, 48, sizeof(fields));
    return ret == 0 ? blk_node_flush(k->file) : ret;
}

/* What the file lost of its end is a hole again: else what is new would be where tables say that
 * something else is. */
static bool count_all(Qcow2Check *k, GError **error)
{
    int ret;

    if (!qcow2_check_count(k, false, error))
        return false;
    if (!k->cut_end)
        return true;
    ret = qcow2_check_grow(k, tm_align_up(k->cut_end, k->cluster));
    if (ret < 0)
        return tm_error_set_errno(error, -ret, "Could not rebuild the refcounts");
    return qcow2_check_count(k, false, error);
}

bool qcow2_check_rebuild(Qcow2Check *k, GError **error)
{
    g_autofree uint8_t *block = g_try_malloc(k->cluster);
    g_autofree uint64_t *table = NULL;
    Rebuild r;
    int ret;

    if (!count_all(k, error))
        return false;
    lay_out(k, &r);
    if (r.table * k->cluster > QCOW2_REFTABLE_MAX)
        return tm_error_set(error,
                            "Could not rebuild the refcounts: the table would have %" PRIu64
                            " bytes, expected at most %" PRIu64,
                            r.table * k->cluster, QCOW2_REFTABLE_MAX);
    table = g_try_malloc0(r.table * k->cluster);
    if (!block || !table)
        return tm_error_set_errno(error, ENOMEM, "Could not rebuild the refcounts");
    for (uint64_t c = 0; c < r.total; c++)
        qcow2_check_add(k, r.start + c, QCOW2_HOLDS_REFS);
    ret = write_all(k, &r, block, table);
    if (ret < 0)
        return tm_error_set_errno(error, -ret, "Could not rebuild the refcounts");
    k->header.reftable_offset = r.start * k->cluster;
    k->header.reftable_clusters = (uint32_t)r.table;
    memset(k->slot_of, 0, k->n_slots * sizeof(*k->slot_of));
    return qcow2_check_load_reftable(k, error);
}
