/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/qcow2/check_refcounts.c: the refcounts of an image against what was counted, and
 * how they are repaired one by one, where their blocks are sound.
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

uint64_t qcow2_check_per_block(const Qcow2Check *k)
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

void qcow2_check_set(const Qcow2Check *k, uint8_t *block, uint64_t i, uint64_t value)
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
    k->reftable = g_try_malloc(bytes + 1); /* there may be none */
    ret = k->reftable ? 0 : -ENOMEM;
    if (ret == 0 && bytes)
        ret = qcow2_check_read(k, k->reftable, k->header.reftable_offset, bytes);
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
            what = "is also used by another part of the image";
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
    uint64_t index = cluster / qcow2_check_per_block(k), offset;
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
    *refcount = get(k, block, cluster % qcow2_check_per_block(k));
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
        qcow2_check_set(k, c->block, at, counted);
        c->dirty = true;
        (*(leak ? &k->result.leaks_fixed : &k->result.corruptions_fixed))++;
    } else {
        (*(leak ? &k->result.leaks : &k->result.corruptions))++;
    }
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
    uint64_t first = index * qcow2_check_per_block(k), offset;
    int ret = block_at(k, index, &offset);

    if (ret == 0 && !offset && !qcow2_check_any_counted(k, first, end))
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
    uint64_t limit = tm_max(k->clusters, k->counted_max), per = qcow2_check_per_block(k);
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
