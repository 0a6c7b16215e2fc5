/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* bitmap/copy.h: what is dirty in a bitmap at one instant, on its own: to be sent elsewhere as
 * text, and to become part of another bitmap there.
 *
 * The text is that of docs/bitmap-file.md: numbers of granules that are clean and dirty in turn,
 * beginning with clean ones, with a space between them. A text that is continued begins with clean
 * ones again, possibly 0.
 *
 * Threads: one at a time per copy. */
#pragma once
#include "bitmap/bitmap.h"
#include "bitmap/bits.h"

typedef struct BmpCopy {
    uint64_t size; /* bytes of the disk */
    BmpBits bits;
} BmpCopy;

/* The bitmap as it is now, also if a job has frozen it; returned. Any thread. */
BmpCopy *bmp_copy_of(BmpBitmap *bitmap);
/* A clean one, of a disk of @size bytes; returned. Errors: the granularity is none that a bitmap
 * can have; the disk has more granules than there can be. */
BmpCopy *bmp_copy_new(uint64_t size, uint64_t granularity, GError **error);
void bmp_copy_free(BmpCopy *copy); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(BmpCopy, bmp_copy_free)

/* Bytes of a granule, and bytes that are dirty, as bmp_bitmap_count(). */
uint64_t bmp_copy_granularity(const BmpCopy *copy);
uint64_t bmp_copy_count(const BmpCopy *copy);

#define BMP_COPY_RUNS 32768u /* in one text: half a megabyte at most */

/* Appends the next @max dirty runs (or fewer) from the granule *@at on, and moves it to where they
 * end. false: these were the last. */
bool bmp_copy_print(const BmpCopy *copy, uint64_t *at, size_t max, GString *text);
/* Adds what @text says from the granule *@at on, and moves it. Errors: it is no such text; it goes
 * beyond the end of the disk. Then *@at is where it was, and part of it may have been added. */
bool bmp_copy_parse(BmpCopy *copy, uint64_t *at, const char *text, GError **error);

/* Whether a copy of a disk of @size bytes fits the disk of the set. Main thread. */
bool bmp_set_check_copy(const BmpSet *set, uint64_t size, GError **error);
/* Within a change: adds what is dirty to a bitmap of any granularity. Errors: the disks have
 * different sizes; bmp_bitmap_check_usable(); its store is read-only. */
bool bmp_bitmap_add_copy(BmpBitmap *bitmap, const BmpCopy *copy, GError **error);
