/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* bitmap/bits.h: a sparse set of bits over [0, nbits), up to 2^54 of them. Pure data.
 *
 * A radix tree of pages (page.h) that copies of a set share and that are copied when written:
 * cloning is one reference, whatever the content; an empty set holds no memory; a range costs its
 * ends. The root node has only as many slots as the set needs.
 *
 * A bit stands for 2^shift bytes of a disk (its granule); the last one may reach beyond the disk's
 * end.
 *
 * Setting and clearing can't fail. Without memory a set reports more than was set, never less
 * (page.h, P3).
 *
 * Threads: one at a time per set; sets that share pages may be used by different threads. */
#pragma once
#include "bitmap/page.h"

#define BMP_BITS_MAX (UINT64_C(1) << 54)

/* Private to bitmap/. Initialise with bmp_bits_init(); copy with bmp_bits_clone() only. */
typedef struct BmpBits {
    BmpPage *root;
    uint64_t nbits;
    uint8_t shift;
    uint8_t height; /* levels of nodes above the leaves */
} BmpBits;

/* An empty set for a disk of @size bytes with granules of 2^@shift bytes. */
void bmp_bits_init(BmpBits *bits, uint64_t size, unsigned shift);
/* Empties it, which drops its memory; it can be used again. */
void bmp_bits_clear_all(BmpBits *bits);
/* *to = a copy of @from; *to must not hold anything. */
void bmp_bits_clone(BmpBits *to, const BmpBits *from);

static inline bool bmp_bits_empty(const BmpBits *bits)
{
    return !bits->root;
}

/* [@first, @last], inclusive; cut at the end of the set. */
void bmp_bits_set(BmpBits *bits, uint64_t first, uint64_t last);
void bmp_bits_clear(BmpBits *bits, uint64_t first, uint64_t last);
/* The granules that [@offset, @offset + @length) of the disk touches. */
void bmp_bits_set_bytes(BmpBits *bits, uint64_t offset, uint64_t length);
bool bmp_bits_test(const BmpBits *bits, uint64_t bit);
uint64_t bmp_bits_count(const BmpBits *bits);

/* @to |= @from. Granules of different sizes convert outward: whatever a set granule of @from
 * touches. With equal geometry pages are shared. */
void bmp_bits_or(BmpBits *to, const BmpBits *from);
/* The same, remembering. Bitmaps with much in common fold the same marks one after the other: where
 * @to and @from are now what they were last time, the result is last time's, and is shared. */
typedef struct BmpMemo {
    BmpBits to, from, result; /* of the last OR; empty sets at first */
} BmpMemo;
void bmp_bits_or_memo(BmpBits *to, const BmpBits *from, BmpMemo *memo);
void bmp_memo_clear(BmpMemo *memo);

static inline bool bmp_bits_same_geometry(const BmpBits *a, const BmpBits *b)
{
    return a->shift == b->shift && a->nbits == b->nbits;
}

/* The disk has now @size bytes. What is beyond the old end is clear, what is beyond the new one
 * dropped. */
void bmp_bits_resize(BmpBits *bits, uint64_t size);

/* Runs of set bits in order. The set must not change while it is being walked. */
typedef struct BmpBitsIter {
    const BmpBits *bits;
    BmpPage *page;      /* what covers [base, end) */
    uint64_t base, end; /* 0, 0 before the first */
} BmpBitsIter;

static inline BmpBitsIter bmp_bits_iter(const BmpBits *bits)
{
    return (BmpBitsIter){ .bits = bits };
}

/* Where in (@from, @limit) being set changes, in order, in bytes: the first @max (> 0) of these
 * places. Returns how many; *set: whether @from is set; *reached: @limit, or the last place
 * described if there are more. */
size_t bmp_bits_edges(const BmpBits *bits, uint64_t from, uint64_t limit, uint64_t *edges,
                      size_t max, bool *set, uint64_t *reached);

/* The first run that begins at or after @from (which may lie inside a run: then there) and before
 * @limit, cut at @limit. false, outputs untouched, if there is none. */
bool bmp_bits_next(BmpBitsIter *iter, uint64_t from, uint64_t limit, uint64_t *first,
                   uint64_t *end);

/* Hands out the set as little-endian bytes, bit 0 in the first, cut at nbits and then padded with
 * zeroes to a multiple of 8 bytes, at least 8: as QEMU's hbitmap lays out its lowest level. */
void bmp_bits_export(const BmpBits *bits,
                     void (*put)(void *opaque, const void *data, size_t length), void *opaque);

/* Words of 64 bits, @first a multiple of 64 and the first bit of the first word: adds the bits of
 * @n words, those beyond the end of the set left out; and gives them, 0 beyond the end. words.c. */
void bmp_bits_or_words(BmpBits *bits, uint64_t first, const uint64_t *words, uint64_t n);
void bmp_bits_get_words(const BmpBits *bits, uint64_t first, uint64_t *words, uint64_t n);
/* What [@first, @first + @n) is, cut at the end of the set. */
typedef enum { BMP_BITS_NONE, BMP_BITS_ALL, BMP_BITS_SOME } BmpBitsKind;
BmpBitsKind bmp_bits_kind(const BmpBits *bits, uint64_t first, uint64_t n);

/* Bytes of memory of the pages that are not in @seen (a set of pointers) yet; adds them. */
size_t bmp_page_tree_memory(BmpPage *root, GHashTable *seen);

/* ---- shared with the tracker ----------------------------------------------------------------- */

/* Bits below a slot at @level (0 is a leaf's slot). */
static inline uint64_t bmp_bits_span(unsigned level)
{
    return UINT64_C(1) << (BMP_PAGE_SHIFT + BMP_NODE_SHIFT * level);
}

/* What covers @bit: NULL, BMP_FULL or a leaf (borrowed), and for which range. */
BmpPage *bmp_bits_find(const BmpBits *bits, uint64_t bit, uint64_t *base, uint64_t *end);
/* Adds the bits of a leaf (borrowed; shared where that is the result) whose first bit is @base. */
void bmp_bits_or_leaf(BmpBits *bits, uint64_t base, BmpPage *leaf);

/* Slots of the node at @level whose first bit is @base. */
unsigned bmp_bits_node_slots(const BmpBits *bits, unsigned level, uint64_t base);
