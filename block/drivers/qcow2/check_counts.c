/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/qcow2/check_counts.c: what all passes of a check use: the file, and the counts of
 * what is referred to.
 *
 * Counts are kept by page of clusters, where there are any. */
#include "block/drivers/qcow2/check.h"
#include "util/range.h"

#include <inttypes.h>
#include <string.h>

#define PAGE 1024u /* clusters */

/* ---- the file */

void qcow2_check_found(Qcow2Check *k, const char *format, ...)
{
    g_autofree char *line = NULL;
    va_list ap;

    if (k->quiet || !k->options.found)
        return;
    va_start(ap, format);
    line = g_strdup_vprintf(format, ap);
    va_end(ap);
    k->options.found(k->options.opaque, line);
}

int qcow2_check_read(Qcow2Check *k, void *buf, uint64_t offset, uint64_t length)
{
    uint64_t there = offset < k->size ? tm_min(length, k->size - offset) : 0;

    memset((char *)buf + there, 0, length - there);
    return there ? blk_node_pread(k->file, buf, offset, there) : 0;
}

uint64_t qcow2_check_hole(Qcow2Check *k, uint64_t offset, uint64_t length)
{
    TmExtent extent;
    TmExtents out = { &extent, 1, 0 };
    uint64_t there = offset < k->size ? tm_min(length, k->size - offset) : 0, described;

    if (!there)
        return length;
    if (blk_node_status(k->file, offset, there, &out, &described) < 0 || !out.count ||
        !(extent.flags & TM_STATE_ZERO))
        return 0;
    return extent.length >= there ? length : extent.length;
}

int qcow2_check_write(Qcow2Check *k, const void *buf, uint64_t offset, uint64_t length)
{
    return blk_node_pwrite(k->file, buf, offset, length, 0);
}

int qcow2_check_grow(Qcow2Check *k, uint64_t size)
{
    int ret = blk_node_grow(k->file, size);

    k->size = tm_max(k->size, blk_node_size(k->file));
    k->clusters = k->size / k->cluster + !!(k->size % k->cluster);
    return ret;
}

/* ---- counts */

uint32_t qcow2_check_cell(Qcow2Check *k, uint64_t cluster)
{
    const uint32_t *page = g_hash_table_lookup(k->pages, GUINT_TO_POINTER((guint)(cluster / PAGE)));

    return page ? page[cluster % PAGE] : 0;
}

const uint32_t *qcow2_check_cells(Qcow2Check *k, uint64_t cluster, uint64_t *n)
{
    const uint32_t *page = g_hash_table_lookup(k->pages, GUINT_TO_POINTER((guint)(cluster / PAGE)));

    *n = tm_min(*n, PAGE - cluster % PAGE);
    return page ? page + cluster % PAGE : NULL;
}

bool qcow2_check_holds(Qcow2Check *k, uint64_t offset, uint32_t holds)
{
    return (qcow2_check_cell(k, offset / k->cluster) & ~QCOW2_HOLDS_COUNT) == holds;
}

void qcow2_check_add(Qcow2Check *k, uint64_t cluster, uint32_t holds)
{
    gpointer key = GUINT_TO_POINTER((guint)(cluster / PAGE)); /* clusters fit into 32 bits */
    uint32_t *page = g_hash_table_lookup(k->pages, key), *cell;

    if (!page) {
        page = g_new0(uint32_t, PAGE);
        g_hash_table_insert(k->pages, key, page);
    }
    cell = &page[cluster % PAGE];
    *cell |= holds;
    k->counted_max = tm_max(k->counted_max, cluster + 1);
    if ((*cell & QCOW2_HOLDS_COUNT) < tm_min(k->max, QCOW2_HOLDS_COUNT)) {
        (*cell)++;
        return;
    }
    k->result.corruptions++;
    qcow2_check_found(k, "ERROR: overflow cluster offset=0x%" PRIx64, cluster * k->cluster);
}

void qcow2_check_refer(Qcow2Check *k, uint64_t offset, uint64_t length, uint32_t holds)
{
    uint64_t end = UINT64_MAX;

    if (!length)
        return;
    /* The last cluster of a file may be there in part. */
    if (!tm_range_end(offset, length, &end) || (end > k->size && end - k->size >= k->cluster)) {
        k->result.corruptions++;
        if (end <= qcow2_reach(k->size))
            k->cut_end = tm_max(k->cut_end, end);
        qcow2_check_found(k,
                          "ERROR: counting reference for region exceeding the end of the file by "
                          "one cluster or more: offset 0x%" PRIx64 " size 0x%" PRIx64,
                          offset, length);
        return;
    }
    for (uint64_t c = offset / k->cluster; c <= (end - 1) / k->cluster; c++)
        qcow2_check_add(k, c, holds);
}

bool qcow2_check_fresh(Qcow2Check *k, uint64_t offset, uint64_t length, uint32_t holds)
{
    uint64_t first = offset / k->cluster, last = (offset + length - 1) / k->cluster;

    for (uint64_t c = first; length && c <= last && c < k->counted_max; c++)
        if (qcow2_check_cell(k, c) & holds)
            return k->repeated++ < QCOW2_REPEATED_MAX;
    return true;
}

bool qcow2_check_any_counted(Qcow2Check *k, uint64_t first, uint64_t end)
{
    while (first < end) {
        uint64_t n = end - first;
        const uint32_t *cells = qcow2_check_cells(k, first, &n);

        for (uint64_t i = 0; cells && i < n; i++)
            if (cells[i])
                return true;
        first += n;
    }
    return false;
}
