/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* bitmap/page.c: leaves and nodes of a set of bits: memory, references, and what happens inside one
 * leaf. See page.h for the invariants. */
#include "bitmap/page.h"
#include <string.h>

const BmpPage bmp_page_full = { .refs = 1, .kind = BMP_FULL_KIND };

/* ---- memory -------------------------------------------------------------------------------- */

static BmpPage *page_new(BmpPageKind kind, size_t payload)
{
    BmpPage *page = g_try_malloc(sizeof(BmpPage) + payload);

    if (page)
        *page = (BmpPage){ .refs = 1, .kind = kind };
    return page;
}

BmpPage *bmp_page_new_list(unsigned cap)
{
    BmpPage *page;

    /* With the header, and malloc's own, these fill 32, 64 and 128 bytes. */
    cap = cap <= 8 ? 8 : cap <= 24 ? 24 : BMP_LIST_MAX;
    page = page_new(BMP_LIST, cap * sizeof(uint16_t));
    if (page)
        page->cap = cap;
    return page;
}

BmpPage *bmp_page_new_words(void)
{
    BmpPage *page = page_new(BMP_WORDS, BMP_PAGE_BITS / 8);

    if (page)
        memset(bmp_page_words(page), 0, BMP_PAGE_BITS / 8);
    return page;
}

BmpPage *bmp_page_new_node(unsigned slots, BmpPage *fill)
{
    BmpPage *page = page_new(BMP_NODE, slots * sizeof(BmpPage *));

    if (page) {
        page->n = slots;
        for (unsigned i = 0; i < slots; i++)
            bmp_page_slots(page)[i] = fill;
    }
    return page;
}

size_t bmp_page_size(const BmpPage *page)
{
    switch ((BmpPageKind)page->kind) {
    case BMP_LIST:
        return sizeof(*page) + page->cap * sizeof(uint16_t);
    case BMP_WORDS:
        return sizeof(*page) + BMP_PAGE_BITS / 8;
    case BMP_NODE:
        return sizeof(*page) + page->n * sizeof(BmpPage *);
    case BMP_FULL_KIND:
        break;
    }
    return 0;
}

BmpPage *bmp_page_ref(BmpPage *page)
{
    if (page && page != BMP_FULL)
        __atomic_fetch_add(&page->refs, 1, __ATOMIC_RELAXED);
    return page;
}

void bmp_page_unref(BmpPage *page)
{
    if (!page || page == BMP_FULL || __atomic_sub_fetch(&page->refs, 1, __ATOMIC_ACQ_REL))
        return;
    if (page->kind == BMP_NODE) {
        for (unsigned i = 0; i < page->n; i++)
            bmp_page_unref(bmp_page_slots(page)[i]);
    }
    g_free(page);
}

void bmp_page_replace(BmpPage **slot, BmpPage *page)
{
    BmpPage *old = *slot;

    *slot = page;
    bmp_page_unref(old);
}

BmpPage *bmp_page_own(BmpPage **slot)
{
    BmpPage *page = *slot, *copy;
    size_t size = bmp_page_size(page);

    if (__atomic_load_n(&page->refs, __ATOMIC_ACQUIRE) == 1) {
        page->counted = 0;
        return page;
    }
    copy = page_new(page->kind, size - sizeof(BmpPage));
    if (!copy)
        return NULL;
    copy->cap = page->cap;
    copy->n = page->n;
    memcpy(copy + 1, page + 1, size - sizeof(BmpPage));
    if (copy->kind == BMP_NODE) {
        for (unsigned i = 0; i < copy->n; i++)
            bmp_page_ref(bmp_page_slots(copy)[i]);
    }
    bmp_page_replace(slot, copy);
    return copy;
}

/* ---- lists ---------------------------------------------------------------------------------- */

static unsigned list_get(const BmpPage *page, unsigned i)
{
    return __atomic_load_n(&bmp_page_list(page)[i], __ATOMIC_RELAXED);
}

static void list_put(BmpPage *page, unsigned i, unsigned bit)
{
    __atomic_store_n(&bmp_page_list(page)[i], bit, __ATOMIC_RELAXED);
}

