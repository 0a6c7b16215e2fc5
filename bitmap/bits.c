/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* bitmap/bits.c: the radix tree over pages. What it promises is in bits.h; the shape of slots,
 * pages and nodes, and what happens without memory, in page.h. */
#include "bitmap/bits.h"
#include "util/endian.h"
#include "util/range.h"
#include <string.h>

void bmp_bits_init(BmpBits *bits, uint64_t size, unsigned shift)
{
    uint64_t mask = (UINT64_C(1) << shift) - 1;

    *bits = (BmpBits){ .nbits = (size >> shift) + !!(size & mask), .shift = shift };
    while (bmp_bits_span(bits->height) < bits->nbits)
        bits->height++;
}

void bmp_bits_clear_all(BmpBits *bits)
{
    bmp_page_replace(&bits->root, NULL);
}

void bmp_bits_clone(BmpBits *to, const BmpBits *from)
{
    *to = *from;
    bmp_page_ref(to->root);
}

unsigned bmp_bits_node_slots(const BmpBits *bits, unsigned level, uint64_t base)
{
    uint64_t span = bmp_bits_span(level - 1);
    uint64_t slots = (bits->nbits - base + span - 1) / span;

    return slots < BMP_NODE_SLOTS ? slots : BMP_NODE_SLOTS;
}

/* The last bit of the set below a slot. */
static uint64_t slot_last(const BmpBits *bits, unsigned level, uint64_t base)
{
    return tm_min(base + bmp_bits_span(level), bits->nbits) - 1;
}

/* The node in *slot, made, expanded or copied so that it can be changed. NULL without memory. */
static BmpPage *own_node(const BmpBits *bits, BmpPage **slot, unsigned level, uint64_t base)
{
    if (*slot && *slot != BMP_FULL)
        return bmp_page_own(slot);

    BmpPage *node = bmp_page_new_node(bmp_bits_node_slots(bits, level, base), *slot);

    if (node)
        *slot = node;
    return node;
}

static void set_below(BmpBits *bits, BmpPage **slot, unsigned level, uint64_t base, uint64_t first,
                      uint64_t last)
{
    uint64_t span = level ? bmp_bits_span(level - 1) : 0;
    BmpPage *node;

    if (*slot == BMP_FULL)
        return;
    if (first <= base && last >= slot_last(bits, level, base)) {
        bmp_page_replace(slot, BMP_FULL);
        return;
    }
    if (!level) {
        bmp_page_set(slot, first - base, last - base);
        return;
    }
    node = own_node(bits, slot, level, base);
    if (!node) {
        bmp_page_replace(slot, BMP_FULL);
        return;
    }
    for (uint64_t i = (first - base) / span; i <= (last - base) / span; i++) {
        uint64_t below = base + i * span;

        set_below(bits, &bmp_page_slots(node)[i], level - 1, below, tm_max(first, below),
                  tm_min(last, below + span - 1));
    }
}

void bmp_bits_set(BmpBits *bits, uint64_t first, uint64_t last)
{
    if (first >= bits->nbits || first > last)
        return;
    set_below(bits, &bits->root, bits->height, 0, first, tm_min(last, bits->nbits - 1));
}

void bmp_bits_set_bytes(BmpBits *bits, uint64_t offset, uint64_t length)
{
    if (length)
        bmp_bits_set(bits, offset >> bits->shift, (offset + (length - 1)) >> bits->shift);
}

static bool node_empty(const BmpPage *node)
{
    for (unsigned i = 0; i < node->n; i++) {
        if (bmp_page_slots(node)[i])
            return false;
    }
    return true;
}

static void clear_below(BmpBits *bits, BmpPage **slot, unsigned level, uint64_t base,
                        uint64_t first, uint64_t last)
{
    uint64_t span = level ? bmp_bits_span(level - 1) : 0;
    BmpPage *node;

    if (!*slot)
        return;
    if (first <= base && last >= slot_last(bits, level, base)) {
        bmp_page_replace(slot, NULL);
        return;
    }
    if (!level) {
        bmp_page_clear(slot, first - base, last - base);
        return;
    }
    node = own_node(bits, slot, level, base);
    if (!node)
        return;
    for (uint64_t i = (first - base) / span; i <= (last - base) / span; i++) {
        uint64_t below = base + i * span;

        clear_below(bits, &bmp_page_slots(node)[i], level - 1, below, tm_max(first, below),
                    tm_min(last, below + span - 1));
    }
    if (node_empty(node))
        bmp_page_replace(slot, NULL);
}

void bmp_bits_clear(BmpBits *bits, uint64_t first, uint64_t last)
{
    if (first >= bits->nbits || first > last)
        return;
    clear_below(bits, &bits->root, bits->height, 0, first, tm_min(last, bits->nbits - 1));
}

