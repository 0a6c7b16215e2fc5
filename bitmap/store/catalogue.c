/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* bitmap/store/catalogue.c: writing a catalogue; the layout is in the header. */
#include "bitmap/store/catalogue.h"

#include "bitmap/store/catalogue_internal.h"
#include "bitmap/store/format.h"
#include "util/endian.h"

#include <string.h>

typedef struct Builder {
    GByteArray *directory, *pages;
    GHashTable *ordinals; /* BmpPage -> its ordinal + 1 */
    uint64_t n;
    bool too_big; /* for an array of bytes */
} Builder;

void bmp_record_clear(BmpRecord *record)
{
    g_free(record->name);
    g_free(record->reason);
    bmp_bits_clear_all(&record->bits);
    *record = (BmpRecord){ 0 };
}

static void record_clear(void *record)
{
    bmp_record_clear(record);
}

GArray *bmp_records_new(void)
{
    GArray *records = g_array_new(FALSE, FALSE, sizeof(BmpRecord));

    g_array_set_clear_func(records, record_clear);
    return records;
}

static void put16(GByteArray *to, uint16_t v)
{
    uint8_t bytes[2];

    tm_put_le16(bytes, v);
    g_byte_array_append(to, bytes, sizeof(bytes));
}

static void put32(GByteArray *to, uint32_t v)
{
    uint8_t bytes[4];

    tm_put_le32(bytes, v);
    g_byte_array_append(to, bytes, sizeof(bytes));
}

static void put64(GByteArray *to, uint64_t v)
{
    uint8_t bytes[8];

    tm_put_le64(bytes, v);
    g_byte_array_append(to, bytes, sizeof(bytes));
}

/* ---- pages */

static uint64_t add_page(Builder *b, const BmpPage *page, unsigned level);

static uint64_t reference(Builder *b, const BmpPage *page, unsigned level)
{
    if (!page)
        return REF_NONE;
    return page == BMP_FULL ? REF_FULL : add_page(b, page, level);
}

static void put_payload(Builder *b, const BmpPage *page, const uint64_t *slots)
{
    if (page->kind == BMP_LIST) {
        for (unsigned i = 0; i < page->n; i++)
            put16(b->pages, bmp_page_list(page)[i]);
    } else if (page->kind == BMP_WORDS) {
        uint64_t words[BMP_PAGE_WORDS];

        for (unsigned i = 0; i < BMP_PAGE_WORDS; i++)
            words[i] = GUINT64_TO_LE(bmp_page_words(page)[i]);
        g_byte_array_append(b->pages, (const uint8_t *)words, sizeof(words));
    } else {
        for (unsigned i = 0; i < page->n; i++)
            put64(b->pages, slots[i]);
    }
}

/* Returns the reference to it; written once. */
static uint64_t add_page(Builder *b, const BmpPage *page, unsigned level)
{
    uint64_t known = GPOINTER_TO_SIZE(g_hash_table_lookup(b->ordinals, page));
    uint64_t slots[BMP_NODE_SLOTS] = { 0 };
    uint8_t entry[DIRECTORY_ENTRY] = { 0 };
    guint start, length;

    if (known)
        return known;
    if (b->pages->len > PAGES_MAX) {
        b->too_big = true;
        return REF_FULL;
    }
    for (unsigned i = 0; page->kind == BMP_NODE && i < page->n; i++)
        slots[i] = reference(b, bmp_page_slots(page)[i], level - 1);
    start = b->pages->len;
    put_payload(b, page, slots);
    length = b->pages->len - start;
    tm_put_le64(entry, start);
    tm_put_le32(entry + 8, length);
    entry[12] = page->kind;
    entry[13] = (uint8_t)level;
    tm_put_le16(entry + 14, page->kind == BMP_WORDS ? 0 : page->n);
    tm_put_le64(entry + 16, bmp_checksum(b->pages->data + start, length, b->n));
    tm_put_le64(entry + 24, bmp_checksum(entry, 24, b->n));
    g_byte_array_append(b->directory, entry, sizeof(entry));
    b->n++;
    g_hash_table_insert(b->ordinals, (void *)page, GSIZE_TO_POINTER(b->n));
    return b->n;
}

