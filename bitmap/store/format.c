/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* bitmap/store/format.c: encoding and checking the fixed parts of a store; see the header.
 *
 * The superblock's fields are one table, so that encoder, decoder and the written format can't
 * disagree about an offset. */
#include "bitmap/store/format.h"

#include "bitmap/bitmap.h"
#include "bitmap/store/intents.h"
#include "util/endian.h"
#include "util/range.h"
#include "util/zeroes.h"

#include <string.h>
#include <xxhash.h>

#define CHECKSUM_AT (BMP_SUPER_SIZE - 8)

typedef struct Field {
    uint16_t at, size; /* in the superblock */
    uint16_t member;   /* in BmpSuper */
    bool bytes;        /* copied as it is; else a little-endian number of that size */
} Field;

#define NUMBER(at, size, member)                                                                   \
    {                                                                                              \
        at, size, offsetof(BmpSuper, member), false                                                \
    }
#define BYTES(at, size, member)                                                                    \
    {                                                                                              \
        at, size, offsetof(BmpSuper, member), true                                                 \
    }

/* 0 magic, 8 version (32 bits), 12 size of the superblock (32 bits), 504 checksum */
static const Field fields[] = {
    BYTES(16, 16, uuid),
    NUMBER(32, 8, generation),
    NUMBER(40, 8, disk_size),
    NUMBER(48, 1, state),
    NUMBER(49, 1, durability),
    NUMBER(50, 1, journal_shift),
    NUMBER(51, 1, region_shift),
    NUMBER(52, 1, group_pending),
    NUMBER(53, 1, disk_kind),
    NUMBER(54, 1, disk_marked),
    NUMBER(55, 1, forgotten),
    NUMBER(56, 8, journal_epoch),
    NUMBER(64, 8, journal_offset),
    NUMBER(72, 8, journal_length),
    NUMBER(80, 8, catalogue_offset),
    NUMBER(88, 8, catalogue_length),
    NUMBER(96, 8, disk_mtime_sec),
    NUMBER(104, 4, disk_mtime_nsec),
    NUMBER(112, 8, disk_dev),
    NUMBER(120, 8, disk_ino),
    BYTES(128, 16, boot_id),
    NUMBER(144, 8, store_dev),
    NUMBER(152, 8, store_ino),
    BYTES(160, 16, group),
    BYTES(176, BMP_LAYER_MAX + 1, layer),
    NUMBER(208, 8, disk_birth_sec),
    NUMBER(216, 4, disk_birth_nsec),
    NUMBER(224, 8, disk_serial),
    NUMBER(232, 8, disk_instance),
    NUMBER(240, 8, disk_written),
    BYTES(248, 16, leader),
    BYTES(264, BMP_GROUPS_MAX * 16, decided),
    NUMBER(488, 1, disk_lossy),
};

uint64_t bmp_checksum(const void *data, size_t length, uint64_t seed)
{
    return XXH64(data, length, seed);
}

/* ---- superblocks */

static void field_put(uint8_t *to, const void *member, const Field *f)
{
    if (f->bytes)
        memcpy(to, member, f->size);
    else if (f->size == 1)
        *to = *(const uint8_t *)member;
    else if (f->size == 4)
        tm_put_le32(to, *(const uint32_t *)member);
    else
        tm_put_le64(to, *(const uint64_t *)member);
}

static void field_get(void *member, const uint8_t *from, const Field *f)
{
    if (f->bytes)
        memcpy(member, from, f->size);
    else if (f->size == 1)
        *(uint8_t *)member = *from;
    else if (f->size == 4)
        *(uint32_t *)member = tm_get_le32(from);
    else
        *(uint64_t *)member = tm_get_le64(from);
}

void bmp_super_encode(const BmpSuper *super, uint8_t bytes[BMP_SUPER_SIZE])
{
    memset(bytes, 0, BMP_SUPER_SIZE);
    memcpy(bytes, BMP_STORE_MAGIC, 8);
    tm_put_le32(bytes + 8, BMP_STORE_VERSION);
    tm_put_le32(bytes + 12, BMP_SUPER_SIZE);
    for (size_t i = 0; i < G_N_ELEMENTS(fields); i++)
        field_put(bytes + fields[i].at, (const char *)super + fields[i].member, &fields[i]);
    tm_put_le64(bytes + CHECKSUM_AT, bmp_checksum(bytes, CHECKSUM_AT, 0));
}

static bool extent_valid(uint64_t offset, uint64_t length)
{
    return !(offset % BMP_STORE_ALIGN) && offset >= BMP_SUPER_COPIES * BMP_STORE_ALIGN &&
           offset <= TM_SIZE_MAX && length <= TM_SIZE_MAX - offset;
}

static bool extents_valid(const BmpSuper *s)
{
    bool journal = s->journal_shift != 0;

    if (!extent_valid(s->catalogue_offset, s->catalogue_length) || !s->catalogue_length)
        return false;
    if (!journal)
        return !s->journal_offset && !s->journal_length && !s->region_shift;
    return extent_valid(s->journal_offset, s->journal_length) &&
           (s->journal_offset + s->journal_length <= s->catalogue_offset ||
            s->catalogue_offset + s->catalogue_length <= s->journal_offset);
}

