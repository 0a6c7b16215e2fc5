/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/fuzz/store_seal.c: checks of docs/bitmap-store.md, computed anew. */
#include "tests/fuzz/fuzz_store.h"

#include "bitmap/store/format.h"
#include "util/endian.h"

#include <string.h>

static const char magic[] = BMP_STORE_MAGIC;

static uint8_t *super_bytes(const GByteArray *file, unsigned copy)
{
    uint64_t at = copy * BMP_STORE_ALIGN;

    return at + BMP_SUPER_SIZE <= file->len ? file->data + at : NULL;
}

static bool super_read(const GByteArray *file, unsigned copy, BmpSuper *super)
{
    const uint8_t *bytes = super_bytes(file, copy);
    uint32_t version;

    return bytes && bmp_super_decode(bytes, super, &version) == BMP_SUPER_OK;
}

/* The copy that counts. */
static bool super_best(const GByteArray *file, BmpSuper *super)
{
    BmpSuper other;
    bool first = super_read(file, 0, super);

    if (super_read(file, 1, &other) && (!first || other.generation > super->generation)) {
        *super = other;
        return true;
    }
    return first;
}

uint64_t seal_disk_size(const GByteArray *file, uint64_t otherwise)
{
    BmpSuper super;

    return super_best(file, &super) ? super.disk_size : otherwise;
}

static void seal_super(GByteArray *file, unsigned copy)
{
    uint8_t *bytes = super_bytes(file, copy);

    if (!bytes)
        return;
    memcpy(bytes, magic, 8);
    tm_put_le64(bytes + BMP_SUPER_SIZE - 8, bmp_checksum(bytes, BMP_SUPER_SIZE - 8, 0));
}

/* By number, so that it may also be what a decoder would refuse. */
void seal_super_field(GByteArray *file, unsigned copy, unsigned field, uint64_t value)
{
    static const uint8_t at[] = { 16, 32,  40,  48,  56,  64,  72,  80,  88,
                                  96, 104, 112, 120, 144, 152, 160, 176, 8 };
    uint8_t *bytes = super_bytes(file, copy);

    if (!bytes)
        return;
    field %= G_N_ELEMENTS(at) + 5;
    if (field < G_N_ELEMENTS(at))
        tm_put_le64(bytes + at[field], value);
    else
        bytes[48 + field - G_N_ELEMENTS(at)] =
            (uint8_t)value; /* state, durability, shifts, pending */
    seal_super(file, copy);
}

static uint8_t *map_at(const GByteArray *file, const BmpSuper *super, uint64_t offset)
{
    uint64_t at = super->journal_offset + offset;

    return at <= file->len && file->len - at >= 8 ? file->data + at : NULL;
}

void seal_entry(GByteArray *file, uint32_t index, uint64_t value, unsigned state)
{
    BmpGeometry g;
    BmpSuper super;
    uint64_t epoch;
    uint8_t *at;

    if (!super_best(file, &super) || !bmp_geometry_of(&g, &super) || !g.regions)
        return;
    index %= g.regions;
    epoch = (super.journal_epoch + (int8_t)value) & BMP_EPOCH_MAX;
    at = map_at(file, &super, g.table_offset + index * 8);
    if (at)
        tm_put_le64(at, bmp_entry_make(bmp_entry_seed(super.uuid), index, epoch, state & 3));
}

void seal_word(GByteArray *file, uint32_t index, uint32_t bits)
{
    BmpGeometry g;
    BmpSuper super;
    uint8_t *at;

    if (!super_best(file, &super) || !bmp_geometry_of(&g, &super) || !g.regions)
        return;
    at = map_at(file, &super, g.words_offset + index % (g.regions * g.block / 8) * 8);
    if (at)
        tm_put_le64(at, bmp_word_set(BMP_WORD_CLEAN, bits));
}

/* ---- the catalogue: index, directory, pages, index, trailer */

#define INDEX_LENGTH_AT 16
#define INDEX_PAGES_AT  32
#define ENTRY_SIZE      32u
#define TRAILER_SIZE    24u

static uint8_t *catalogue(const GByteArray *file, uint64_t *length)
{
    BmpSuper super;

    if (!super_best(file, &super) || super.catalogue_offset >= file->len)
        return NULL;
    *length = MIN(super.catalogue_length, file->len - super.catalogue_offset);
    return *length > 2 * TRAILER_SIZE ? file->data + super.catalogue_offset : NULL;
}

static void seal_index(uint8_t *index, uint64_t room)
{
    uint64_t length = room > 64 ? tm_get_le64(index + INDEX_LENGTH_AT) : 0;

    if (length >= 64 && length <= room)
        tm_put_le64(index + length - 8, bmp_checksum(index, length - 8, 0));
}

static void seal_page(uint8_t *entry, const uint8_t *pages, uint64_t room, uint64_t ordinal)
{
    uint64_t offset = tm_get_le64(entry), length = tm_get_le32(entry + 8);

    if (offset <= room && length <= room - offset)
        tm_put_le64(entry + 16, bmp_checksum(pages + offset, length, ordinal));
    tm_put_le64(entry + 24, bmp_checksum(entry, 24, ordinal));
}

static void seal_catalogue(GByteArray *file)
{
    uint64_t length, index_length, pages, room;
    uint8_t *data = catalogue(file, &length), *trailer;

    if (!data)
        return;
    index_length = tm_get_le64(data + INDEX_LENGTH_AT);
    if (index_length < length) {
        room = length - index_length;
        pages = MIN(tm_get_le64(data + INDEX_PAGES_AT), room / ENTRY_SIZE);
        for (uint64_t i = 0; i < pages; i++)
            seal_page(data + index_length + i * ENTRY_SIZE,
                      data + index_length + pages * ENTRY_SIZE, room - pages * ENTRY_SIZE, i);
    }
    seal_index(data, length);
    trailer = data + length - TRAILER_SIZE;
    tm_put_le64(trailer + 16, bmp_checksum(trailer, 16, 0));
    index_length = tm_get_le64(trailer + 8);
    if (index_length <= length - TRAILER_SIZE)
        seal_index(trailer - index_length, index_length);
}

void seal_catalogue_byte(GByteArray *file, uint32_t offset, uint8_t with)
{
    uint64_t length;
    uint8_t *data = catalogue(file, &length);

    if (!data)
        return;
    data[offset % length] ^= with ? with : 1;
    seal_catalogue(file);
}

void seal_all(GByteArray *file)
{
    for (unsigned copy = 0; copy < BMP_SUPER_COPIES; copy++)
        seal_super(file, copy);
    seal_catalogue(file);
}
