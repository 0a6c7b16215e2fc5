/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/qcow2/check_copied.c: entries against refcounts, and the repair of entries.
 *
 * COPIED says that a cluster's refcount is exactly 1; only the active tables have it. */
#include "block/drivers/qcow2/check.h"
#include "util/endian.h"
#include "util/error.h"
#include "util/range.h"

#include <errno.h>
#include <inttypes.h>

/* A walk over the tables below one L1. */
typedef struct Walk Walk;
struct Walk {
    Qcow2Check *k;
    uint64_t l1_offset;
    uint32_t l1_size;
    bool fix;
    uint8_t *table; /* the L2 table, as it is on the medium */
    /* May change what is in memory; says whether it did. */
    bool (*entry)(Walk *w, uint8_t *at);
    int (*l1_entry)(Walk *w, uint64_t index, uint64_t entry); /* or NULL */
};

static int write_l2(Walk *w, uint64_t offset)
{
    if (!qcow2_check_holds(w->k, offset, QCOW2_HOLDS_L2)) {
        w->k->result.check_errors++;
        qcow2_check_found(w->k,
                          "ERROR: the L2 table at %" PRIu64
                          " overlaps another part of the image, and is not repaired",
                          offset);
        return 0;
    }
    return qcow2_check_write(w->k, w->table, offset, w->k->cluster);
}

static int walk_l2(Walk *w, uint64_t offset)
{
    Qcow2Check *k = w->k;
    bool changed = false;
    int ret;

    if (qcow2_check_hole(k, offset, k->cluster) == k->cluster)
        return 0;
    ret = qcow2_check_read(k, w->table, offset, k->cluster);
    for (uint64_t at = 0; ret == 0 && at < k->cluster; at += k->entry_bytes)
        changed |= w->entry(w, w->table + at);
    return ret == 0 && changed && w->fix ? write_l2(w, offset) : ret;
}

static int walk_chunk(Walk *w, const uint8_t *chunk, uint64_t first, uint64_t n)
{
    int ret = 0;

    for (uint64_t i = 0; ret == 0 && i < n; i++) {
        uint64_t entry = tm_get_be64(chunk + i * 8);

        if (!(entry & QCOW2_OFFSET_MASK))
            continue;
        if (w->l1_entry)
            ret = w->l1_entry(w, first + i, entry);
        if (ret == 0)
            ret = walk_l2(w, entry & QCOW2_OFFSET_MASK);
    }
    return ret;
}

static bool walk(Walk *w, GError **error)
{
    Qcow2Check *k = w->k;
    uint64_t bytes = (uint64_t)w->l1_size * 8;
    g_autofree uint8_t *table = w->table = g_try_malloc(k->cluster);
    uint8_t chunk[4096];
    int ret = table ? 0 : -ENOMEM;

    for (uint64_t done = 0; ret == 0 && done < bytes;) {
        uint64_t n = tm_align_down(qcow2_check_hole(k, w->l1_offset + done, bytes - done), 8);

        if (!n) {
            n = tm_min(bytes - done, sizeof(chunk));
            ret = qcow2_check_read(k, chunk, w->l1_offset + done, n);
            if (ret == 0)
                ret = walk_chunk(w, chunk, done / 8, n / 8);
        }
        if (!blk_progress_add(&k->work, n / 8, error))
            return false;
        done += n;
    }
    return ret == 0 || tm_error_set_errno(error, -ret, "Could not check the L1 table at %" PRIu64,
                                          w->l1_offset);
}

/* ---- COPIED */

/* What the flag should be; false: nobody knows. */
static bool find_copied(Qcow2Check *k, uint64_t offset, uint64_t *refcount)
{
    return qcow2_check_refcount(k, offset / k->cluster, refcount) == 0;
}

