/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* bitmap/tracker.c: concurrent marking and the swap of epochs. How both work is in tracker.h. */
#include "bitmap/tracker.h"
#include "util/range.h"
#include "util/sync.h"
#include <sched.h>

static BmpEpoch *epoch_new(uint64_t state, uint64_t size, unsigned shift)
{
    BmpEpoch *epoch = g_new0(BmpEpoch, 1);

    epoch->state = state;
    bmp_bits_init(&epoch->bits, size, shift);
    return epoch;
}

static void epoch_free(BmpEpoch *epoch)
{
    BmpPage *next;

    for (BmpPage *page = epoch->retired; page; page = next) {
        next = page->retired;
        bmp_page_unref(page);
    }
    g_free(epoch);
}

void bmp_tracker_init(BmpTracker *tracker, uint64_t size, unsigned shift)
{
    *tracker = (BmpTracker){ .state = 0 };
    tracker->live = epoch_new(0, size, shift);
    pthread_mutex_init(&tracker->turning, NULL);
    for (unsigned i = 0; i < BMP_STRIPES; i++)
        pthread_mutex_init(&tracker->stripes[i], NULL);
}

void bmp_tracker_destroy(BmpTracker *tracker)
{
    bmp_bits_clear_all(&tracker->live->bits);
    epoch_free(tracker->live);
    pthread_mutex_destroy(&tracker->turning);
    for (unsigned i = 0; i < BMP_STRIPES; i++)
        pthread_mutex_destroy(&tracker->stripes[i]);
}

/* ---- slots --------------------------------------------------------------------------------- */

static BmpPage *slot_get(BmpPage **slot)
{
    return __atomic_load_n(slot, __ATOMIC_ACQUIRE);
}

static bool slot_swap(BmpPage **slot, BmpPage *expected, BmpPage *page)
{
    return __atomic_compare_exchange_n(slot, &expected, page, false, __ATOMIC_ACQ_REL,
                                       __ATOMIC_ACQUIRE);
}

static void retire(BmpEpoch *epoch, BmpPage *page)
{
    BmpPage *head = __atomic_load_n(&epoch->retired, __ATOMIC_RELAXED);

    if (!page || page == BMP_FULL)
        return;
    do {
        page->retired = head;
    } while (!__atomic_compare_exchange_n(&epoch->retired, &head, page, true, __ATOMIC_RELEASE,
                                          __ATOMIC_RELAXED));
}

static void slot_fill(BmpEpoch *epoch, BmpPage **slot)
{
    if (slot_get(slot) != BMP_FULL)
        retire(epoch, __atomic_exchange_n(slot, BMP_FULL, __ATOMIC_ACQ_REL));
}

/* ---- marking ------------------------------------------------------------------------------- */

static void mark_words(BmpPage *page, unsigned first, unsigned last)
{
    uint64_t *words = bmp_page_words(page);

    for (unsigned w = first / 64; w <= last / 64; w++) {
        uint64_t mask = bmp_word_mask(w == first / 64 ? first : 0, w == last / 64 ? last : 63);

        /* An OR takes the cache line from the other markers, a load shares it. */
        if ((__atomic_load_n(&words[w], __ATOMIC_RELAXED) & mask) != mask)
            __atomic_fetch_or(&words[w], mask, __ATOMIC_RELAXED);
    }
}

/* Under the stripe's lock, so nobody else adds to or replaces a list; but another marker may fill
 * the slot, or a slot above it: then what is done here to the page is done to garbage, and
 * right. */
static void mark_list(BmpEpoch *epoch, BmpPage **slot, unsigned first, unsigned last)
{
    BmpPage *page = slot_get(slot), *grown;
    unsigned missing;

    if (page && page->kind != BMP_LIST) {
        if (page != BMP_FULL)
            mark_words(page, first, last);
        return;
    }
    missing = last - first + 1 - (page ? bmp_list_count(page, first, last) : 0);
    if (!missing)
        return;
    if (page && page->n + missing <= page->cap) {
        bmp_list_insert(page, first, last);
        return;
    }
    grown = bmp_list_grown(page, first, last);
    if (!grown)
        slot_fill(epoch, slot);
    else if (slot_swap(slot, page, grown))
        retire(epoch, page);
    else
        bmp_page_unref(grown);
}

static void mark_leaf(BmpTracker *tracker, BmpEpoch *epoch, BmpPage **slot, uint64_t base,
                      unsigned first, unsigned last)
{
    BmpPage *page = slot_get(slot);
    pthread_mutex_t *stripe = &tracker->stripes[(base >> BMP_PAGE_SHIFT) % BMP_STRIPES];

    if (page == BMP_FULL)
        return;
    if (page && page->kind == BMP_WORDS) {
        mark_words(page, first, last);
        return;
    }
    pthread_mutex_lock(stripe);
    mark_list(epoch, slot, first, last);
    pthread_mutex_unlock(stripe);
}

/* The node in a slot, made if there is none; BMP_FULL if there is nothing left to mark. */
static BmpPage *mark_node(BmpEpoch *epoch, BmpPage **slot, unsigned level, uint64_t base)
{
    BmpPage *node = slot_get(slot);

    if (node)
        return node;
    node = bmp_page_new_node(bmp_bits_node_slots(&epoch->bits, level, base), NULL);
    if (!node) {
        slot_fill(epoch, slot);
        return BMP_FULL;
    }
    if (slot_swap(slot, NULL, node))
        return node;
    bmp_page_unref(node);
    return slot_get(slot);
}