unsigned bmp_list_lower_bound(const BmpPage *page, unsigned bit)
{
    unsigned low = 0, high = __atomic_load_n(&page->n, __ATOMIC_ACQUIRE);

    while (low < high) {
        unsigned middle = (low + high) / 2;

        if (list_get(page, middle) < bit)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

unsigned bmp_list_count(const BmpPage *page, unsigned first, unsigned last)
{
    return bmp_list_lower_bound(page, last + 1) - bmp_list_lower_bound(page, first);
}

/* Entries move up before the new ones take their place, the last first, so that a reader finds only
 * values that are, or are about to be, in the list. The slots above n are initialised before n
 * stands for them. */
void bmp_list_insert(BmpPage *page, unsigned first, unsigned last)
{
    unsigned at = bmp_list_lower_bound(page, first);
    unsigned after = bmp_list_lower_bound(page, last + 1);
    unsigned wanted = last - first + 1, n = page->n;
    unsigned grow = wanted - (after - at);

    if (!grow)
        return;
    for (unsigned i = n; i-- > after;)
        list_put(page, i + grow, list_get(page, i));
    for (unsigned i = wanted; i-- > 0;)
        list_put(page, at + i, first + i);
    __atomic_store_n(&page->n, n + grow, __ATOMIC_RELEASE);
}

static void words_or(uint64_t *words, unsigned first, unsigned last)
{
    for (unsigned w = first / 64; w <= last / 64; w++)
        words[w] |= bmp_word_mask(w == first / 64 ? first : 0, w == last / 64 ? last : 63);
}

static void words_or_list(uint64_t *words, const BmpPage *list)
{
    for (unsigned i = 0; i < list->n; i++)
        words[list_get(list, i) / 64] |= UINT64_C(1) << (list_get(list, i) % 64);
}

BmpPage *bmp_list_grown(const BmpPage *old, unsigned first, unsigned last)
{
    unsigned n = last - first + 1;
    BmpPage *page;

    if (old)
        n += old->n - bmp_list_count(old, first, last);
    page = n <= BMP_LIST_MAX ? bmp_page_new_list(n) : bmp_page_new_words();
    if (!page)
        return NULL;
    if (page->kind == BMP_LIST) {
        for (unsigned i = 0; old && i < old->n; i++)
            list_put(page, i, list_get(old, i));
        page->n = old ? old->n : 0;
        bmp_list_insert(page, first, last);
    } else {
        if (old)
            words_or_list(bmp_page_words(page), old);
        words_or(bmp_page_words(page), first, last);
    }
    return page;
}

/* ---- leaves --------------------------------------------------------------------------------- */

bool bmp_page_test(const BmpPage *page, unsigned bit)
{
    unsigned i;

    if (!page)
        return false;
    switch ((BmpPageKind)page->kind) {
    case BMP_WORDS:
        return __atomic_load_n(&bmp_page_words(page)[bit / 64], __ATOMIC_RELAXED) >> (bit % 64) & 1;
    case BMP_LIST:
        i = bmp_list_lower_bound(page, bit);
        return i < __atomic_load_n(&page->n, __ATOMIC_ACQUIRE) && list_get(page, i) == bit;
    default:
        return page == BMP_FULL;
    }
}

void bmp_page_set(BmpPage **slot, unsigned first, unsigned last)
{
    BmpPage *page = *slot;

    if (page == BMP_FULL)
        return;
    if (page && page->kind == BMP_WORDS) {
        page = bmp_page_own(slot);
        if (page)
            words_or(bmp_page_words(page), first, last);
        else
            bmp_page_replace(slot, BMP_FULL);
        return;
    }
    if (page && bmp_list_count(page, first, last) == last - first + 1)
        return;
    page = bmp_list_grown(page, first, last);
    bmp_page_replace(slot, page ? page : BMP_FULL);
}

static bool words_empty(const uint64_t *words)
{
    for (unsigned w = 0; w < BMP_PAGE_WORDS; w++) {
        if (words[w])
            return false;
    }
    return true;
}

static void list_remove(BmpPage *page, unsigned first, unsigned last)
{
    unsigned at = bmp_list_lower_bound(page, first);
    unsigned after = bmp_list_lower_bound(page, last + 1);

    memmove(bmp_page_list(page) + at, bmp_page_list(page) + after,
            (page->n - after) * sizeof(uint16_t));
    page->n -= after - at;
}

void bmp_page_clear(BmpPage **slot, unsigned first, unsigned last)
{
    BmpPage *page = *slot;

    if (!page || (page->kind == BMP_LIST && !bmp_list_count(page, first, last)))
        return;
    if (page == BMP_FULL) {
        page = bmp_page_new_words();
        if (!page)
            return;
        memset(bmp_page_words(page), 0xff, BMP_PAGE_BITS / 8);
        *slot = page;
    }
    page = bmp_page_own(slot);
    if (!page)
        return;
    if (page->kind == BMP_LIST) {
        list_remove(page, first, last);
    } else {
        for (unsigned w = first / 64; w <= last / 64; w++)
            bmp_page_words(page)[w] &=
                ~bmp_word_mask(w == first / 64 ? first : 0, w == last / 64 ? last : 63);
    }
    if (page->kind == BMP_LIST ? !page->n : words_empty(bmp_page_words(page)))
        bmp_page_replace(slot, NULL);
}

static bool leaf_contains(const BmpPage *page, const BmpPage *other)
{
    if (other->kind == BMP_LIST) {
        for (unsigned i = 0; i < other->n; i++) {
            if (!bmp_page_test(page, list_get(other, i)))
                return false;
        }
        return true;
    }
    if (page->kind == BMP_LIST)
        return false;
    for (unsigned w = 0; w < BMP_PAGE_WORDS; w++) {
        if (bmp_page_words(other)[w] & ~bmp_page_words(page)[w])
            return false;
    }
    return true;
}

static void or_list(BmpPage **slot, const BmpPage *src)
{
    unsigned i = 0;

    while (i < src->n) {
        unsigned first = list_get(src, i), last = first;

        for (i++; i < src->n && list_get(src, i) == last + 1; i++)
            last++;
        bmp_page_set(slot, first, last);
    }
}

static void or_words(BmpPage **slot, const BmpPage *src)
{
    BmpPage *page = bmp_page_own(slot);
    uint64_t all = UINT64_MAX;

    if (!page) {
        bmp_page_replace(slot, BMP_FULL);
        return;
    }
    for (unsigned w = 0; w < BMP_PAGE_WORDS; w++)
        all &= bmp_page_words(page)[w] |= bmp_page_words(src)[w];
    if (all == UINT64_MAX)
        bmp_page_replace(slot, BMP_FULL);
}

void bmp_page_or(BmpPage **slot, BmpPage *src)
{
    BmpPage *page = *slot, *old;

    if (!src || page == BMP_FULL || page == src)
        return;
    if (!page || src == BMP_FULL) {
        bmp_page_replace(slot, bmp_page_ref(src));
    } else if (leaf_contains(page, src)) {
        return;
    } else if (leaf_contains(src, page)) {
        bmp_page_replace(slot, bmp_page_ref(src));
    } else if (src->kind == BMP_LIST) {
        or_list(slot, src);
    } else if (page->kind == BMP_WORDS) {
        or_words(slot, src);
    } else {
        old = page;
        *slot = bmp_page_ref(src);
        or_list(slot, old);
        bmp_page_unref(old);
    }
}

unsigned bmp_page_next_set(const BmpPage *page, unsigned from)
{
    if (page->kind == BMP_LIST) {
        unsigned i = bmp_list_lower_bound(page, from);

        return i < page->n ? list_get(page, i) : BMP_PAGE_BITS;
    }
    for (unsigned w = from / 64; w < BMP_PAGE_WORDS; w++) {
        uint64_t bits =
            bmp_page_words(page)[w] & (w == from / 64 ? UINT64_MAX << (from % 64) : UINT64_MAX);

        if (bits)
            return w * 64 + __builtin_ctzll(bits);
    }
    return BMP_PAGE_BITS;
}

unsigned bmp_page_next_clear(const BmpPage *page, unsigned from)
{
    if (page->kind == BMP_LIST) {
        unsigned i = bmp_list_lower_bound(page, from);

        while (i < page->n && list_get(page, i) == from) {
            i++;
            from++;
        }
        return from;
    }
    for (unsigned w = from / 64; w < BMP_PAGE_WORDS; w++) {
        uint64_t bits =
            ~bmp_page_words(page)[w] & (w == from / 64 ? UINT64_MAX << (from % 64) : UINT64_MAX);

        if (bits)
            return w * 64 + __builtin_ctzll(bits);
    }
    return BMP_PAGE_BITS;
}

unsigned bmp_page_count(BmpPage *page, unsigned limit)
{
    uint64_t known;
    unsigned n = 0;

    if (!page)
        return 0;
    if (page == BMP_FULL)
        return limit;
    if (page->kind == BMP_LIST)
        return bmp_list_lower_bound(page, limit);
    known = __atomic_load_n(&page->counted, __ATOMIC_RELAXED);
    if (known && limit == BMP_PAGE_BITS)
        return known - 1;
    for (unsigned w = 0; w < limit / 64; w++)
        n += __builtin_popcountll(bmp_page_words(page)[w]);
    if (limit % 64)
        n += __builtin_popcountll(bmp_page_words(page)[limit / 64] &
                                  bmp_word_mask(0, limit % 64 - 1));
    if (limit == BMP_PAGE_BITS)
        __atomic_store_n(&page->counted, (uint64_t)n + 1, __ATOMIC_RELAXED);
    return n;
}