BmpPage *bmp_bits_find(const BmpBits *bits, uint64_t bit, uint64_t *base, uint64_t *end)
{
    unsigned level = bits->height;
    BmpPage *page = bits->root;
    uint64_t span = bmp_bits_span(level);

    while (level && page && page != BMP_FULL) {
        level--;
        span >>= BMP_NODE_SHIFT;
        page = bmp_page_slots(page)[(bit / span) % BMP_NODE_SLOTS];
    }
    *base = bit & ~(span - 1);
    *end = *base + span;
    return page;
}

bool bmp_bits_test(const BmpBits *bits, uint64_t bit)
{
    uint64_t base, end;

    return bit < bits->nbits &&
           bmp_page_test(bmp_bits_find(bits, bit, &base, &end), bit % BMP_PAGE_BITS);
}

static uint64_t count_below(const BmpBits *bits, BmpPage *page, unsigned level, uint64_t base)
{
    uint64_t span = level ? bmp_bits_span(level - 1) : 0, n = 0;

    if (!page)
        return 0;
    if (page == BMP_FULL || !level) {
        uint64_t limit = slot_last(bits, level, base) - base + 1;

        return page == BMP_FULL ? limit : bmp_page_count(page, limit);
    }
    n = __atomic_load_n(&page->counted, __ATOMIC_RELAXED);
    if (n)
        return n - 1;
    for (unsigned i = 0; i < page->n; i++)
        n += count_below(bits, bmp_page_slots(page)[i], level - 1, base + i * span);
    __atomic_store_n(&page->counted, n + 1, __ATOMIC_RELAXED);
    return n;
}

uint64_t bmp_bits_count(const BmpBits *bits)
{
    return bits->nbits ? count_below(bits, bits->root, bits->height, 0) : 0;
}

/* ---- OR ------------------------------------------------------------------------------------ */

static BmpPage *child(BmpPage *node, unsigned i)
{
    return !node || node == BMP_FULL ? node : bmp_page_slots(node)[i];
}

/* What the slots of one position were at the last OR, and what came of it. */
typedef struct Last {
    BmpPage *to, *from, *result;
} Last;

static void or_below(BmpPage **slot, BmpPage *from, Last last, unsigned level)
{
    BmpPage *node;

    if (!from || *slot == BMP_FULL || *slot == from)
        return;
    if (!*slot || from == BMP_FULL) {
        bmp_page_replace(slot, bmp_page_ref(from));
        return;
    }
    if (*slot == last.to && from == last.from) {
        bmp_page_replace(slot, bmp_page_ref(last.result));
        return;
    }
    if (!level) {
        bmp_page_or(slot, from);
        return;
    }
    node = bmp_page_own(slot);
    if (!node) {
        bmp_page_replace(slot, BMP_FULL);
        return;
    }
    for (unsigned i = 0; i < node->n; i++) {
        Last below = { child(last.to, i), child(last.from, i), child(last.result, i) };

        or_below(&bmp_page_slots(node)[i], bmp_page_slots(from)[i], below, level - 1);
    }
}

void bmp_memo_clear(BmpMemo *memo)
{
    bmp_bits_clear_all(&memo->to);
    bmp_bits_clear_all(&memo->from);
    bmp_bits_clear_all(&memo->result);
}

void bmp_bits_or_memo(BmpBits *to, const BmpBits *from, BmpMemo *memo)
{
    bool usable = bmp_bits_same_geometry(&memo->to, to);
    BmpBits before;

    bmp_bits_clone(&before, to);
    or_below(&to->root, from->root,
             usable ? (Last){ memo->to.root, memo->from.root, memo->result.root } : (Last){ 0 },
             to->height);
    bmp_memo_clear(memo);
    memo->to = before;
    bmp_bits_clone(&memo->from, from);
    bmp_bits_clone(&memo->result, to);
}

/* Both outward: a granule of @from covers many of @to, or lies in one. */
static void or_converted(BmpBits *to, const BmpBits *from)
{
    BmpBitsIter iter = bmp_bits_iter(from);
    uint64_t first, end = 0;

    while (bmp_bits_next(&iter, end, from->nbits, &first, &end)) {
        if (from->shift >= to->shift)
            bmp_bits_set(to, first << (from->shift - to->shift),
                         (end << (from->shift - to->shift)) - 1);
        else
            bmp_bits_set(to, first >> (to->shift - from->shift),
                         (end - 1) >> (to->shift - from->shift));
    }
}

void bmp_bits_or(BmpBits *to, const BmpBits *from)
{
    if (bmp_bits_same_geometry(to, from))
        or_below(&to->root, from->root, (Last){ 0 }, to->height);
    else
        or_converted(to, from);
}

