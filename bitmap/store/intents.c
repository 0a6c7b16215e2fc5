/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* bitmap/store/intents.c: lists of intents as bytes; see the header.
 *
 * Which list is in force: of those of the epoch the one with the highest number that any sector
 * shows, if all its sectors are there; else it was being written, nobody has relied on it, and the
 * one before it is. Anything else is damage. */
#include "bitmap/store/intents.h"

#include "bitmap/store/format.h"
#include "util/endian.h"

#include <string.h>

#define MAGIC       "TMINTENT"
#define CHECKSUM_AT (BMP_INTENTS_SECTOR - 8)
#define RECORDS_AT  32u
#define RECORD_SIZE 16u

/* 0 magic, 8 number, 16 epoch, 24 index (16 bits), 26 sectors of the list (16), 28 records here
 * (16) */
static void sector_put(uint8_t *at, uint64_t seed, uint64_t epoch, uint64_t number, unsigned index,
                       unsigned sectors, const BmpIntent *intents, unsigned n)
{
    memset(at, 0, BMP_INTENTS_SECTOR);
    memcpy(at, MAGIC, 8);
    tm_put_le64(at + 8, number);
    tm_put_le64(at + 16, epoch);
    at[24] = (uint8_t)index;
    at[26] = (uint8_t)sectors;
    at[28] = (uint8_t)n;
    for (unsigned i = 0; i < n; i++) {
        tm_put_le64(at + RECORDS_AT + i * RECORD_SIZE, intents[i].first);
        tm_put_le64(at + RECORDS_AT + i * RECORD_SIZE + 8, intents[i].end);
    }
    tm_put_le64(at + CHECKSUM_AT, bmp_checksum(at, CHECKSUM_AT, seed));
}

void bmp_intents_init(uint8_t bytes[BMP_INTENTS_SIZE], uint64_t seed)
{
    for (unsigned i = 0; i < 2 * BMP_INTENTS_SECTORS; i++)
        sector_put(bytes + i * BMP_INTENTS_SECTOR, seed, 0, 0, i % BMP_INTENTS_SECTORS, 1, NULL, 0);
}

size_t bmp_intents_encode(uint8_t bytes[BMP_INTENTS_LIST], uint64_t seed, uint64_t epoch,
                          uint64_t number, const BmpIntent *intents, size_t n)
{
    unsigned sectors = MAX((unsigned)(n + BMP_INTENTS_EACH - 1) / BMP_INTENTS_EACH, 1);

    for (unsigned i = 0; i < sectors; i++) {
        size_t from = i * BMP_INTENTS_EACH;

        sector_put(bytes + i * BMP_INTENTS_SECTOR, seed, epoch, number, i, sectors, intents + from,
                   (unsigned)MIN(n - from, BMP_INTENTS_EACH));
    }
    return sectors * BMP_INTENTS_SECTOR;
}

typedef struct Sector {
    const uint8_t *at;
    uint64_t number, epoch;
    unsigned sectors, n;
} Sector;

static bool sector_get(const uint8_t *at, uint64_t seed, unsigned index, Sector *s)
{
    *s = (Sector){ .at = at,
                   .number = tm_get_le64(at + 8),
                   .epoch = tm_get_le64(at + 16),
                   .sectors = at[26],
                   .n = at[28] };
    return !memcmp(at, MAGIC, 8) &&
           tm_get_le64(at + CHECKSUM_AT) == bmp_checksum(at, CHECKSUM_AT, seed) &&
           at[24] == index && s->sectors >= 1 && s->sectors <= BMP_INTENTS_SECTORS &&
           s->n <= BMP_INTENTS_EACH;
}

/* Whether list @number of the epoch is there as a whole; only then anything is appended. */
static bool read_list(const Sector *place, uint64_t epoch, uint64_t number, GArray *intents)
{
    for (unsigned i = 0; i < place->sectors; i++) {
        if (place[i].number != number || place[i].epoch != epoch ||
            place[i].sectors != place->sectors)
            return false;
    }
    for (unsigned i = 0; i < place->sectors; i++) {
        for (unsigned k = 0; k < place[i].n; k++) {
            const uint8_t *record = place[i].at + RECORDS_AT + k * RECORD_SIZE;
            BmpIntent intent = { tm_get_le64(record), tm_get_le64(record + 8) };

            g_array_append_val(intents, intent);
        }
    }
    return true;
}

bool bmp_intents_decode(const uint8_t bytes[BMP_INTENTS_SIZE], uint64_t seed, uint64_t epoch,
                        GArray *intents)
{
    Sector sectors[2][BMP_INTENTS_SECTORS];
    uint64_t last = 0;

    for (unsigned i = 0; i < 2 * BMP_INTENTS_SECTORS; i++) {
        unsigned index = i % BMP_INTENTS_SECTORS;
        Sector *s = &sectors[i / BMP_INTENTS_SECTORS][index];

        if (!sector_get(bytes + i * BMP_INTENTS_SECTOR, seed, index, s) || s->epoch > epoch)
            return false;
        if (s->epoch == epoch)
            last = MAX(last, s->number);
    }
    return !last || read_list(sectors[last % 2], epoch, last, intents) || last == 1 ||
           read_list(sectors[(last - 1) % 2], epoch, last - 1, intents);
}
