/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* bitmap/bitmap_content.c: what is dirty in a bitmap: counted, listed, summed up. */
#include "bitmap/set_internal.h"
#include "util/range.h"

/* The content now, shared: it can be walked without the lock. */
static void bitmap_snapshot(BmpBitmap *bitmap, BmpBits *bits)
{
    bmp_set_lock(bitmap->set);
    bmp_bitmap_refresh(bitmap);
    bmp_bits_clone(bits, bmp_bitmap_shown(bitmap));
    bmp_set_unlock(bitmap->set);
}

uint64_t bmp_bitmap_count(BmpBitmap *bitmap)
{
    uint64_t granules;
    BmpBits bits;

    bitmap_snapshot(bitmap, &bits);
    granules = bmp_bits_count(&bits);
    bmp_bits_clear_all(&bits);
    return granules << bits.shift;
}

/* What is beyond the disk's end is clean: described with what is before it, if there is room for
 * the edge that may lie there. */
static size_t edges_beyond(const BmpBits *bits, uint64_t offset, uint64_t length, uint64_t *edges,
                           size_t n, size_t max, bool dirty, uint64_t *described)
{
    uint64_t end = bits->nbits << bits->shift;

    if (*described == length || offset + *described < end)
        return n;
    if (dirty != (n % 2 != 0)) {
        if (n == max)
            return n;
        edges[n++] = end;
    }
    *described = length;
    return n;
}

size_t bmp_bitmap_edges(BmpBitmap *bitmap, uint64_t offset, uint64_t length, uint64_t *edges,
                        size_t max, bool *dirty, uint64_t *described)
{
    uint64_t end = offset + length, reached;
    BmpBits bits;
    size_t n = 0;

    *described = 0;
    if (!length)
        return 0;
    bitmap_snapshot(bitmap, &bits);
    *dirty = false;
    if (offset >> bits.shift < bits.nbits) {
        n = bmp_bits_edges(&bits, offset >> bits.shift, ((end - 1) >> bits.shift) + 1, edges, max,
                           dirty, &reached);
        *described = tm_min(reached << bits.shift, end) - offset;
        n = edges_beyond(&bits, offset, length, edges, n, max, *dirty, described);
    } else {
        *described = length;
    }
    bmp_bits_clear_all(&bits);
    return n;
}

#define EDGES 256u /* looked for at a time */

uint64_t bmp_bitmap_extents(BmpBitmap *bitmap, uint64_t offset, uint64_t length, TmExtents *out)
{
    uint64_t edges[EDGES], done = 0;

    while (done < length) {
        uint64_t described, at = offset + done;
        bool dirty;
        size_t n = bmp_bitmap_edges(bitmap, at, length - done, edges, EDGES, &dirty, &described);

        for (size_t i = 0; i <= n; i++) {
            uint64_t end = i < n ? edges[i] : offset + done + described;

            if (end > at && !tm_extents_add(out, end - at, dirty ? TM_STATE_DIRTY : 0))
                return at - offset;
            at = end;
            dirty = !dirty;
        }
        done += described;
    }
    return done;
}

static void checksum_put(void *opaque, const void *data, size_t length)
{
    g_checksum_update(opaque, data, length);
}

char *bmp_bitmap_sha256(BmpBitmap *bitmap)
{
    GChecksum *sum = g_checksum_new(G_CHECKSUM_SHA256);
    BmpBits bits;
    char *hex;

    bitmap_snapshot(bitmap, &bits);
    bmp_bits_export(&bits, checksum_put, sum);
    bmp_bits_clear_all(&bits);
    hex = g_strdup(g_checksum_get_string(sum));
    g_checksum_free(sum);
    return hex;
}
