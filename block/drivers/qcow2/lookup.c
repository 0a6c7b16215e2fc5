/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/qcow2/lookup.c: what the entries of an L2 table say of a range of the disk.
 *
 * Source: the specification, "Cluster mapping" and "Extended L2 Entries". */
#include "block/drivers/qcow2/qcow2.h"
#include "util/range.h"
#include "util/sync.h"

#include <errno.h>
#include <inttypes.h>

typedef struct Entry {
    Qcow2Kind kind;
    uint64_t host;
    bool occupied, own;
    uint64_t length; /* from the place asked to the end of what is alike in this cluster */
} Entry;

/* Subclusters from number @at on that are alike. false: an invalid combination. */
static bool subclusters(const Qcow2 *q, uint64_t bitmap, uint64_t within, Entry *e)
{
    unsigned at = (unsigned)(within / q->subcluster), end = at;
    uint32_t allocated = (uint32_t)bitmap, zero = (uint32_t)(bitmap >> 32);
    unsigned state = (allocated >> at & 1) | (zero >> at & 1) << 1;

    if (allocated & zero)
        return false;
    while (end < QCOW2_SUBCLUSTERS && ((allocated >> end & 1) | (zero >> end & 1) << 1) == state)
        end++;
    e->kind = state == 0 ? QCOW2_UNALLOCATED : state == 1 ? QCOW2_DATA : QCOW2_ZERO;
    e->length = end * q->subcluster - within;
    return true;
}

static int decode(const Qcow2 *q, const uint64_t *words, uint64_t offset, Entry *e)
{
    uint64_t word = words[0], bitmap = q->header.extended_l2 ? words[1] : 0;
    uint64_t within = offset & (q->cluster - 1);

    e->length = q->cluster - within;
    e->host = word & QCOW2_OFFSET_MASK;
    /* In a data file offset 0 is one like others; COPIED says that there is something. */
    e->occupied = e->host || (q->header.external_data && word & QCOW2_COPIED);
    e->own = e->occupied && (word & QCOW2_COPIED || q->header.external_data);
    if (word & QCOW2_COMPRESSED_FLAG) {
        if (bitmap || q->header.external_data)
            return -EIO;
        e->kind = QCOW2_COMPRESSED;
        e->host = word & ~(QCOW2_COPIED | QCOW2_COMPRESSED_FLAG);
        e->occupied = true;
        e->own = false;
        return 0;
    }
    if (e->host & (q->cluster - 1))
        return -EIO;
    if (q->header.extended_l2) {
        if (!subclusters(q, bitmap, within, e))
            return -EIO;
    } else if (q->header.version >= 3 && word & QCOW2_READS_ZERO) {
        e->kind = QCOW2_ZERO;
    } else {
        e->kind = e->occupied ? QCOW2_DATA : QCOW2_UNALLOCATED;
    }
    if (e->kind == QCOW2_DATA && !e->occupied)
        return -EIO;
    e->host += within;
    if (e->kind == QCOW2_DATA && q->header.external_data && e->host != offset)
        return -EIO; /* there each cluster has its own place */
    return 0;
}

/* Whether @next goes on where @run ends. */
static bool continues(const Qcow2Run *run, const Entry *next, unsigned flags)
{
    if (run->kind != next->kind || run->kind == QCOW2_COMPRESSED || run->occupied != next->occupied)
        return false;
    if (flags & QCOW2_FOR_WRITE && run->own != next->own)
        return false;
    return !(run->kind == QCOW2_DATA || (flags & QCOW2_FOR_WRITE && run->occupied)) ||
           next->host == run->host + run->length;
}

/* Writing in place would change metadata, or make the file as large as some entry says. */
static bool misplaced(const Qcow2 *q, const Entry *e)
{
    return e->own && q->data_child == QCOW2_FILE && q->metadata &&
           (qcow2_is_metadata(q, e->host) || !qcow2_reaches(q, tm_align_down(e->host, q->cluster)));
}

/* Within one table. */
static int walk(const Qcow2 *q, const uint64_t *entries, uint64_t offset, uint64_t length,
                unsigned flags, Qcow2Run *run)
{
    uint64_t end = offset + length;

    run->length = 0;
    while (offset < end) {
        uint64_t i = (offset / q->cluster) & ((UINT64_C(1) << q->l2_bits) - 1);
        Entry e;
        int ret = decode(q, entries + i * (q->entry_bytes / 8), offset, &e);

        if (ret == 0 && flags & QCOW2_FOR_WRITE && misplaced(q, &e))
            ret = -EUCLEAN;
        if (ret < 0)
            return run->length ? 0 : ret;
        if (!run->length)
            *run =
                (Qcow2Run){ .kind = e.kind, .host = e.host, .occupied = e.occupied, .own = e.own };
        else if (!continues(run, &e, flags))
            break;
        run->length += tm_min(e.length, end - offset);
        offset += e.length;
    }
    return 0;
}

/* -ENOENT: the table is not in memory. */
static int lookup_loaded(Qcow2 *q, uint64_t offset, uint64_t length, unsigned flags, Qcow2Run *run)
{
    const uint64_t *entries;
    TM_GUARD(&q->tables_lock);

    if (!qcow2_table_find(q, offset, &entries)) {
        *run = (Qcow2Run){ .kind = QCOW2_UNALLOCATED, .length = length };
        return 0;
    }
    return entries ? walk(q, entries, offset, length, flags, run) : -ENOENT;
}

int qcow2_lookup(Qcow2 *q, uint64_t offset, uint64_t length, unsigned flags, Qcow2Run *run)
{
    uint64_t covered = qcow2_covered(q);

    length = tm_min(length, covered - offset % covered);
    for (;;) {
        int ret = lookup_loaded(q, offset, length, flags, run);

        if (ret != -ENOENT && ret != -EUCLEAN)
            return ret;
        if (!(flags & QCOW2_LOAD))
            return -EAGAIN;
        if (ret == -EUCLEAN)
            return qcow2_corrupt(
                q,
                "the data at %" PRIu64
                " of the disk overlaps metadata or is far beyond the end of the image",
                offset);
        ret = qcow2_table_load(q, offset);
        if (ret < 0)
            return ret;
    }
}
