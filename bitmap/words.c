/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* bitmap/words.c: bits in and out as words, for formats that keep them so. What is not mixed costs
 * neither time nor memory. */
#include "bitmap/bits.h"
#include "util/range.h"

#include <string.h>

/* The bits of a word that are in the set. */
static uint64_t cut(const BmpBits *bits, uint64_t first, uint64_t word)
{
    uint64_t left = bits->nbits - first;

    return left >= 64 ? word : word & ((UINT64_C(1) << left) - 1);
}

/* Words of one leaf whose first bit is @base, from its word @at on. */
static void or_mixed(BmpBits *bits, uint64_t base, unsigned at, const uint64_t *words, unsigned n,
                     unsigned set)
{
    BmpPage *page = set > BMP_LIST_MAX ? bmp_page_new_words() : NULL;

    for (unsigned i = 0; page && i < n; i++)
        bmp_page_words(page)[at + i] = cut(bits, base + (at + i) * 64, words[i]);
    if (page) {
        bmp_bits_or_leaf(bits, base, page);
        bmp_page_unref(page);
        return;
    }
    if (set > BMP_LIST_MAX) { /* without memory: more than was said */
        bmp_bits_set(bits, base + at * 64, base + (at + n) * 64 - 1);
        return;
    }
    for (unsigned i = 0; i < n; i++) {
        for (uint64_t word = cut(bits, base + (at + i) * 64, words[i]); word; word &= word - 1) {
            uint64_t bit = base + (at + i) * 64 + (unsigned)__builtin_ctzll(word);

            bmp_bits_set(bits, bit, bit);
        }
    }
}

void bmp_bits_or_words(BmpBits *bits, uint64_t first, const uint64_t *words, uint64_t n)
{
    while (n && first < bits->nbits) {
        uint64_t base = first & ~(uint64_t)(BMP_PAGE_BITS - 1);
        unsigned at = (unsigned)(first - base) / 64;
        unsigned here = (unsigned)tm_min(n, BMP_PAGE_WORDS - at), set = 0, wanted = 0;

        here = (unsigned)tm_min(here, (bits->nbits - first + 63) / 64);
        for (unsigned i = 0; i < here; i++) {
            set += (unsigned)__builtin_popcountll(cut(bits, first + i * 64, words[i]));
            wanted += (unsigned)tm_min(64, bits->nbits - first - i * 64);
        }
        if (set == wanted)
            bmp_bits_set(bits, first, first + wanted - 1);
        else if (set)
            or_mixed(bits, base, at, words, here, set);
        words += here;
        n -= here;
        first += (uint64_t)here * 64;
    }
}

static void get_leaf(const BmpPage *page, unsigned at, uint64_t *words, unsigned n)
{
    if (page->kind == BMP_WORDS) {
        memcpy(words, bmp_page_words(page) + at, n * sizeof(*words));
        return;
    }
    memset(words, 0, n * sizeof(*words));
    for (unsigned i = bmp_list_lower_bound(page, at * 64); i < page->n; i++) {
        unsigned bit = bmp_page_list(page)[i];

        if (bit >= (at + n) * 64)
            break;
        words[bit / 64 - at] |= UINT64_C(1) << (bit % 64);
    }
}

void bmp_bits_get_words(const BmpBits *bits, uint64_t first, uint64_t *words, uint64_t n)
{
    while (n && first < bits->nbits) {
        uint64_t base, end;
        BmpPage *page = bmp_bits_find(bits, first, &base, &end);
        uint64_t here = tm_min(n, (tm_min(end, bits->nbits) - first + 63) / 64);

        if (!page || page == BMP_FULL)
            memset(words, page ? 0xff : 0, here * sizeof(*words));
        else
            get_leaf(page, (unsigned)(first - base) / 64, words, (unsigned)here);
        words[here - 1] = cut(bits, first + (here - 1) * 64, words[here - 1]);
        words += here;
        n -= here;
        first += here * 64;
    }
    memset(words, 0, n * sizeof(*words));
}

BmpBitsKind bmp_bits_kind(const BmpBits *bits, uint64_t first, uint64_t n)
{
    BmpBitsIter iter = bmp_bits_iter(bits);
    uint64_t limit = tm_min(first + n, bits->nbits), from, end;

    if (!bmp_bits_next(&iter, first, limit, &from, &end))
        return BMP_BITS_NONE;
    return from == first && end == limit ? BMP_BITS_ALL : BMP_BITS_SOME;
}
