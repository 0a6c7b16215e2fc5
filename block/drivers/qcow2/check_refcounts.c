/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/qcow2/check_refcounts.c: the refcounts of an image against what was counted, and
 * how they are repaired: one by one where their blocks are sound, else all of them anew.
 *
 * Source: the specification, "Host cluster management". */
#include "block/drivers/qcow2/check.h"
#include "util/endian.h"
#include "util/error.h"
#include "util/range.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

/* ---- blocks */

static uint64_t per_block(const Qcow2Check *k)
{
    return k->cluster * 8 / k->bits;
}

static uint64_t get(const Qcow2Check *k, const uint8_t *block, uint64_t i)
{
    switch (k->bits) {
    case 64:
        return tm_get_be64(block + i * 8);
    case 32:
        return tm_get_be32(block + i * 4);
    case 16:
        return tm_get_be16(block + i * 2);
    case 8:
        return block[i];
    default: /* the first one is in the lowest bits */
        return (block[i * k->bits / 8] >> (i * k->bits % 8)) & k->max;
    }
}

static void set(const Qcow2Check *k, uint8_t *block, uint64_t i, uint64_t value)
{
    uint8_t *at = block + i * k->bits / 8;
    unsigned shift = (unsigned)(i * k->bits % 8);

    if (k->bits == 64)
        tm_put_be64(at, value);
    else if (k->bits == 32)
        tm_put_be32(at, (uint32_t)value);
    else if (k->bits == 16)
        tm_put_be16(at, (uint16_t)value);
    else
        *at = (uint8_t)((*at & ~(k->max << shift)) | value << shift);
}

/* Where block @index is: 0: there is none; -EIO: it can't be there. */
static int block_at(const Qcow2Check *k, uint64_t index, uint64_t *offset)
{
    *offset = index < k->reftable_entries ? k->reftable[index] & ~QCOW2_REFTABLE_RESERVED : 0;
    return *offset & (k->cluster - 1) ? -EIO : 0;
}

bool qcow2_check_load_reftable(Qcow2Check *k, GError **error)
{
    uint64_t bytes = (uint64_t)k->header.reftable_clusters * k->cluster;
    int ret;

    g_free(k->reftable);
    k->reftable_entries = bytes / 8;
    k->reftable = g_try_malloc(bytes);
    ret =
        k->reftable ? qcow2_check_read(k, k->reftable, k->header.reftable_offset, bytes) : -ENOMEM;
    if (ret < 0)
        return tm_error_set_errno(error, -ret, "Could not read the refcount table");
    for (uint64_t i = 0; i < k->reftable_entries; i++)
        k->reftable[i] = tm_get_be64(&k->reftable[i]);
    return true;
}

static void check_block(Qcow2Check *k, uint64_t i)
{
    uint64_t entry = k->reftable[i], offset;
    int ret = block_at(k, i, &offset);
    const char *what = NULL;

    if (entry & QCOW2_REFTABLE_RESERVED) {
        what = "has reserved bits set";
    } else if (ret < 0) {
        what = "is not cluster aligned";
    } else if (offset / k->cluster >= tm_max(k->clusters, k->counted_max)) {
        what = "is outside image";
    } else if (offset) {
        qcow2_check_refer(k, offset, k->cluster, QCOW2_HOLDS_REFS);
        if ((qcow2_check_cell(k, offset / k->cluster) & QCOW2_HOLDS_COUNT) != 1)
            what = "is used for something else, too";
    }
    if (!what)
        return;
    k->result.corruptions++;
    k->rebuild = true;
    qcow2_check_found(k, "ERROR refcount block %" PRIu64 " %s: table entry=0x%" PRIx64, i, what,
                      entry);
}

bool qcow2_check_blocks(Qcow2Check *k, GError **error)
{
    for (uint64_t i = 0; i < k->reftable_entries; i++)
        if (k->reftable[i])
            check_block(k, i);
    return blk_progress_add(&k->work, 0, error);
}

int qcow2_check_refcount(Qcow2Check *k, uint64_t cluster, uint64_t *refcount)
{
    uint64_t index = cluster / per_block(k), offset;
    unsigned slot = (unsigned)(index % k->n_slots);
    uint8_t *block = k->slots + slot * k->cluster;
    int ret = block_at(k, index, &offset);

    *refcount = 0;
    if (ret < 0 || !offset)
        return ret;
    if (k->slot_of[slot] != index + 1) {
        k->slot_of[slot] = 0;
        ret = qcow2_check_read(k, block, offset, k->cluster);
        if (ret < 0)
            return ret;
        k->slot_of[slot] = index + 1;
    }
    *refcount = get(k, block, cluster % per_block(k));
    return 0;
}

/* ---- comparing */

typedef struct Compare {
    Qcow2Check *k;
    unsigned fix;
    uint8_t *block; /* of the medium, zeroes if there is none */
    bool there, dirty;
    uint64_t highest; /* cluster in use, plus 1 */
} Compare;