static bool super_valid(const BmpSuper *s)
{
    BmpGeometry geometry;

    return s->generation && s->disk_size <= TM_SIZE_MAX && s->state >= BMP_STORE_CLOSED &&
           s->state <= BMP_STORE_DISTRUSTED && s->durability >= BMP_DURABLE_POWER &&
           s->durability <= BMP_DURABLE_PROCESS && s->group_pending <= 1 &&
           s->journal_epoch <= BMP_EPOCH_MAX && s->disk_mtime_nsec < 1000000000 &&
           s->disk_kind <= BMP_DISK_DEVICE && s->disk_marked <= 1 && s->disk_lossy <= 1 &&
           s->forgotten <= 1 && s->disk_birth_nsec < 1000000000 &&
           memchr(s->layer, 0, sizeof(s->layer)) && extents_valid(s) &&
           (!s->journal_shift || (s->journal_epoch && bmp_geometry_of(&geometry, s)));
}

BmpSuperVerdict bmp_super_decode(const uint8_t bytes[BMP_SUPER_SIZE], BmpSuper *super,
                                 uint32_t *version)
{
    uint32_t found = tm_get_le32(bytes + 8);
    BmpSuper s = { 0 };

    if (tm_all_zero(bytes, BMP_SUPER_SIZE))
        return BMP_SUPER_EMPTY;
    if (memcmp(bytes, BMP_STORE_MAGIC, 8))
        return BMP_SUPER_FOREIGN;
    if (tm_get_le64(bytes + CHECKSUM_AT) != bmp_checksum(bytes, CHECKSUM_AT, 0))
        return BMP_SUPER_DAMAGED;
    if (found != BMP_STORE_VERSION) {
        *version = found;
        return BMP_SUPER_VERSION;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(fields); i++)
        field_get((char *)&s + fields[i].member, bytes + fields[i].at, &fields[i]);
    if (tm_get_le32(bytes + 12) != BMP_SUPER_SIZE || !super_valid(&s))
        return BMP_SUPER_DAMAGED;
    *super = s;
    return BMP_SUPER_OK;
}

/* ---- geometry */

static uint64_t round_up(uint64_t n, uint64_t to)
{
    return (n + to - 1) / to * to;
}

static void geometry_fill(BmpGeometry *g, uint64_t size, unsigned journal_shift,
                          unsigned region_shift)
{
    uint64_t granules = UINT64_C(1) << (region_shift - journal_shift);

    *g =
        (BmpGeometry){ .size = size, .journal_shift = journal_shift, .region_shift = region_shift };
    g->regions = size ? ((size - 1) >> region_shift) + 1 : 0;
    g->block = (granules + BMP_WORD_GRANULES - 1) / BMP_WORD_GRANULES * 8;
    g->table_offset = BMP_INTENTS_SIZE;
    g->words_offset = round_up(g->table_offset + (uint64_t)g->regions * 8, BMP_STORE_ALIGN);
    g->length = g->words_offset + round_up(g->regions * g->block, BMP_STORE_ALIGN);
}

void bmp_geometry_choose(BmpGeometry *g, uint64_t size, unsigned journal_shift,
                         unsigned region_shift_min)
{
    unsigned shift = MAX(journal_shift, region_shift_min);

    while (size && ((size - 1) >> shift) >= BMP_REGIONS_MAX)
        shift++;
    geometry_fill(g, size, journal_shift, shift);
}

/* Larger than they need be: who reads the words of one would have no end. */
static bool regions_too_large(const BmpSuper *super)
{
    return super->region_shift > MAX(super->journal_shift, BMP_REGION_SHIFT_MIN) &&
           (!super->disk_size ||
            ((super->disk_size - 1) >> (super->region_shift - 1)) < BMP_REGIONS_MAX);
}

bool bmp_geometry_of(BmpGeometry *g, const BmpSuper *super)
{
    if (super->journal_shift < 9 || super->journal_shift > 31 ||
        super->region_shift < super->journal_shift || super->region_shift > 62 ||
        regions_too_large(super) ||
        (super->disk_size && ((super->disk_size - 1) >> super->region_shift) >= BMP_REGIONS_MAX))
        return false;
    geometry_fill(g, super->disk_size, super->journal_shift, super->region_shift);
    return super->journal_length >= g->length;
}

/* ---- entries */

#define ENTRY_BITS 40

static uint64_t entry_check(uint64_t seed, uint32_t index, uint64_t low)
{
    uint8_t bytes[12];

    tm_put_le64(bytes, low);
    tm_put_le32(bytes + 8, index);
    /* Never 0: a new entry would be zero, which is not valid. */
    return MAX(bmp_checksum(bytes, sizeof(bytes), seed) >> ENTRY_BITS, 1);
}

uint64_t bmp_entry_make(uint64_t seed, uint32_t index, uint64_t epoch, BmpRegionState state)
{
    uint64_t low = epoch | (uint64_t)state << 38;

    return low | entry_check(seed, index, low) << ENTRY_BITS;
}

bool bmp_entry_read(uint64_t seed, uint32_t index, uint64_t entry, uint64_t *epoch,
                    BmpRegionState *state)
{
    uint64_t low = entry & ((UINT64_C(1) << ENTRY_BITS) - 1);

    if (!entry || entry >> ENTRY_BITS != entry_check(seed, index, low))
        return false;
    *epoch = low & BMP_EPOCH_MAX;
    *state = (BmpRegionState)(low >> 38);
    return true;
}

uint64_t bmp_entry_seed(const uint8_t uuid[16])
{
    return bmp_checksum(uuid, 16, 0);
}
