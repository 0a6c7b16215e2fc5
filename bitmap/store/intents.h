/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* bitmap/store/intents.h: the two lists of intents in a journal (inside bitmap/ only);
 * docs/bitmap-store.md is the written format.
 *
 * An intent is a range of granules in which marks may be newer than the words on the medium. All
 * that are in force are in one list. Lists are written by turns to two places, each after the one
 * before was synced: one of the two is whole at any time. A list takes as many sectors as it needs,
 * and each sector proves itself, so that a list that was cut short (a mixture of sectors of two
 * lists) is distinguished from a damaged one.
 *
 * Pure functions, no I/O. Threads: any. */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#define BMP_INTENTS_SECTOR  512u
#define BMP_INTENTS_SECTORS 16u /* a list */
#define BMP_INTENTS_LIST    (BMP_INTENTS_SECTORS * BMP_INTENTS_SECTOR)
#define BMP_INTENTS_SIZE    (2 * BMP_INTENTS_LIST) /* both; a multiple of 4096 */
#define BMP_INTENTS_EACH    29u                    /* a sector */
#define BMP_INTENTS_MAX     (BMP_INTENTS_SECTORS * BMP_INTENTS_EACH)

typedef struct BmpIntent {
    uint64_t first, end; /* granules of the journal */
} BmpIntent;

/* Both places without a list of any epoch. */
void bmp_intents_init(uint8_t bytes[BMP_INTENTS_SIZE], uint64_t seed);
/* Encodes list @number (from 1 in each epoch) of @n <= BMP_INTENTS_MAX; its place is @number % 2.
 * Returns its bytes, whole sectors. */
size_t bmp_intents_encode(uint8_t bytes[BMP_INTENTS_LIST], uint64_t seed, uint64_t epoch,
                          uint64_t number, const BmpIntent *intents, size_t n);

/* What both places say of an epoch: appends BmpIntent. false: they can't be believed, and any
 * granule may be in an intent. */
bool bmp_intents_decode(const uint8_t bytes[BMP_INTENTS_SIZE], uint64_t seed, uint64_t epoch,
                        GArray *intents);