static void count_flag(Walk *w, const char *what, uint64_t entry, uint64_t refcount)
{
    (*(w->fix ? &w->k->result.corruptions_fixed : &w->k->result.corruptions))++;
    qcow2_check_found(w->k, "%s OFLAG_COPIED %s: entry=%" PRIx64 " refcount=%" PRIu64,
                      w->fix ? "Repairing" : "ERROR", what, entry, refcount);
}

static bool copied_entry(Walk *w, uint8_t *at)
{
    uint64_t entry = tm_get_be64(at), offset, length, refcount = 1;
    Qcow2Kind kind = qcow2_check_kind(w->k, entry, &offset, &length);

    if (kind != QCOW2_DATA && !(kind == QCOW2_ZERO && offset))
        return false;
    if (!w->k->external_data && !find_copied(w->k, offset, &refcount))
        return false;
    if ((refcount == 1) == ((entry & QCOW2_COPIED) != 0))
        return false;
    count_flag(w, "data cluster", entry, refcount);
    tm_put_be64(at, entry ^ QCOW2_COPIED);
    return true;
}

static int copied_l1_entry(Walk *w, uint64_t index, uint64_t entry)
{
    uint64_t at = w->l1_offset + index * 8, refcount;
    uint8_t bytes[8];

    if (!find_copied(w->k, entry & QCOW2_OFFSET_MASK, &refcount) ||
        (refcount == 1) == ((entry & QCOW2_COPIED) != 0))
        return 0;
    count_flag(w, "L2 cluster", entry, refcount);
    if (!w->fix)
        return 0;
    if (!qcow2_check_holds(w->k, at, QCOW2_HOLDS_L1)) {
        w->k->result.check_errors++;
        qcow2_check_found(
            w->k, "ERROR: the L1 table overlaps another part of the image, and is not repaired");
        return 0;
    }
    tm_put_be64(bytes, entry ^ QCOW2_COPIED);
    return qcow2_check_write(w->k, bytes, at, sizeof(bytes));
}

bool qcow2_check_copied(Qcow2Check *k, bool fix, GError **error)
{
    Walk w = { .k = k,
               .l1_offset = k->header.l1_offset,
               .l1_size = k->header.l1_size,
               .fix = fix,
               .entry = copied_entry,
               .l1_entry = copied_l1_entry };

    return walk(&w, error);
}

/* ---- entries that are nothing */

/* An entry that only had a place reserved, and that place can't be. */
static bool zero_entry(Walk *w, uint8_t *at)
{
    Qcow2Check *k = w->k;
    uint64_t entry = tm_get_be64(at), offset, length, bitmap;
    Qcow2Kind kind = qcow2_check_kind(k, entry, &offset, &length);

    if ((kind != QCOW2_DATA && kind != QCOW2_ZERO) || !(offset & (k->cluster - 1)))
        return false;
    if (k->entry_bytes == 16) {
        bitmap = tm_get_be64(at + 8);
        if ((uint32_t)bitmap)
            return false;
        tm_put_be64(at, 0);
    } else {
        if (!(entry & QCOW2_READS_ZERO))
            return false;
        tm_put_be64(at, QCOW2_READS_ZERO);
    }
    k->result.corruptions_fixed++;
    qcow2_check_found(k,
                      "Repairing offset=%" PRIx64 ": preallocated cluster is not properly "
                      "aligned",
                      offset);
    return true;
}

bool qcow2_check_zero_entries(Qcow2Check *k, GError **error)
{
    Walk w = { .k = k,
               .l1_offset = k->header.l1_offset,
               .l1_size = k->header.l1_size,
               .fix = true,
               .entry = zero_entry };

    if (!walk(&w, error))
        return false;
    for (guint i = 0; i < k->snapshots->len; i++) {
        const Qcow2Snapshot *s = &g_array_index(k->snapshots, Qcow2Snapshot, i);

        w.l1_offset = s->l1_offset;
        w.l1_size = s->l1_size;
        if (!(s->l1_offset & (k->cluster - 1)) && (uint64_t)s->l1_size * 8 <= QCOW2_L1_MAX &&
            !walk(&w, error))
            return false;
    }
    return true;
}