/* ---- size ---------------------------------------------------------------------------------- */

void bmp_bits_or_leaf(BmpBits *bits, uint64_t base, BmpPage *leaf)
{
    BmpPage **slot = &bits->root;

    for (unsigned level = bits->height; level; level--) {
        uint64_t span = bmp_bits_span(level - 1);
        BmpPage *node;

        if (*slot == BMP_FULL)
            return;
        node = own_node(bits, slot, level, base & ~(bmp_bits_span(level) - 1));
        if (!node) {
            bmp_page_replace(slot, BMP_FULL);
            return;
        }
        slot = &bmp_page_slots(node)[(base / span) % BMP_NODE_SLOTS];
    }
    bmp_page_or(slot, leaf);
}

void bmp_bits_resize(BmpBits *bits, uint64_t size)
{
    uint64_t base, end = 0, kept;
    BmpBits to;

    bmp_bits_init(&to, size, bits->shift);
    kept = tm_min(to.nbits, bits->nbits);
    for (uint64_t bit = 0; bit < kept; bit = end) {
        BmpPage *page = bmp_bits_find(bits, bit, &base, &end);

        if (page == BMP_FULL)
            bmp_bits_set(&to, base, tm_min(end, kept) - 1);
        else if (page)
            bmp_bits_or_leaf(&to, base, page);
    }
    if (to.nbits > kept)
        bmp_bits_clear(&to, kept, to.nbits - 1);
    bmp_bits_clear_all(bits);
    *bits = to;
}

/* ---- walking ------------------------------------------------------------------------------- */

static void iter_seek(BmpBitsIter *iter, uint64_t bit)
{
    if (bit < iter->base || bit >= iter->end)
        iter->page = bmp_bits_find(iter->bits, bit, &iter->base, &iter->end);
}

static uint64_t next_set(BmpBitsIter *iter, uint64_t from, uint64_t limit)
{
    while (from < limit) {
        iter_seek(iter, from);
        if (iter->page == BMP_FULL)
            return from;
        if (iter->page) {
            unsigned bit = bmp_page_next_set(iter->page, from - iter->base);

            if (bit < BMP_PAGE_BITS)
                return iter->base + bit;
        }
        from = iter->end;
    }
    return limit;
}

static uint64_t next_clear(BmpBitsIter *iter, uint64_t from, uint64_t limit)
{
    while (from < limit) {
        iter_seek(iter, from);
        if (!iter->page)
            return from;
        if (iter->page != BMP_FULL) {
            unsigned bit = bmp_page_next_clear(iter->page, from - iter->base);

            if (bit < BMP_PAGE_BITS)
                return iter->base + bit;
        }
        from = iter->end;
    }
    return limit;
}

/* A run that begins and ends in the word that @from is in: most of a badly fragmented set. */
static bool next_in_word(const BmpBitsIter *iter, uint64_t from, uint64_t *first, uint64_t *end)
{
    unsigned bit = from % BMP_PAGE_BITS, start;
    uint64_t word;

    if (from < iter->base || from >= iter->end || !iter->page || iter->page->kind != BMP_WORDS)
        return false;
    word = bmp_page_words(iter->page)[bit / 64] & (UINT64_MAX << (bit % 64));
    if (!word)
        return false;
    start = __builtin_ctzll(word);
    word = ~word & (UINT64_MAX << start);
    if (!word)
        return false;
    *first = from - bit % 64 + start;
    *end = from - bit % 64 + __builtin_ctzll(word);
    return true;
}

bool bmp_bits_next(BmpBitsIter *iter, uint64_t from, uint64_t limit, uint64_t *first, uint64_t *end)
{
    uint64_t start, stop;

    limit = tm_min(limit, iter->bits->nbits);
    if (!next_in_word(iter, from, &start, &stop)) {
        start = next_set(iter, from, limit);
        stop = next_clear(iter, start + 1, limit);
    }
    if (start >= limit)
        return false;
    *first = start;
    *end = tm_min(stop, limit);
    return true;
}

/* ---- edges --------------------------------------------------------------------------------- */

typedef struct Edges {
    uint64_t from, *list;
    size_t n, max;
    unsigned shift; /* of bits to bytes, in which runs are described */
    bool set;       /* the bit before, at first that at @from */
} Edges;

/* From @at on bits are @set. false: there is no room to describe it. */
static bool become(Edges *e, uint64_t at, bool set)
{
    if (e->set == set)
        return true;
    if (e->n == e->max)
        return false;
    e->list[e->n++] = at << e->shift;
    e->set = set;
    return true;
}

