/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* bitmap/chain.c: the deltas of a set, and folding them. What the chain is: set_internal.h. */
#include "bitmap/set_internal.h"
#include "util/range.h"

static void views_free(BmpDelta *delta)
{
    BmpView *next;

    for (BmpView *view = delta->views; view; view = next) {
        next = view->next;
        bmp_bits_clear_all(&view->bits);
        g_free(view);
    }
    delta->views = NULL;
}

static void delta_free(BmpDelta *delta)
{
    views_free(delta);
    bmp_bits_clear_all(&delta->bits);
    g_free(delta);
}

static void chain_append(BmpSet *set)
{
    BmpDelta *delta = g_new0(BmpDelta, 1);

    delta->prev = set->tail;
    if (set->tail) {
        set->tail->next = delta;
        delta->serial = set->tail->serial + 1;
    } else {
        set->head = delta;
    }
    set->tail = delta;
}

/* @delta |= @from, in the bigger granules of the two: by S3 nobody who holds @delta, or an older
 * one, has smaller ones than either. */
static void delta_absorb(BmpDelta *delta, const BmpDelta *from, uint64_t size)
{
    BmpBits bits;

    views_free(delta);
    if (delta->bits.shift < from->bits.shift) {
        bmp_bits_init(&bits, size, from->bits.shift);
        bmp_bits_or(&bits, &delta->bits);
        bmp_bits_clear_all(&delta->bits);
        delta->bits = bits;
    }
    bmp_bits_or(&delta->bits, &from->bits);
}

/* S1 */
static void chain_settle(BmpSet *set, BmpDelta *delta)
{
    if (delta == set->tail || delta->holders)
        return;
    if (delta->prev) {
        delta_absorb(delta->prev, delta, set->size);
        delta->prev->next = delta->next;
    } else {
        set->head = delta->next;
    }
    delta->next->prev = delta->prev;
    delta_free(delta);
}

void bmp_chain_seal(BmpSet *set, unsigned shift, bool active)
{
    BmpDelta *delta = set->tail;
    BmpBits sealed;

    if (!set->tail) {
        chain_append(set);
        return;
    }
    bmp_tracker_swap(&set->tracker, set->size, shift, active, &sealed);
    if (bmp_bits_empty(&sealed))
        return;
    delta->bits = sealed;
    chain_append(set);
    chain_settle(set, delta);
}

void bmp_chain_seal_marks(BmpSet *set)
{
    if (!set->changing && (bmp_tracker_state(&set->tracker) & BMP_STATE_ACTIVE) &&
        !bmp_tracker_empty(&set->tracker))
        bmp_chain_seal(set, set->shift, true);
}

BmpDelta *bmp_chain_hold(BmpDelta *at)
{
    if (at)
        at->holders++;
    return at;
}

void bmp_chain_release(BmpSet *set, BmpDelta *at)
{
    BmpDelta *next;

    if (!at || --at->holders)
        return;
    /* Without an older holder, the next one may now be the oldest and unheld only if it is the
     * tail, so one step is all there is to do. */
    next = at->next;
    chain_settle(set, at);
    g_assert(!next || next == set->tail || next->holders);
}

/* *bits |= @delta. A conversion is kept if others may ask for it. */
static void delta_or(BmpDelta *delta, BmpBits *bits, bool keep)
{
    BmpView *view = delta->views;

    if (!keep || bmp_bits_same_geometry(&delta->bits, bits)) {
        bmp_bits_or(bits, &delta->bits);
        return;
    }
    while (view && !bmp_bits_same_geometry(&view->bits, bits))
        view = view->next;
    if (!view) {
        view = g_new0(BmpView, 1);
        view->bits = *bits;
        view->bits.root = NULL;
        bmp_bits_or(&view->bits, &delta->bits);
        view->next = delta->views;
        delta->views = view;
    }
    bmp_bits_or(bits, &view->bits);
}

/* The deltas are put together first: that costs what is in them, and not, a delta, a copy of the
 * pages that the bitmap shares with others. */
void bmp_chain_fold(BmpSet *set, BmpDelta *at, BmpBits *bits)
{
    unsigned holders = 0;
    BmpBits together = *bits;

    if (!at || at == set->tail)
        return;
    together.root = NULL;
    for (BmpDelta *delta = set->head; delta != set->tail; delta = delta->next)
        holders += delta->holders;
    for (BmpDelta *delta = at; delta != set->tail; delta = delta->next)
        delta_or(delta, &together, holders > 1);
    if (holders > 1) {
        bmp_bits_or_memo(bits, &together, &set->memo);
    } else {
        bmp_memo_clear(&set->memo);
        bmp_bits_or(bits, &together);
    }
    bmp_bits_clear_all(&together);
}

size_t bmp_chain_memory(BmpSet *set, GHashTable *seen)
{
    size_t n = bmp_page_tree_memory(set->memo.to.root, seen) +
               bmp_page_tree_memory(set->memo.from.root, seen) +
               bmp_page_tree_memory(set->memo.result.root, seen);

    for (BmpDelta *delta = set->head; delta; delta = delta->next) {
        n += sizeof(*delta) + bmp_page_tree_memory(delta->bits.root, seen);
        for (BmpView *view = delta->views; view; view = view->next)
            n += sizeof(*view) + bmp_page_tree_memory(view->bits.root, seen);
    }
    return n;
}

void bmp_chain_free(BmpSet *set)
{
    BmpDelta *next;

    for (BmpDelta *delta = set->head; delta; delta = next) {
        next = delta->next;
        delta_free(delta);
    }
    set->head = set->tail = NULL;
    bmp_memo_clear(&set->memo);
}
