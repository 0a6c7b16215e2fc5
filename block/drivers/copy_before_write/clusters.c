/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* copy_before_write/clusters.c: see the header.
 *
 * "Settled" is what a write reads, so it is the bit that is changed last. */
#include "block/drivers/copy_before_write/clusters.h"

#include <glib.h>

#define WORD 64u

static uint64_t *words_new(uint64_t n)
{
    uint64_t words = n / WORD + 1;

    return words > SIZE_MAX / sizeof(uint64_t) / 2 ? NULL : g_try_new0(uint64_t, words);
}

bool cbw_clusters_init(CbwClusters *c, uint64_t size, unsigned shift)
{
    uint64_t n = (size >> shift) + ((size & ((UINT64_C(1) << shift) - 1)) != 0);

    *c = (CbwClusters){ .size = size, .shift = shift, .n = n };
    c->settled = words_new(n);
    c->copied = words_new(n);
    if (c->settled && c->copied)
        return true;
    cbw_clusters_free(c);
    return false;
}

void cbw_clusters_free(CbwClusters *c)
{
    g_clear_pointer(&c->settled, g_free);
    g_clear_pointer(&c->copied, g_free);
}

static uint64_t load(const uint64_t *words, uint64_t word)
{
    return __atomic_load_n(&words[word], __ATOMIC_ACQUIRE);
}

static bool test(const uint64_t *words, uint64_t bit)
{
    return load(words, bit / WORD) >> bit % WORD & 1;
}

/* The first bit of [first, end) that is not @value; @end: none. */
static uint64_t run_end(const uint64_t *words, uint64_t first, uint64_t end, bool value)
{
    while (first < end) {
        uint64_t other = load(words, first / WORD) ^ (value ? UINT64_MAX : 0);

        other >>= first % WORD;
        if (other)
            return MIN(end, first + (uint64_t)__builtin_ctzll(other));
        first = (first / WORD + 1) * WORD;
    }
    return end;
}

CbwState cbw_clusters_run(const CbwClusters *c, uint64_t first, uint64_t *end)
{
    bool settled = test(c->settled, first), copied;

    *end = run_end(c->settled, first, *end, settled);
    if (!settled)
        return CBW_PENDING;
    copied = test(c->copied, first);
    *end = run_end(c->copied, first, *end, copied);
    return copied ? CBW_COPIED : CBW_RELEASED;
}

uint64_t cbw_clusters_pending(const CbwClusters *c, uint64_t first, uint64_t end)
{
    return run_end(c->settled, first, end, true);
}

uint64_t cbw_clusters_count_pending(const CbwClusters *c)
{
    uint64_t n = 0, first = 0;

    while ((first = cbw_clusters_pending(c, first, c->n)) < c->n) {
        uint64_t end = run_end(c->settled, first, c->n, false);

        n += end - first;
        first = end;
    }
    return n;
}

static void change(uint64_t *words, uint64_t first, uint64_t end, bool value)
{
    while (first < end) {
        uint64_t stop = MIN(end, (first / WORD + 1) * WORD), n = stop - first;
        uint64_t bits = (n == WORD ? UINT64_MAX : (UINT64_C(1) << n) - 1) << first % WORD;

        if (!value && !(load(words, first / WORD) & bits))
            ; /* no memory is touched */
        else if (value)
            __atomic_fetch_or(&words[first / WORD], bits, __ATOMIC_RELEASE);
        else
            __atomic_fetch_and(&words[first / WORD], ~bits, __ATOMIC_RELEASE);
        first = stop;
    }
}

void cbw_clusters_settle(CbwClusters *c, uint64_t first, uint64_t end, bool copied)
{
    change(c->copied, first, end, copied);
    change(c->settled, first, end, true);
}
