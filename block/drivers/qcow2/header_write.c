/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/qcow2/header_write.c: changes of the header that a cut at any moment survives.
 *
 * A sector is written whole or not. The fields are all in the first one, and what else belongs to a
 * change of the bitmaps extension (its body, a backing file name that gives way) is synced before
 * the one write that makes it count.
 *
 * Source: the specification, "Header" and "Header extensions". */
#include "block/drivers/qcow2/qcow2.h"
#include "util/endian.h"
#include "util/range.h"

#include <errno.h>
#include <string.h>

#define EXTENSION_HEAD 8u
#define BITMAPS_LENGTH 24u
#define NAME_AT        8u /* of the backing file name's offset and, after it, length */

/* The first cluster as it is and as it is to be. */
typedef struct Edit {
    Qcow2 *q;
    uint8_t *bytes;
    uint64_t length;
} Edit;

/* Writes [from, to) of the bytes, and syncs. */
static int put(Edit *e, uint64_t from, uint64_t to)
{
    int ret = blk_host.child_pwrite(e->q->node, QCOW2_FILE, e->bytes + from, from, to - from, 0);

    return ret == 0 ? blk_host.child_flush(e->q->node, QCOW2_FILE) : ret;
}

/* Where the extension is, or if there is none, the end marker; *found: that it is. 0: neither,
 * which a header that was read can't have. */
static uint64_t find_bitmaps(const Edit *e, bool *found)
{
    uint64_t at = e->q->header.length;

    *found = false;
    while (at + EXTENSION_HEAD <= e->length) {
        uint32_t type = tm_get_be32(e->bytes + at), length = tm_get_be32(e->bytes + at + 4);

        *found = type == QCOW2_EXTENSION_BITMAPS;
        if (*found || type == QCOW2_EXTENSION_END)
            return at;
        if (length > e->length - at - EXTENSION_HEAD)
            return 0;
        at += EXTENSION_HEAD + tm_align_up(length, 8);
    }
    return 0;
}

static void fill_bitmaps(Edit *e, uint64_t at)
{
    const Qcow2Header *h = &e->q->header;

    tm_put_be32(e->bytes + at + EXTENSION_HEAD, h->n_bitmaps);
    tm_put_be32(e->bytes + at + EXTENSION_HEAD + 4, 0);
    tm_put_be64(e->bytes + at + EXTENSION_HEAD + 8, h->bitmaps_size);
    tm_put_be64(e->bytes + at + EXTENSION_HEAD + 16, h->bitmaps_offset);
}

/* The backing file name gives way: a copy after @end, and then the header says so. */
static int move_name(Edit *e, uint64_t end)
{
    uint64_t name = tm_get_be64(e->bytes + NAME_AT), length = tm_get_be32(e->bytes + NAME_AT + 8);
    uint64_t to;
    int ret;

    if (!name || name >= end)
        return 0;
    to = tm_max(end, name + length);
    if (to + length > e->length)
        return -ENOSPC;
    memcpy(e->bytes + to, e->bytes + name, length);
    ret = put(e, to, to + length);
    if (ret < 0)
        return ret;
    tm_put_be64(e->bytes + NAME_AT, to);
    return put(e, 0, e->q->header.length);
}

/* At the end marker: what counts, its type and length, comes last. */
static int add_bitmaps(Edit *e, uint64_t at)
{
    uint64_t end = at + EXTENSION_HEAD + BITMAPS_LENGTH + EXTENSION_HEAD;
    int ret = end > e->length ? -ENOSPC : move_name(e, end);

    if (ret < 0)
        return ret;
    memset(e->bytes + at, 0, end - at);
    fill_bitmaps(e, at);
    ret = put(e, at, end);
    if (ret < 0)
        return ret;
    tm_put_be32(e->bytes + at, QCOW2_EXTENSION_BITMAPS);
    tm_put_be32(e->bytes + at + 4, BITMAPS_LENGTH);
    return put(e, at, at + EXTENSION_HEAD);
}

/* What comes after it moves up. The autoclear bit is off by then, so nobody minds the extension. */
static int remove_bitmaps(Edit *e, uint64_t at)
{
    uint64_t next = at + EXTENSION_HEAD + BITMAPS_LENGTH, end = next;

    while (end + EXTENSION_HEAD <= e->length && tm_get_be32(e->bytes + end) != QCOW2_EXTENSION_END)
        end += EXTENSION_HEAD + tm_align_up(tm_get_be32(e->bytes + end + 4), 8);
    if (end + EXTENSION_HEAD > e->length)
        return -EIO;
    memmove(e->bytes + at, e->bytes + next, end - next);
    memset(e->bytes + at + (end - next), 0, next - at);
    return put(e, at, end);
}

/* The fields that change, and a sector holds. */
static void fill_fields(Edit *e)
{
    const Qcow2Header *h = &e->q->header;

    tm_put_be64(e->bytes + 24, h->size);
    tm_put_be32(e->bytes + 36, h->l1_size);
    tm_put_be64(e->bytes + 40, h->l1_offset);
    tm_put_be64(e->bytes + 48, h->reftable_offset);
    tm_put_be32(e->bytes + 56, h->reftable_clusters);
    if (h->version < 3)
        return;
    tm_put_be64(e->bytes + 72, __atomic_load_n(&h->incompatible, __ATOMIC_RELAXED));
    tm_put_be64(e->bytes + 80, h->compatible);
    tm_put_be64(e->bytes + 88, h->autoclear);
}

/* An extension that comes counts before the autoclear bit says that it does; one that goes,
 * after. */
static int write_all(Edit *e)
{
    const Qcow2Header *h = &e->q->header;
    bool found;
    uint64_t at = find_bitmaps(e, &found);
    int ret = 0;

    if (!at && h->has_bitmaps)
        return -ENOSPC;
    if (h->has_bitmaps && !found)
        ret = add_bitmaps(e, at);
    if (ret < 0)
        return ret;
    fill_fields(e);
    if (h->has_bitmaps && found && at + EXTENSION_HEAD + BITMAPS_LENGTH <= 512) {
        fill_bitmaps(e, at);
        return put(e, 0, at + EXTENSION_HEAD + BITMAPS_LENGTH);
    }
    ret = put(e, 0, tm_min(h->length, 512)); /* the fields; whole, or not at all */
    if (ret == 0 && h->has_bitmaps && found) {
        fill_bitmaps(e, at);
        ret = put(e, at + EXTENSION_HEAD, at + EXTENSION_HEAD + BITMAPS_LENGTH);
    }
    return ret == 0 && !h->has_bitmaps && found ? remove_bitmaps(e, at) : ret;
}

int qcow2_header_write(Qcow2 *q)
{
    Edit e = { .q = q, .length = q->cluster };
    int ret;

    e.bytes = g_try_malloc(q->cluster);
    if (!e.bytes)
        return -ENOMEM;
    ret = qcow2_read_child(q, QCOW2_FILE, e.bytes, 0, q->cluster);
    if (ret == 0) {
        ret = write_all(&e);
        q->header_in_doubt = ret < 0;
    }
    if (q->header_in_doubt)
        qcow2_dirty(q);
    g_free(e.bytes);
    return ret;
}
