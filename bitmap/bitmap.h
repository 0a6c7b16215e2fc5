/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* bitmap/bitmap.h: the dirty bitmaps of one disk.
 *
 * A BmpSet belongs to one disk (one block node). It holds the tracker, the one recorder that writes
 * mark, and the named bitmaps that draw on it.
 *
 * How a write becomes a dirty bit:
 *  - The data path calls bmp_set_mark_begin() before a write is issued and bmp_set_mark_end() when
 *    it has completed. Both touch the tracker only, whatever the number of bitmaps.
 *  - The time between two seals is an epoch. The set of enabled bitmaps does not change within an
 *    epoch. A seal swaps in an empty tracker and leaves the old one's content as an immutable
 *    delta, which is folded into a bitmap when that bitmap is next asked. Pages are shared by
 *    reference.
 *  - mark_end() marks again if the epoch has moved since mark_begin(): a write that straddles a
 *    checkpoint is in both epochs.
 *
 * Invariants that the tests name:
 *  I1  A byte written between mark_begin() and mark_end() is dirty, once mark_end() has returned,
 *      in every bitmap enabled at any moment in between, unless cleared after mark_end() returned.
 *  I2  A granule is dirty only if a byte of it was marked while the bitmap was enabled, or merged,
 *      or is in a grown part.
 *  I3  Deltas alive <= bitmaps + 1: deltas between which no bitmap begins are merged.
 *  I4  A sealed delta never changes.
 *
 * Threads: mark_begin/mark_end from any thread, lock-free for granules that are already dirty.
 * bmp_bitmap_extents(), _count() and refs from any thread. Everything that changes the set of
 * bitmaps or a bitmap's state (the functions that say "within a change") is called between
 * bmp_set_change_begin() and bmp_set_change_end() by one thread, in practice the main one. */
#pragma once
#include "util/extent.h"
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#define BMP_GRANULARITY_MIN UINT64_C(512)
#define BMP_GRANULARITY_MAX (UINT64_C(1) << 31)
#define BMP_NAME_MAX        1023 /* bytes, as QEMU's BDRV_BITMAP_MAX_NAME_SIZE */

typedef struct BmpSet BmpSet;
typedef struct BmpBitmap BmpBitmap;

/* ---- the set ------------------------------------------------------------------------------- */

/* A set without bitmaps for a disk of @size bytes. @node_name (copied) is for error messages. */
BmpSet *bmp_set_new(const char *node_name, uint64_t size);
/* Drops the set's bitmaps. No marking and no change may be under way. References to bitmaps stay
 * valid: a busy one keeps what it has recorded, others report no dirt. NULL is fine. */
void bmp_set_free(BmpSet *set);

/* Marking, around each write of [offset, offset + length), which must be within the disk:
 * begin marks it dirty before the write is issued and returns the epoch, end takes that epoch when
 * the write has completed, whether it has succeeded or failed. With no enabled bitmap either costs
 * one load. Neither can fail: without memory for the mark a whole larger region becomes dirty, and
 * a store that can't be synced becomes distrusted.
 *
 * Threads: any, many at once. begin may wait for a sync of the store (bitmap/store/store.h), so
 * loop threads, which must not wait, call try_begin: false if it would have to wait; nothing counts
 * as marked then. end never waits for I/O, but may wait for the set's lock.
 *
 * Held by the caller: from before begin until after end, whatever a drain of the node waits for
 * (block/engine/inflight.h), since the store's journal is changed only when nobody is in between;
 * on a drained node, the main thread itself. Not held: the set's lock, so neither is called within
 * a change.
 *
 * begin without end: only if the write was never issued. The range stays dirty. A write that was
 * issued and is not ended is missing in bitmaps that were enabled or cleared in the meantime.
 * end without begin, or with another call's epoch: not allowed. It marks nothing while that epoch
 * lasts, and never marks the store. */
uint64_t bmp_set_mark_begin(BmpSet *set, uint64_t offset, uint64_t length);
bool bmp_set_mark_try_begin(BmpSet *set, uint64_t offset, uint64_t length, uint64_t *epoch);
void bmp_set_mark_end(BmpSet *set, uint64_t offset, uint64_t length, uint64_t epoch);

/* Opens and closes a change over @n sets (any order, no duplicates): takes their locks in address
 * order and seals each, so that everything done in between takes effect at one instant of the
 * write stream of each disk. Do not nest. */
