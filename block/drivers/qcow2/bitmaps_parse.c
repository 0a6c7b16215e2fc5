/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/qcow2/bitmaps_parse.c: the directory of the bitmaps extension as bytes, and back;
 * what can be in tables. */
#include "block/drivers/qcow2/bitmaps.h"
#include "util/endian.h"
#include "util/error.h"
#include "util/range.h"
#include "util/text.h"

#include <inttypes.h>
#include <string.h>

#define GRANULARITY_BITS_MIN 9u
#define GRANULARITY_BITS_MAX 31u
#define TYPE_DIRTY           1u
#define NAME_OF_BYTES_MAX    1000u /* of a name made for one that is no text */
#define TABLE_RESERVED       UINT64_C(0xff000000000001fe)

static void bitmap_clear(void *data)
{
    Qcow2Bitmap *b = data;

    g_free(b->name);
    g_free(b->bytes);
    g_free(b->extra);
}

GArray *qcow2_bitmaps_new(void)
{
    GArray *bitmaps = g_array_new(FALSE, TRUE, sizeof(Qcow2Bitmap));

    g_array_set_clear_func(bitmaps, bitmap_clear);
    return bitmaps;
}

uint64_t qcow2_bitmap_entry_bytes(uint64_t name, uint64_t extra)
{
    return tm_align_up(QCOW2_BITMAP_ENTRY + extra + name, 8);
}

uint64_t qcow2_bitmap_table_size(uint64_t size, unsigned granularity_bits, uint64_t cluster)
{
    uint64_t granules =
        (size >> granularity_bits) + !!(size & ((UINT64_C(1) << granularity_bits) - 1));
    uint64_t bytes = granules / 8 + !!(granules % 8);

    return bytes / cluster + !!(bytes % cluster);
}

bool qcow2_bitmap_entry(uint64_t entry, uint64_t cluster, uint64_t file_size, uint64_t *offset)
{
    *offset = entry & QCOW2_OFFSET_MASK;
    if (entry & TABLE_RESERVED)
        return false;
    return !*offset ||
           (!(entry & QCOW2_BITMAP_ALL_ONES) && !(*offset & (cluster - 1)) && *offset < file_size);
}

bool qcow2_bitmaps_check(const Qcow2Header *h, uint64_t file_size, GError **error)
{
    if (!h->n_bitmaps || h->n_bitmaps > QCOW2_BITMAPS_MAX)
        return tm_error_set(error, "bitmaps extension: %u bitmaps, expected 1 to %u", h->n_bitmaps,
                            QCOW2_BITMAPS_MAX);
    if (!h->bitmaps_size || h->bitmaps_size > QCOW2_BITMAP_DIRECTORY_MAX)
        return tm_error_set(
            error, "bitmaps extension: a directory of %" PRIu64 " bytes, expected 1 to %" PRIu64,
            h->bitmaps_size, QCOW2_BITMAP_DIRECTORY_MAX);
    if (!h->bitmaps_offset || h->bitmaps_offset & ((UINT64_C(1) << h->cluster_bits) - 1) ||
        !tm_range_within(h->bitmaps_offset, h->bitmaps_size, file_size))
        return tm_error_set(error,
                            "bitmaps extension: the directory is at %" PRIu64
                            ", expected the start of a cluster within the file",
                            h->bitmaps_offset);
    return true;
}

/* ---- entries */

static bool wrong(const Qcow2Bitmap *b, GError **error, const char *field, uint64_t value,
                  const char *expected)
{
    return tm_error_set(error, "bitmap '%s': %s is %" PRIu64 ", expected %s", b->name, field, value,
                        expected);
}

/* What a bitmap in use does not have to be: it may have been of another size of the disk. */
static bool check_size(const Qcow2Header *h, const Qcow2Bitmap *b, GError **error)
{
    uint64_t cluster = UINT64_C(1) << h->cluster_bits;
    uint64_t wanted = qcow2_bitmap_table_size(h->size, b->granularity_bits, cluster);

    if (b->flags & QCOW2_BITMAP_IN_USE || b->table_size >= wanted)
        return true;
    return tm_error_set(error,
                        "bitmap '%s': its table has %u entries, but a disk of %" PRIu64
                        " bytes needs %" PRIu64,
                        b->name, b->table_size, h->size, wanted);
}

static bool check_entry(const Qcow2Header *h, uint64_t file_size, const Qcow2Bitmap *b,
                        unsigned type, GError **error)
{
    uint64_t cluster = UINT64_C(1) << h->cluster_bits;

    if (type != TYPE_DIRTY)
        return wrong(b, error, "type", type, "1 (dirty tracking)");
    if (b->granularity_bits < GRANULARITY_BITS_MIN || b->granularity_bits > GRANULARITY_BITS_MAX)
        return wrong(b, error, "granularity_bits", b->granularity_bits, "9 to 31");
    if (b->flags & ~(QCOW2_BITMAP_IN_USE | QCOW2_BITMAP_AUTO | QCOW2_BITMAP_EXTRA_COMPATIBLE))
        return wrong(b, error, "flags", b->flags, "0 to 7");
    if (b->extra_size && !(b->flags & QCOW2_BITMAP_EXTRA_COMPATIBLE))
        return wrong(b, error, "extra_data_size", b->extra_size,
                     "0: extra data that must be understood is not supported");
    if (!b->table_size || b->table_size > QCOW2_BITMAP_BYTES_MAX / cluster)
        return wrong(b, error, "bitmap_table_size", b->table_size,
                     "1 or more, and a bitmap of at most 512 MiB");
    if (!b->table_offset || b->table_offset & (cluster - 1) ||
        !tm_range_within(b->table_offset, (uint64_t)b->table_size * 8, file_size))
        return wrong(b, error, "bitmap_table_offset", b->table_offset,
                     "the start of a cluster, and a table within the file");
    return check_size(h, b, error);
}

