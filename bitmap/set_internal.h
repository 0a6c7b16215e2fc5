/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* bitmap/set_internal.h: what a set and its bitmaps are made of; bitmap.h is for users.
 *
 * The chain. What a swap of the tracker hands out becomes a delta, and the deltas of a set form a
 * chain, oldest first. Its tail is the running epoch, whose marks are still in the tracker. An
 * enabled bitmap has a position: the oldest delta that it has not folded; from there to the tail
 * everything belongs to it. Backups have positions, too.
 *
 * Invariants:
 *  S1  Every delta but the tail is somebody's position. One that is nobody's is merged into its
 *      predecessor, whose holders are then the only ones to need it, or dropped if it is the
 *      oldest: I3 of bitmap.h.
 *  S2  A bitmap's content and the deltas from its position on, with the running epoch, are all
 *      that it has recorded. A bitmap without position records nothing.
 *  S3  The running epoch's granules are no bigger than those of any bitmap positioned at or before
 *      it.
 *  S4  Between change_begin and change_end the running epoch is the one that the change began,
 *      with the smallest granules there are: a bitmap of any granularity can begin at that instant.
 *
 * Locks: set->lock (recursive, so that queries work within a change) guards everything here but the
 * tracker's marking. It ranks below nothing: under it, only the tracker's stripes and malloc. */
#pragma once
#include "bitmap/bitmap.h"
#include "bitmap/tracker.h"

/* A delta as bitmaps of another granularity need it, made when more than one may ask. */
typedef struct BmpView {
    struct BmpView *next;
    BmpBits bits;
} BmpView;

#define BMP_SHIFT_DEFAULT 16u /* of the running epoch, if nobody records */

typedef struct BmpDelta {
    struct BmpDelta *prev, *next;
    BmpBits bits; /* empty in the tail */
    BmpView *views;
    uint64_t serial;  /* grows along the chain */
    unsigned holders; /* positions here */
} BmpDelta;

struct BmpSet {
    BmpTracker tracker;
    uint64_t disabled_at; /* atomic: the tracker's state when a bitmap was last disabled, or 0 */
    pthread_mutex_t lock;
    int refs; /* atomic: the owner's and one for each bitmap */
    char *node_name;
    uint64_t size;
    unsigned shift; /* of the running epoch outside of changes */
    bool changing;
    BmpDelta *head, *tail;
    BmpMemo memo;           /* the last fold, for the next bitmap to share */
    GPtrArray *bitmaps;     /* BmpBitmap, a reference each, in order of creation */
    GPtrArray *removed;     /* within a change: what may be put back, a reference each */
    struct BmpStore *store; /* or NULL: */
    char *refused;          /* why there can be none; or NULL */
    bool lossy;             /* atomic: the disk has lost data: what begins is dirty everywhere */
    struct BmpJournal *journal; /* atomic: the store's, or NULL; changes when nobody marks */
    bool touched;               /* persistent bitmaps have changed since the last commit */
};

struct BmpBitmap {
    int refs;    /* atomic */
    int busy;    /* atomic */
    BmpSet *set; /* a reference */
    char *name;
    uint8_t shift; /* the granularity; constant */
    bool persistent, inconsistent;
    bool unfinished;  /* a backup has begun it, and has not ended */
    bool was_enabled; /* an inconsistent one, before it was: for a repair */
    bool enabled;     /* atomic: written under the lock, asked from any thread */
    bool attached;    /* among the set's bitmaps */
    unsigned place;   /* index among them when it was removed */
    uint64_t since;   /* the tracker's state when it was last enabled; 0: never */
    BmpDelta *at;     /* position; NULL while disabled or out of the set */
    BmpBits bits;     /* what it has folded */
    bool cutting;     /* the disk is becoming shorter: */
    BmpBits uncut;    /* what it had folded before */
    bool frozen;      /* and so these: */
    BmpBits shown;    /* what it was when it was frozen */
    BmpBits later;    /* what it has folded since then, too */
    char *reason;     /* why it is inconsistent, or dirtier than was written; or NULL */
    uint64_t recovered;
    uint64_t began;     /* monotonic ns: when it was created or last cleared; 0: unknown */
    uint64_t frozen_at; /* the same: when it was frozen last */
};

struct BmpBackup {
    BmpBitmap *bitmap; /* a reference */
    bool enabled, unfinished;
    uint64_t since;
    BmpDelta *at;
    BmpBits bits;
    char *reason;
    uint64_t recovered, began;
};

BmpSet *bmp_set_ref(BmpSet *set);
void bmp_set_unref(BmpSet *set);

/* For qsort() of pointers: the order in which locks of one kind are taken. */
int bmp_by_address(const void *a, const void *b);

static inline void bmp_set_lock(BmpSet *set)
{
    pthread_mutex_lock(&set->lock);
}

static inline void bmp_set_unlock(BmpSet *set)
{
    pthread_mutex_unlock(&set->lock);
}

/* The following are called with the lock held. */

/* Within a change: the disk has lost data. What is in memory only, and what begins from now on, is
 * dirty everywhere. */
void bmp_set_note_loss(BmpSet *set);

/* Ends the running epoch; its marks become a delta if there are any. */
void bmp_chain_seal(BmpSet *set, unsigned shift, bool active);
/* Seals what was marked until now, if there is anything and no change is under way (S4). */
void bmp_chain_seal_marks(BmpSet *set);
/* A new holder of @at, one less (NULL passes through). */
BmpDelta *bmp_chain_hold(BmpDelta *at);
void bmp_chain_release(BmpSet *set, BmpDelta *at);
/* *bits |= the deltas from @at to the tail. */
void bmp_chain_fold(BmpSet *set, BmpDelta *at, BmpBits *bits);
size_t bmp_chain_memory(BmpSet *set, GHashTable *seen);
void bmp_chain_free(BmpSet *set);

/* Without content, of a set that does not have it yet; a reference. */
BmpBitmap *bmp_bitmap_new(BmpSet *set, const char *name, uint64_t granularity);
void bmp_bitmap_drop_frozen(BmpBitmap *bitmap);
/* What is marked other than by the tracker. */
void bmp_bitmap_set_bytes(BmpBitmap *bitmap, uint64_t offset, uint64_t length);

/* Within a change: what is dirty elsewhere, of a disk of the same size, becomes dirty. Errors: its
 * store is read-only. */
bool bmp_bitmap_add_bits(BmpBitmap *bitmap, const BmpBits *bits, GError **error);

/* What those see who ask. */
static inline const BmpBits *bmp_bitmap_shown(const BmpBitmap *bitmap)
{
    return bitmap->frozen ? &bitmap->shown : &bitmap->bits;
}

/* It records from now on, or no longer. */
void bmp_bitmap_start(BmpBitmap *bitmap);
void bmp_bitmap_stop(BmpBitmap *bitmap);
void bmp_bitmap_set_enabled(BmpBitmap *bitmap, bool enabled);
void bmp_bitmap_move_to_tail(BmpBitmap *bitmap);
bool bmp_bitmap_check_not_busy(const BmpBitmap *bitmap, GError **error);
/* Folds what the bitmap has not folded and moves it to the tail. */
void bmp_bitmap_fold(BmpBitmap *bitmap);
/* The same after sealing what was marked until now; within a change, as of its beginning. */
void bmp_bitmap_refresh(BmpBitmap *bitmap);
void bmp_set_fold_all(BmpSet *set);
/* Nothing is recorded for it any more. */
void bmp_bitmap_detach(BmpBitmap *bitmap);