/* ---- the index */

/* What a reader takes: valid, and not longer than it allows; g_free. */
static char *fit_reason(const char *reason)
{
    g_autofree char *valid = g_utf8_make_valid(reason ? reason : "", -1);
    const char *end = valid;

    while (*end && g_utf8_next_char(end) - valid <= (long)REASON_MAX)
        end = g_utf8_next_char(end);
    return g_strndup(valid, (gsize)(end - valid));
}

static void put_record(GByteArray *to, const BmpRecord *record, uint64_t root)
{
    g_autofree char *reason = fit_reason(record->reason);
    uint8_t shift = record->shift;
    uint8_t flags = (record->enabled ? RECORD_ENABLED : 0) |
                    (record->inconsistent ? RECORD_INCONSISTENT : 0) |
                    (record->unfinished ? RECORD_UNFINISHED : 0);

    put16(to, (uint16_t)strlen(record->name));
    g_byte_array_append(to, &shift, 1);
    g_byte_array_append(to, &flags, 1);
    put32(to, (uint32_t)strlen(reason));
    put64(to, record->recovered);
    put64(to, root);
    g_byte_array_append(to, (const uint8_t *)record->name, (guint)strlen(record->name));
    g_byte_array_append(to, (const uint8_t *)reason, (guint)strlen(reason));
}

static GByteArray *make_index(const Builder *b, const BmpRecord *records, size_t n,
                              const uint64_t *roots, const char *leader)
{
    GByteArray *index = g_byte_array_new();
    uint8_t header[INDEX_HEADER] = { 0 };
    size_t leader_length = leader ? strlen(leader) : 0;
    uint64_t length;

    g_byte_array_append(index, header, sizeof(header));
    for (size_t i = 0; i < n; i++)
        put_record(index, &records[i], roots[i]);
    if (leader_length)
        g_byte_array_append(index, (const uint8_t *)leader, (guint)leader_length);
    length = index->len + 8;
    memcpy(index->data, BMP_CATALOGUE_MAGIC, 8);
    tm_put_le32(index->data + 8, BMP_STORE_VERSION);
    tm_put_le32(index->data + 12, (uint32_t)n);
    tm_put_le64(index->data + 16, length);
    tm_put_le64(index->data + 24, 2 * length + b->directory->len + b->pages->len + INDEX_TRAILER);
    tm_put_le64(index->data + 32, b->n);
    tm_put_le64(index->data + 40, b->pages->len);
    tm_put_le32(index->data + 48, (uint32_t)leader_length);
    put64(index, bmp_checksum(index->data, index->len, 0));
    return index;
}

static void put_trailer(GByteArray *to, uint64_t index_length)
{
    uint8_t trailer[INDEX_TRAILER];

    memcpy(trailer, TRAILER_MAGIC, 8);
    tm_put_le64(trailer + 8, index_length);
    tm_put_le64(trailer + 16, bmp_checksum(trailer, 16, 0));
    g_byte_array_append(to, trailer, sizeof(trailer));
}

GByteArray *bmp_catalogue_build(const BmpRecord *records, size_t n, const char *leader)
{
    g_autoptr(GByteArray) directory = g_byte_array_new(), pages = g_byte_array_new();
    g_autoptr(GHashTable) ordinals = g_hash_table_new(NULL, NULL);
    g_autoptr(GByteArray) index = NULL;
    g_autofree uint64_t *roots = g_new(uint64_t, n + 1);
    Builder b = { .directory = directory, .pages = pages, .ordinals = ordinals };
    GByteArray *out;

    for (size_t i = 0; i < n; i++)
        roots[i] = reference(&b, records[i].bits.root, records[i].bits.height);
    index = make_index(&b, records, n, roots, leader);
    if (b.too_big || index->len > PAGES_MAX)
        return NULL;
    out = g_byte_array_sized_new(index->len * 2 + directory->len + pages->len + INDEX_TRAILER);
    g_byte_array_append(out, index->data, index->len);
    g_byte_array_append(out, directory->data, directory->len);
    g_byte_array_append(out, pages->data, pages->len);
    g_byte_array_append(out, index->data, index->len);
    put_trailer(out, index->len);
    return out;
}