void bmp_set_change_begin(BmpSet *const *sets, size_t n);
void bmp_set_change_end(BmpSet *const *sets, size_t n);

/* The disk's size has become @size; within a change. A grown part is dirty in every bitmap. (QEMU
 * 7.2 leaves it clean: whoever copies what is dirty would miss what was in the file there
 * before.) */
void bmp_set_resize(BmpSet *set, uint64_t size);

/* The disk is about to become shorter, with nobody writing: what will be cut off is dirty until
 * bmp_set_resize(), in case that it has been cut off when all ends, and the size has not changed.
 * Not within a change. Or it has failed, and what may be lost stays dirty. */
void bmp_set_cut_begin(BmpSet *set, uint64_t size);
void bmp_set_cut_failed(BmpSet *set);

/* How many bitmaps; and each in order of creation (QEMU lists the newest first), a reference
 * returned (bmp_bitmap_unref), NULL beyond the last. */
size_t bmp_set_length(BmpSet *set);

/* Whether one of them is busy. */
bool bmp_set_busy(BmpSet *set);
BmpBitmap *bmp_set_nth(BmpSet *set, size_t n);
/* A new reference, or NULL: then *error, DeviceNotFound-free as QEMU's: "Dirty bitmap 'X' not
 * found". */
BmpBitmap *bmp_set_find(BmpSet *set, const char *name, GError **error);

/* Every bitmap and its bmp_bitmap_count(), in order of creation, all as of one instant and with one
 * seal: what a listing of many bitmaps should use. Returned: bmp_counted_free(*out, n). */
typedef struct BmpCounted {
    BmpBitmap *bitmap; /* a reference */
    uint64_t count;    /* bytes */
} BmpCounted;
size_t bmp_set_count_all(BmpSet *set, BmpCounted **out);
void bmp_counted_free(BmpCounted *list, size_t n);

/* QEMU's default granularity: the cluster size between 4 KiB and 64 KiB, 64 KiB without one (0). */
uint64_t bmp_default_granularity(uint64_t cluster_size);

/* ---- changes (within a change); messages as QEMU's where QEMU has one ------------------------ */

typedef struct BmpAddOptions {
    uint64_t granularity; /* bytes; 0 is the default (bmp_default_granularity(0)) */
    bool persistent;      /* kept in the set's store; refused without one (bitmap/store/store.h) */
    bool disabled;
    bool dirty; /* everywhere: nobody knows what was written before */
    bool
        unfinished; /* begun by a backup: should the daemon die before bmp_bitmap_finish(), the next
                      * opening leaves it out */
} BmpAddOptions;

/* A new bitmap, clean unless the options say other. Errors: name empty, too long or taken;
 * granularity not a power of two or out of range. Returns a reference. */
BmpBitmap *bmp_set_add(BmpSet *set, const char *name, const BmpAddOptions *options, GError **error);

/* Takes the bitmap out of the set's list. It can be put back at its place, as if nothing had
 * happened, within the same change (a transaction's abort). Who still holds a reference afterwards
 * reads what it recorded until the change, for as long as it likes; it is disabled and can't be
 * enabled again. Errors: busy. */
bool bmp_bitmap_remove(BmpBitmap *bitmap, GError **error);
void bmp_bitmap_unremove(BmpBitmap *bitmap);

bool bmp_bitmap_enable(BmpBitmap *bitmap, GError **error);  /* errors: busy */
bool bmp_bitmap_disable(BmpBitmap *bitmap, GError **error); /* errors: busy */

/* A bitmap's content and enabled state before a change, to take it back (a transaction's abort). */
typedef struct BmpBackup BmpBackup;
BmpBackup *bmp_bitmap_backup(BmpBitmap *bitmap);
/* Takes back everything since the backup, within the same change and without a resize in between;
 * consumes @backup. (bmp_bitmap_remove() is taken back by bmp_bitmap_unremove(), before or
 * after.) */
void bmp_bitmap_restore(BmpBitmap *bitmap, BmpBackup *backup);
void bmp_backup_free(BmpBackup *backup); /* keep the change; NULL is fine */

bool bmp_bitmap_clear(BmpBitmap *bitmap, GError **error); /* errors: busy */
/* The backup that has begun it has succeeded: it is as any other. */
void bmp_bitmap_finish(BmpBitmap *bitmap);
/* target |= source, converting the granularity outward. Both sets are within the change. With more
 * sources, what QEMU does is to merge each into a bitmap of the target's granularity first: the
 * result is the same, but on failure take back the earlier ones with a backup of the target.
 * Errors, in QEMU's order: busy source, different disk sizes, busy target. */
