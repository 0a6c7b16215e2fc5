/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* util/range.h: the only way that an offset and a length meet.
 *
 * Offsets and lengths are bytes. Nothing here overflows silently. Pure functions, any thread. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

/* The largest size a disk or a request end may have: offsets must fit off_t. */
#define TM_SIZE_MAX ((uint64_t)INT64_MAX)

/* *end = offset + length; false (and *end untouched) if that does not fit. */
static inline bool tm_range_end(uint64_t offset, uint64_t length, uint64_t *end)
{
    uint64_t sum;

    if (__builtin_add_overflow(offset, length, &sum))
        return false;
    *end = sum;
    return true;
}

/* Whether [offset, offset + length) lies in [0, size). An empty range at size does. */
static inline bool tm_range_within(uint64_t offset, uint64_t length, uint64_t size)
{
    return offset <= size && length <= size - offset;
}

/* Whether two ranges, both already known not to overflow, share a byte. */
static inline bool tm_range_overlaps(uint64_t a, uint64_t alen, uint64_t b, uint64_t blen)
{
    return alen && blen && (a < b ? b - a < alen : a - b < blen);
}

static inline bool tm_is_pow2(uint64_t n)
{
    return n && !(n & (n - 1));
}

static inline uint64_t tm_align_down(uint64_t n, uint64_t pow2)
{
    return n & ~(pow2 - 1);
}

/* Rounds up to a power of two's multiple; saturates at the greatest multiple. */
static inline uint64_t tm_align_up(uint64_t n, uint64_t pow2)
{
    uint64_t down = tm_align_down(n, pow2);

    return down == n || down > UINT64_MAX - pow2 ? down : down + pow2;
}

static inline uint64_t tm_min(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static inline uint64_t tm_max(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}
