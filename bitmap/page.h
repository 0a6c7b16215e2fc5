/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* bitmap/page.h: the pieces that a set of bits is made of (inside bitmap/ only).
 *
 * A set is a radix tree (bits.h). Its leaves are pages of 65,536 bits: a sorted list of the set
 * bits while there are few, words when there are more. Inner nodes have up to 64 slots. A slot
 * holds NULL        nothing below is set, BMP_FULL    everything below is set, at any level (one
 * static object, never counted or freed), a page      a reference to it.
 *
 * Invariants:
 *  P1  A page with more than one reference never changes; who wants to change it copies it first.
 *      (The tracker's live pages have one reference, the live tree's.)
 *  P2  Bits at or beyond the set's end are undefined in words and in BMP_FULL; readers cut there.
 *  P3  Without memory, a slot becomes BMP_FULL (setting) or stays as it is (clearing): the set only
 *      ever grows by it.
 *
 * Threads: reference counts are atomic; content belongs to who owns the only reference, except that
 * the functions that say so may meet the tracker's concurrent marking. */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BMP_PAGE_SHIFT 16u
#define BMP_PAGE_BITS  (1u << BMP_PAGE_SHIFT)
#define BMP_PAGE_WORDS (BMP_PAGE_BITS / 64)
#define BMP_NODE_SHIFT 6u
#define BMP_NODE_SLOTS (1u << BMP_NODE_SHIFT)
#define BMP_LIST_MAX   56u /* entries of the longest list: 128 bytes; then words, 8 KiB */

typedef enum { BMP_LIST, BMP_WORDS, BMP_NODE, BMP_FULL_KIND } BmpPageKind;

typedef struct BmpPage BmpPage;
struct BmpPage {
    uint32_t refs; /* atomic */
    uint8_t kind;  /* BmpPageKind, constant */
    uint8_t cap;   /* BMP_LIST: room for that many entries, constant */
    uint16_t n;    /* BMP_LIST: entries in use; BMP_NODE: slots, constant */
    union {
        BmpPage *retired; /* while the tracker owns it: the next one to free after the seal */
        uint64_t counted; /* words and nodes at rest: bits below + 1, or 0: not counted (atomic) */
    };
};
G_STATIC_ASSERT(sizeof(BmpPage) == 16);

extern const BmpPage bmp_page_full;
#define BMP_FULL ((BmpPage *)&bmp_page_full)

static inline uint16_t *bmp_page_list(const BmpPage *page)
{
    return (uint16_t *)(page + 1);
}

static inline uint64_t *bmp_page_words(const BmpPage *page)
{
    return (uint64_t *)(page + 1);
}

static inline BmpPage **bmp_page_slots(const BmpPage *page)
{
    return (BmpPage **)(page + 1);
}

/* The bits from @a to @b (both within one word) of a word. */
static inline uint64_t bmp_word_mask(unsigned a, unsigned b)
{
    return (UINT64_MAX << (a & 63)) & (UINT64_MAX >> (63 - (b & 63)));
}

/* New pages with one reference, empty; NULL without memory. @cap is rounded up to a size class. */
BmpPage *bmp_page_new_list(unsigned cap);
BmpPage *bmp_page_new_words(void);
BmpPage *bmp_page_new_node(unsigned slots, BmpPage *fill); /* @fill: NULL or BMP_FULL */

/* References; BMP_FULL and NULL pass through. Dropping the last one drops the children's. */
BmpPage *bmp_page_ref(BmpPage *page);
void bmp_page_unref(BmpPage *page);
/* *slot = @page (taken), dropping what was there. */
void bmp_page_replace(BmpPage **slot, BmpPage *page);
/* The page in *slot (not NULL, not BMP_FULL), to be changed: copied first if somebody else holds it
 * too. NULL without memory: *slot is then unchanged. */
BmpPage *bmp_page_own(BmpPage **slot);

/* Bytes of memory of the page itself. */
size_t bmp_page_size(const BmpPage *page);

/* Leaves. Bits are 0 to 65,535, ranges inclusive. */

/* The index of the first entry >= @bit of a list. May meet an insertion: then it can miss an entry,
 * and never sees one that is not there. */
unsigned bmp_list_lower_bound(const BmpPage *page, unsigned bit);
/* Whether @bit is set; @page may be NULL or BMP_FULL. May meet the tracker's marking. */
bool bmp_page_test(const BmpPage *page, unsigned bit);
/* How many of [@first, @last] are in a list. */
unsigned bmp_list_count(const BmpPage *page, unsigned first, unsigned last);
/* Inserts [@first, @last], for which there must be room. May be met by readers. */
void bmp_list_insert(BmpPage *page, unsigned first, unsigned last);
/* A new leaf with @old's (list or NULL) bits and [@first, @last]: a list if they fit one, else
 * words. NULL without memory. */
BmpPage *bmp_list_grown(const BmpPage *old, unsigned first, unsigned last);

void bmp_page_set(BmpPage **slot, unsigned first, unsigned last);
void bmp_page_clear(BmpPage **slot, unsigned first, unsigned last);
/* *slot |= @src. Shares @src where that is the result. */
void bmp_page_or(BmpPage **slot, BmpPage *src);
/* The first set (clear) bit >= @from of a list or of words, or BMP_PAGE_BITS. */
unsigned bmp_page_next_set(const BmpPage *page, unsigned from);
unsigned bmp_page_next_clear(const BmpPage *page, unsigned from);
/* Bits set among the first @limit of a leaf. */
unsigned bmp_page_count(BmpPage *page, unsigned limit);