bool bmp_bitmap_merge(BmpBitmap *target, BmpBitmap *source, GError **error);

/* Freezes it for a job: until it is thawed it is busy, and all who ask see what it was at this
 * instant. What is marked meanwhile is kept apart; what is stored is both together. @to_change: it
 * is not to be thawed as a whole. Errors: as bmp_bitmap_check_usable(); its store is read-only. */
bool bmp_bitmap_freeze(BmpBitmap *bitmap, bool to_change, GError **error);
/* @whole: what it was and what was marked since; else only that: the rest has been dealt with. */
void bmp_bitmap_thaw(BmpBitmap *bitmap, bool whole);
/* A range is dirty. */
void bmp_bitmap_add(BmpBitmap *bitmap, uint64_t offset, uint64_t length);

/* ---- one bitmap ----------------------------------------------------------------------------- */

BmpBitmap *bmp_bitmap_ref(BmpBitmap *bitmap);
void bmp_bitmap_unref(BmpBitmap *bitmap); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(BmpBitmap, bmp_bitmap_unref)

const char *bmp_bitmap_name(const BmpBitmap *bitmap); /* borrowed */
uint64_t bmp_bitmap_granularity(const BmpBitmap *bitmap);
bool bmp_bitmap_enabled(const BmpBitmap *bitmap);
bool bmp_bitmap_persistent(const BmpBitmap *bitmap);
/* It can't be used, only removed. */
bool bmp_bitmap_inconsistent(const BmpBitmap *bitmap);
/* Why it is inconsistent or says more than was written; NULL if neither. Returned (g_free). Cleared
 * with the bitmap. Any thread. */
char *bmp_bitmap_reason(BmpBitmap *bitmap);
/* Bytes that are dirty only because a recovery could not know better, since it was cleared last. */
uint64_t bmp_bitmap_recovered(BmpBitmap *bitmap);
/* Seconds since it was created or last cleared. false: that was before this process had it, and no
 * store has the time. Any thread. */
bool bmp_bitmap_age(BmpBitmap *bitmap, uint64_t *seconds);

/* Busy: in use by an export or a job; counted. A busy bitmap refuses changes. Any thread. */
void bmp_bitmap_busy_begin(BmpBitmap *bitmap);
void bmp_bitmap_busy_end(BmpBitmap *bitmap);
bool bmp_bitmap_busy(const BmpBitmap *bitmap);
/* false with QEMU's message if the bitmap is busy: "Bitmap 'X' is currently in use by another
 * operation and cannot be used". */
bool bmp_bitmap_check_usable(const BmpBitmap *bitmap, GError **error);
bool bmp_bitmap_check_consistent(const BmpBitmap *bitmap, GError **error); /* whether busy or not */

/* Dirty bytes as QEMU counts them: dirty granules times the granularity, so that a dirty last
 * granule counts whole even where the disk ends inside it. Folds what is pending; within a change,
 * as of the change's beginning (and so do the two below). */
uint64_t bmp_bitmap_count(BmpBitmap *bitmap);

/* Fills @out with TM_STATE_DIRTY / 0 runs of [offset, offset + length); beyond the disk's end all
 * is clean; stops early when @out is full. Runs at the end are cut at the range's end. Returns the
 * bytes described. Folds what is pending first. */
uint64_t bmp_bitmap_extents(BmpBitmap *bitmap, uint64_t offset, uint64_t length, TmExtents *out);
/* The same as the places at which it changes, in order: the first @max (> 0) of them. Returns how
 * many; *dirty: what it is from @offset on; *described: bytes, up to the last place described if
 * there are more. */
size_t bmp_bitmap_edges(BmpBitmap *bitmap, uint64_t offset, uint64_t length, uint64_t *edges,
                        size_t max, bool *dirty, uint64_t *described);

/* The hex SHA-256 that QEMU's x-debug-block-dirty-bitmap-sha256 gives for the same content: over
 * hbitmap's lowest level as it is in memory on a little-endian 64-bit host. Returned (g_free). */
char *bmp_bitmap_sha256(BmpBitmap *bitmap);

/* Bytes of memory that the set and its bitmaps hold, shared pages counted once. For benchmarks and
 * the tests of I3. */
size_t bmp_set_memory(BmpSet *set);