static void differs(Compare *c, uint64_t cluster, uint64_t at, uint64_t is, uint64_t counted)
{
    Qcow2Check *k = c->k;
    bool leak = is > counted;
    bool repairs = c->there && c->fix & (leak ? BLK_IMAGE_FIX_LEAKS : BLK_IMAGE_FIX_ERRORS);

    if (!c->there)
        k->rebuild = true;
    qcow2_check_found(k, "%s cluster %" PRIu64 " refcount=%" PRIu64 " reference=%" PRIu64,
                      repairs ? "Repairing"
                      : leak  ? "Leaked"
                              : "ERROR",
                      cluster, is, counted);
    if (repairs) {
        set(k, c->block, at, counted);
        c->dirty = true;
        (*(leak ? &k->result.leaks_fixed : &k->result.corruptions_fixed))++;
    } else {
        (*(leak ? &k->result.leaks : &k->result.corruptions))++;
    }
}

static bool any_counted(Qcow2Check *k, uint64_t first, uint64_t end)
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

static void compare_clusters(Compare *c, uint64_t first, uint64_t end)
{
    for (uint64_t at = first; at < end;) {
        uint64_t n = end - at;
        const uint32_t *cells = qcow2_check_cells(c->k, at, &n);

        for (uint64_t i = 0; i < n; i++) {
            uint64_t is = get(c->k, c->block, at - first + i);
            uint64_t counted = cells ? cells[i] & QCOW2_HOLDS_COUNT : 0;

            if (is || counted)
                c->highest = at + i + 1;
            if (is != counted)
                differs(c, at + i, at - first + i, is, counted);
        }
        at += n;
    }
}

static bool compare_block(Compare *c, uint64_t index, uint64_t end, GError **error)
{
    Qcow2Check *k = c->k;
    uint64_t first = index * per_block(k), offset;
    int ret = block_at(k, index, &offset);

    if (ret == 0 && !offset && !any_counted(k, first, end))
        return true;
    memset(c->block, 0, k->cluster);
    c->there = offset != 0;
    c->dirty = false;
    if (ret == 0 && offset)
        ret = qcow2_check_read(k, c->block, offset, k->cluster);
    if (ret < 0) {
        k->result.check_errors += end - first;
        k->rebuild = true;
        qcow2_check_found(k, "Can't get refcounts of clusters %" PRIu64 " to %" PRIu64 ": %s",
                          first, end - 1, tm_strerror(-ret));
        return true;
    }
    compare_clusters(c, first, end);
    ret = c->dirty ? qcow2_check_write(k, c->block, offset, k->cluster) : 0;
    return ret == 0 ||
           tm_error_set_errno(error, -ret, "Could not write refcount block %" PRIu64, index);
}

bool qcow2_check_compare(Qcow2Check *k, unsigned fix, GError **error)
{
    uint64_t limit = tm_max(k->clusters, k->counted_max), per = per_block(k);
    Compare c = { .k = k, .fix = fix, .highest = 1 };
    g_autofree uint8_t *block = g_try_malloc(k->cluster);

    c.block = block;
    if (!block)
        return tm_error_set_errno(error, ENOMEM, "Could not compare the refcounts");
    for (uint64_t i = 0; i * per < limit; i++)
        if (!compare_block(&c, i, tm_min(limit, (i + 1) * per), error) ||
            (i % 64 == 0 && !blk_progress_add(&k->work, i < k->reftable_entries ? 64 : 0, error)))
            return false;
    k->result.image_end = c.highest * k->cluster;
    memset(k->slot_of, 0, k->n_slots * sizeof(*k->slot_of));
    return true;
}

/* ---- all of them anew */

typedef struct Rebuild {
    uint64_t start, total; /* clusters: of the new table, and after it the blocks */
    uint64_t table;        /* clusters of the table alone */
    uint64_t indexes;      /* entries that it needs */
} Rebuild;

static bool needs_block(Qcow2Check *k, const Rebuild *r, uint64_t index)
{
    uint64_t first = index * per_block(k), end = first + per_block(k);

    return (first < r->start + r->total && end > r->start) ||
           any_counted(k, first, tm_min(end, r->start));
}

/* The new blocks need refcounts, too: it takes as much as it takes for what it takes. */
static void lay_out(Qcow2Check *k, Rebuild *r)
{
    uint64_t needed = 2;

    r->start = tm_max(k->clusters, k->counted_max);
    do {
        r->total = needed;
        r->indexes = (r->start + r->total + per_block(k) - 1) / per_block(k);
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
        uint64_t first = i * per_block(k);

        if (!needs_block(k, r, i))
            continue;
        memset(block, 0, k->cluster);
        for (uint64_t c = 0; c < per_block(k) && first + c < k->counted_max;) {
            uint64_t n = per_block(k) - c;
            const uint32_t *cells = qcow2_check_cells(k, first + c, &n);

            for (uint64_t j = 0; cells && j < n; j++)
                set(k, block, c + j, cells[j] & QCOW2_HOLDS_COUNT);
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