static void mark_below(BmpTracker *tracker, BmpEpoch *epoch, BmpPage **slot, unsigned level,
                       uint64_t base, uint64_t first, uint64_t last)
{
    uint64_t top = tm_min(base + bmp_bits_span(level), epoch->bits.nbits) - 1;
    uint64_t span;
    BmpPage *node;

    if (first <= base && last >= top) {
        slot_fill(epoch, slot);
        return;
    }
    if (!level) {
        mark_leaf(tracker, epoch, slot, base, first - base, last - base);
        return;
    }
    node = mark_node(epoch, slot, level, base);
    if (node == BMP_FULL)
        return;
    span = bmp_bits_span(level - 1);
    for (uint64_t i = (first - base) / span; i <= (last - base) / span; i++) {
        uint64_t below = base + i * span;

        mark_below(tracker, epoch, &bmp_page_slots(node)[i], level - 1, below, tm_max(first, below),
                   tm_min(last, below + span - 1));
    }
}

/* Whether one granule is marked already: loads only. */
static bool marked(const BmpEpoch *epoch, uint64_t bit)
{
    unsigned level = epoch->bits.height;
    BmpPage *page = __atomic_load_n(&epoch->bits.root, __ATOMIC_ACQUIRE);

    for (unsigned shift = BMP_PAGE_SHIFT + BMP_NODE_SHIFT * level; level && page; level--) {
        if (page == BMP_FULL)
            return true;
        shift -= BMP_NODE_SHIFT;
        page = slot_get(&bmp_page_slots(page)[(bit >> shift) % BMP_NODE_SLOTS]);
    }
    return bmp_page_test(page, bit % BMP_PAGE_BITS);
}

static void mark(BmpTracker *tracker, BmpEpoch *epoch, uint64_t offset, uint64_t length)
{
    uint64_t first = offset >> epoch->bits.shift;
    uint64_t last = (offset + (length - 1)) >> epoch->bits.shift;

    /* A write that raced with a resize: what was cut off needs no mark, what has grown has one. */
    if (!length || first >= epoch->bits.nbits)
        return;
    last = tm_min(last, epoch->bits.nbits - 1);
    if (first == last && marked(epoch, first))
        return;
    mark_below(tracker, epoch, &epoch->bits.root, epoch->bits.height, 0, first, last);
}

/* ---- epochs -------------------------------------------------------------------------------- */

/* A slot that other threads rarely share; which one matters only for speed. */
static BmpReaders *own_readers(BmpTracker *tracker)
{
    uint64_t id = (uint64_t)(uintptr_t)pthread_self();

    return &tracker->readers[(id * UINT64_C(0x9e3779b97f4a7c15)) >> 60];
}

uint32_t *bmp_tracker_enter(BmpTracker *tracker)
{
    uint32_t *in = &own_readers(tracker)->in[__atomic_load_n(&tracker->parity, __ATOMIC_RELAXED)];

    /* The count must be seen before the tree is looked up: see bmp_tracker_quiesce(). */
    __atomic_fetch_add(in, 1, __ATOMIC_SEQ_CST);
    return in;
}

void bmp_tracker_leave(uint32_t *section)
{
    __atomic_fetch_sub(section, 1, __ATOMIC_RELEASE);
}

uint64_t bmp_tracker_mark(BmpTracker *tracker, uint64_t offset, uint64_t length)
{
    BmpEpoch *epoch = __atomic_load_n(&tracker->live, __ATOMIC_SEQ_CST);

    mark(tracker, epoch, offset, length);
    return epoch->state;
}

bool bmp_tracker_empty(const BmpTracker *tracker)
{
    BmpEpoch *live = __atomic_load_n(&tracker->live, __ATOMIC_RELAXED);

    return !__atomic_load_n(&live->bits.root, __ATOMIC_SEQ_CST);
}

void bmp_tracker_quiesce(BmpTracker *tracker)
{
    TM_GUARD(&tracker->turning);

    for (unsigned turn = 0; turn < 2; turn++) {
        unsigned old = __atomic_load_n(&tracker->parity, __ATOMIC_RELAXED);

        __atomic_store_n(&tracker->parity, !old, __ATOMIC_SEQ_CST);
        for (unsigned i = 0; i < BMP_READERS; i++) {
            while (__atomic_load_n(&tracker->readers[i].in[old], __ATOMIC_SEQ_CST))
                sched_yield();
        }
    }
}

void bmp_tracker_swap(BmpTracker *tracker, uint64_t size, unsigned shift, bool active,
                      BmpBits *sealed)
{
    BmpEpoch *old = tracker->live;
    uint64_t number = (old->state & ~BMP_STATE_ACTIVE) + BMP_STATE_EPOCH;
    uint64_t state = number | (active ? BMP_STATE_ACTIVE : 0);

    __atomic_store_n(&tracker->live, epoch_new(state, size, shift), __ATOMIC_SEQ_CST);
    __atomic_store_n(&tracker->state, state, __ATOMIC_SEQ_CST);
    bmp_tracker_quiesce(tracker);
    *sealed = old->bits;
    epoch_free(old);
}

size_t bmp_tracker_memory(const BmpTracker *tracker, GHashTable *seen)
{
    const BmpEpoch *live = tracker->live;
    size_t n = sizeof(*live);
    BmpPage *root = __atomic_load_n(&live->bits.root, __ATOMIC_ACQUIRE);

    for (BmpPage *page = __atomic_load_n(&live->retired, __ATOMIC_ACQUIRE); page;
         page = page->retired)
        n += bmp_page_tree_memory(page, seen);
    return n + bmp_page_tree_memory(root, seen);
}