/* What is no text has a name that is, and stays in the image as it is. */
static void read_name(Qcow2Bitmap *b, const uint8_t *bytes, uint64_t length)
{
    b->name = tm_text_of((const char *)bytes, length);
    if (tm_is_text((const char *)bytes, length))
        return;
    b->bytes = g_memdup2(bytes, length);
    b->n_bytes = (uint32_t)length;
    if (strlen(b->name) > NAME_OF_BYTES_MAX)
        b->name[NAME_OF_BYTES_MAX] = 0;
    for (char *end = b->name + strlen(b->name); !g_utf8_validate(b->name, -1, NULL);)
        *--end = 0;
}

/* The name, and where the entry ends; what is in between is taken as it is. */
static bool read_entry(const uint8_t *bytes, uint64_t size, uint64_t *at, Qcow2Bitmap *b,
                       GError **error)
{
    const uint8_t *e = bytes + *at;
    uint64_t left = size - *at, name, length;

    if (left < QCOW2_BITMAP_ENTRY)
        return tm_error_set(error,
                            "bitmap directory: %" PRIu64 " bytes are left for the entry at %" PRIu64
                            ", expected at least %u",
                            left, *at, QCOW2_BITMAP_ENTRY);
    name = tm_get_be16(e + 18);
    b->extra_size = tm_get_be32(e + 20);
    length = qcow2_bitmap_entry_bytes(name, b->extra_size);
    if (length > left)
        return tm_error_set(error,
                            "bitmap directory: the entry at %" PRIu64 " has %" PRIu64
                            " bytes, expected at most %" PRIu64,
                            *at, length, left);
    if (!name || name > QCOW2_BITMAP_NAME_MAX)
        return tm_error_set(error,
                            "bitmap directory: the entry at %" PRIu64 " has a name of %" PRIu64
                            " bytes, expected 1 to %u",
                            *at, name, QCOW2_BITMAP_NAME_MAX);
    read_name(b, e + QCOW2_BITMAP_ENTRY + b->extra_size, name);
    b->at = *at;
    b->table_offset = tm_get_be64(e);
    b->table_size = tm_get_be32(e + 8);
    b->flags = tm_get_be32(e + 12);
    b->granularity_bits = e[17];
    b->extra = g_memdup2(e + QCOW2_BITMAP_ENTRY, b->extra_size);
    *at += length;
    return true;
}

GArray *qcow2_bitmaps_parse(const Qcow2Header *h, uint64_t file_size, const uint8_t *bytes,
                            GError **error)
{
    g_autoptr(GArray) bitmaps = qcow2_bitmaps_new();
    g_autoptr(GHashTable) names = g_hash_table_new(g_str_hash, g_str_equal);
    uint64_t at = 0;

    for (uint32_t i = 0; i < h->n_bitmaps; i++) {
        unsigned type = at + 16 < h->bitmaps_size ? bytes[at + 16] : 0;
        Qcow2Bitmap b = { 0 };
        bool ok = read_entry(bytes, h->bitmaps_size, &at, &b, error) &&
                  check_entry(h, file_size, &b, type, error);

        g_array_append_val(bitmaps, b);
        if (ok && !g_hash_table_add(names, b.name))
            ok = tm_error_set(error, "bitmap directory: two bitmaps have the name '%s'", b.name);
        if (!ok)
            return NULL;
    }
    if (at != h->bitmaps_size) {
        tm_error_set(error,
                     "bitmap directory: its %u entries have %" PRIu64 " bytes, expected %" PRIu64,
                     h->n_bitmaps, at, h->bitmaps_size);
        return NULL;
    }
    return g_steal_pointer(&bitmaps);
}

static size_t name_length(const Qcow2Bitmap *b)
{
    return b->bytes ? b->n_bytes : strlen(b->name);
}

uint8_t *qcow2_bitmaps_build(const GArray *bitmaps, uint64_t *size)
{
    uint64_t bytes = 0;
    uint8_t *directory, *e;

    for (guint i = 0; i < bitmaps->len; i++) {
        const Qcow2Bitmap *b = &g_array_index(bitmaps, Qcow2Bitmap, i);

        bytes += qcow2_bitmap_entry_bytes(name_length(b), b->extra_size);
    }
    directory = bytes <= QCOW2_BITMAP_DIRECTORY_MAX ? g_try_malloc0(bytes + 1) : NULL;
    if (!directory)
        return NULL;
    e = directory;
    for (guint i = 0; i < bitmaps->len; i++) {
        const Qcow2Bitmap *b = &g_array_index(bitmaps, Qcow2Bitmap, i);
        size_t name = name_length(b);

        tm_put_be64(e, b->table_offset);
        tm_put_be32(e + 8, b->table_size);
        tm_put_be32(e + 12, b->flags);
        e[16] = TYPE_DIRTY;
        e[17] = b->granularity_bits;
        tm_put_be16(e + 18, (uint16_t)name);
        tm_put_be32(e + 20, b->extra_size);
        if (b->extra_size)
            memcpy(e + QCOW2_BITMAP_ENTRY, b->extra, b->extra_size);
        memcpy(e + QCOW2_BITMAP_ENTRY + b->extra_size, b->bytes ? b->bytes : (void *)b->name, name);
        e += qcow2_bitmap_entry_bytes(name, b->extra_size);
    }
    *size = bytes;
    return directory;
}
