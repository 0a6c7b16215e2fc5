/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* bitmap/copy.c: see the header. */
#include "bitmap/copy.h"

#include "bitmap/set_internal.h"
#include "util/error.h"
#include "util/range.h"

BmpCopy *bmp_copy_of(BmpBitmap *bitmap)
{
    BmpCopy *copy = g_new0(BmpCopy, 1);

    bmp_set_lock(bitmap->set);
    bmp_bitmap_refresh(bitmap);
    copy->size = bitmap->set->size;
    bmp_bits_clone(&copy->bits, &bitmap->bits); /* with what was marked since a job froze it */
    bmp_set_unlock(bitmap->set);
    return copy;
}

BmpCopy *bmp_copy_new(uint64_t size, uint64_t granularity, GError **error)
{
    BmpCopy *copy;

    if (granularity < BMP_GRANULARITY_MIN || granularity > BMP_GRANULARITY_MAX ||
        !tm_is_pow2(granularity)) {
        tm_error_set(error, "Granularity must be power of 2 and at least 512");
        return NULL;
    }
    if (size > INT64_MAX) {
        tm_error_set(error, "A disk can't have %" G_GUINT64_FORMAT " bytes", size);
        return NULL;
    }
    copy = g_new0(BmpCopy, 1);
    copy->size = size;
    bmp_bits_init(&copy->bits, size, (unsigned)__builtin_ctzll(granularity));
    return copy;
}

void bmp_copy_free(BmpCopy *copy)
{
    if (!copy)
        return;
    bmp_bits_clear_all(&copy->bits);
    g_free(copy);
}

uint64_t bmp_copy_granularity(const BmpCopy *copy)
{
    return UINT64_C(1) << copy->bits.shift;
}

uint64_t bmp_copy_count(const BmpCopy *copy)
{
    return bmp_bits_count(&copy->bits) << copy->bits.shift;
}

/* ---- as text */

bool bmp_copy_print(const BmpCopy *copy, uint64_t *at, size_t max, GString *text)
{
    BmpBitsIter iter = bmp_bits_iter(&copy->bits);
    uint64_t first, end;

    for (; bmp_bits_next(&iter, *at, copy->bits.nbits, &first, &end); *at = end) {
        if (max-- == 0)
            return true;
        g_string_append_printf(text, "%s%" G_GUINT64_FORMAT " %" G_GUINT64_FORMAT,
                               text->len ? " " : "", first - *at, end - first);
    }
    return false;
}

#define DIGITS 16u /* BMP_BITS_MAX has 17; no number of one run is longer without going beyond */

/* A decimal number and the space after it. */
static bool take_number(const char **text, uint64_t *number)
{
    const char *at = *text;

    *number = 0;
    for (; g_ascii_isdigit(*at) && at - *text <= DIGITS; at++)
        *number = *number * 10 + (uint64_t)(*at - '0');
    if (at == *text || (*at && *at != ' '))
        return false;
    *text = *at ? at + 1 : at;
    return true;
}

bool bmp_copy_parse(BmpCopy *copy, uint64_t *at, const char *text, GError **error)
{
    uint64_t granule = *at, clean, dirty;
    const char *next = text;

    while (*next) {
        const char *run = next;

        if (!take_number(&next, &clean) || !take_number(&next, &dirty) || !dirty)
            return tm_error_set(error,
                                "'%.20s' is no run of granules: a number of clean ones and one of "
                                "dirty ones were expected",
                                run);
        if (!tm_range_within(granule, clean, copy->bits.nbits) ||
            !tm_range_within(granule + clean, dirty, copy->bits.nbits))
            return tm_error_set(
                error, "The run '%.20s' goes beyond the %" G_GUINT64_FORMAT " granules of the disk",
                run, copy->bits.nbits);
        granule += clean + dirty;
        bmp_bits_set(&copy->bits, granule - dirty, granule - 1);
    }
    *at = granule;
    return true;
}

/* ---- into a bitmap */

bool bmp_set_check_copy(const BmpSet *set, uint64_t size, GError **error)
{
    return set->size == size ||
           tm_error_set(error,
                        "Node '%s' has %" G_GUINT64_FORMAT
                        " bytes, and the bitmap is of a disk of %" G_GUINT64_FORMAT " bytes",
                        set->node_name, set->size, size);
}

bool bmp_bitmap_add_copy(BmpBitmap *bitmap, const BmpCopy *copy, GError **error)
{
    return bmp_set_check_copy(bitmap->set, copy->size, error) &&
           bmp_bitmap_check_usable(bitmap, error) &&
           bmp_bitmap_add_bits(bitmap, &copy->bits, error);
}