/* A word whose first bit is @base, as far as @mask goes. */
static bool word_edges(Edges *e, uint64_t base, uint64_t word, uint64_t mask)
{
    uint64_t changes = (word ^ (word << 1 | e->set)) & mask;
    uint64_t *at = e->list + e->n, *full = e->list + e->max;
    unsigned shift = e->shift;

    e->set = word >> 63;
    while (changes && at < full) {
        *at++ = (base + (unsigned)__builtin_ctzll(changes)) << shift;
        changes &= changes - 1;
    }
    e->n = (size_t)(at - e->list);
    return !changes;
}

/* The part [@bit, @limit) of a page. */
static bool words_edges(Edges *e, const uint64_t *words, uint64_t base, uint64_t bit,
                        uint64_t limit)
{
    uint64_t mask = UINT64_MAX << (bit % 64);

    if (bit == e->from) /* where it begins nothing changes */
        mask &= mask - 1;
    for (uint64_t at = bit & ~UINT64_C(63); at < limit; at += 64) {
        if (limit - at < 64)
            mask &= (UINT64_C(1) << (limit - at)) - 1;
        if (!word_edges(e, at, words[(at - base) / 64], mask))
            return false;
        mask = UINT64_MAX;
    }
    return true;
}

static bool list_edges(Edges *e, const BmpPage *page, uint64_t base, uint64_t bit, uint64_t limit)
{
    const uint16_t *list = bmp_page_list(page);

    for (unsigned i = bmp_list_lower_bound(page, (unsigned)(bit - base)); i < page->n; i++) {
        uint64_t next = base + list[i];

        if (next >= limit)
            break;
        if ((next > bit && !become(e, bit, false)) || !become(e, next, true))
            return false;
        bit = next + 1;
    }
    return bit >= limit || become(e, bit, false);
}

size_t bmp_bits_edges(const BmpBits *bits, uint64_t from, uint64_t limit, uint64_t *edges,
                      size_t max, bool *set, uint64_t *reached)
{
    Edges e = { .from = from, .list = edges, .max = max, .shift = bits->shift };
    uint64_t base, end;
    bool more = true;

    limit = tm_min(limit, bits->nbits);
    *set = e.set = from < limit && bmp_bits_test(bits, from);
    for (uint64_t bit = from; more && bit < limit; bit = end) {
        BmpPage *page = bmp_bits_find(bits, bit, &base, &end);

        end = tm_min(end, limit);
        if (!page || page == BMP_FULL)
            more = become(&e, bit, page == BMP_FULL);
        else if (page->kind == BMP_LIST)
            more = list_edges(&e, page, base, bit, end);
        else
            more = words_edges(&e, bmp_page_words(page), base, bit, end);
    }
    *reached = more ? limit : e.list[e.n - 1] >> e.shift;
    return e.n;
}

/* ---- export --------------------------------------------------------------------------------- */

static void leaf_words(uint64_t *words, const BmpPage *page, unsigned limit)
{
    memset(words, page == BMP_FULL ? 0xff : 0, BMP_PAGE_BITS / 8);
    if (page && page->kind == BMP_WORDS)
        memcpy(words, bmp_page_words(page), BMP_PAGE_BITS / 8);
    for (unsigned i = 0; page && page->kind == BMP_LIST && i < page->n; i++)
        words[bmp_page_list(page)[i] / 64] |= UINT64_C(1) << (bmp_page_list(page)[i] % 64);
    if (limit % 64)
        words[limit / 64] &= bmp_word_mask(0, limit % 64 - 1);
    for (unsigned w = 0; w < BMP_PAGE_WORDS; w++)
        tm_put_le64(&words[w], words[w]);
}

void bmp_bits_export(const BmpBits *bits,
                     void (*put)(void *opaque, const void *data, size_t length), void *opaque)
{
    uint64_t words[BMP_PAGE_WORDS] = { 0 }, base, end;

    if (!bits->nbits)
        put(opaque, words, 8);
    for (uint64_t bit = 0; bit < bits->nbits; bit += BMP_PAGE_BITS) {
        unsigned limit = tm_min(bits->nbits - bit, BMP_PAGE_BITS);

        leaf_words(words, bmp_bits_find(bits, bit, &base, &end), limit);
        put(opaque, words, (limit + 63) / 64 * 8);
    }
}

size_t bmp_page_tree_memory(BmpPage *root, GHashTable *seen)
{
    size_t n;

    if (!root || root == BMP_FULL || !g_hash_table_add(seen, root))
        return 0;
    n = bmp_page_size(root);
    for (unsigned i = 0; root->kind == BMP_NODE && i < root->n; i++)
        n +=
            bmp_page_tree_memory(__atomic_load_n(&bmp_page_slots(root)[i], __ATOMIC_ACQUIRE), seen);
    return n;
}
