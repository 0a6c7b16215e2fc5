/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* bitmap/store/catalogue_parse.c: reading a catalogue, whatever its bytes are; the layout is in the
 * header.
 *
 * Pages are built in the order of their ordinals, so that what a node refers to is there already or
 * wrong. A wrong page is BMP_FULL, and taints the nodes above and the bitmaps that use it. */
#include "bitmap/store/catalogue.h"

#include "bitmap/bitmap.h"
#include "bitmap/store/catalogue_internal.h"
#include "bitmap/store/format.h"
#include "util/endian.h"

#include <string.h>

typedef struct Built {
    BmpPage *page; /* a reference, or BMP_FULL */
    uint8_t level;
    bool regular; /* every node below has all its slots */
    bool tainted; /* it or something below is damaged */
} Built;

typedef struct Parser {
    const uint8_t *data;
    uint64_t length;
    uint64_t size; /* of the disk */
    const uint8_t *index;
    uint64_t index_length;
    const uint8_t *directory, *pages;
    uint64_t n, pages_length;
    uint64_t pages_end; /* payloads follow each other: so they can't be many times what is there */
    Built *built;
    BmpCatalogue *out;
} Parser;

/* ---- the index */

static bool index_valid(const uint8_t *index, uint64_t room, uint64_t *length)
{
    uint64_t n;

    if (room < INDEX_HEADER + 8 || memcmp(index, BMP_CATALOGUE_MAGIC, 8))
        return false;
    n = tm_get_le64(index + 16);
    if (n < INDEX_HEADER + 8 || n > room ||
        tm_get_le64(index + n - 8) != bmp_checksum(index, n - 8, 0) ||
        tm_get_le32(index + 8) != BMP_STORE_VERSION)
        return false;
    *length = n;
    return true;
}

/* The second copy, found from the end. */
static const uint8_t *second_index(const Parser *p, uint64_t *length)
{
    const uint8_t *trailer, *index;
    uint64_t n;

    if (p->length < INDEX_TRAILER)
        return NULL;
    trailer = p->data + p->length - INDEX_TRAILER;
    n = tm_get_le64(trailer + 8);
    if (memcmp(trailer, TRAILER_MAGIC, 8) ||
        tm_get_le64(trailer + 16) != bmp_checksum(trailer, 16, 0) || n > p->length - INDEX_TRAILER)
        return NULL;
    index = trailer - n;
    return index_valid(index, n, length) ? index : NULL;
}

/* The directory and the pages lie where the index says; a short file has less of them. */
static void find_areas(Parser *p)
{
    uint64_t at = p->index_length, room = p->length - MIN(at, p->length);

    p->n = MIN(tm_get_le64(p->index + 32), room / DIRECTORY_ENTRY);
    p->directory = p->data + at;
    p->pages = p->directory + p->n * DIRECTORY_ENTRY;
    p->pages_length = MIN(tm_get_le64(p->index + 40), room - p->n * DIRECTORY_ENTRY);
}

static bool find_index(Parser *p)
{
    uint64_t length = 0;
    const uint8_t *second = second_index(p, &length);

    if (index_valid(p->data, p->length, &p->index_length))
        p->index = p->data;
    p->out->damaged_index = !p->index || !second;
    if (!p->index && second) {
        p->index = second;
        p->index_length = length;
    }
    if (p->index)
        find_areas(p);
    return p->index != NULL;
}

/* ---- pages */

static BmpPage *make_list(const uint8_t *payload, uint32_t length, unsigned count)
{
    BmpPage *page;
    int last = -1;

    if (!count || count > BMP_LIST_MAX || length != count * 2)
        return NULL;
    page = bmp_page_new_list(count);
    for (unsigned i = 0; page && i < count; i++) {
        int entry = tm_get_le16(payload + 2 * i);

        if (entry <= last) {
            bmp_page_unref(page);
            return NULL;
        }
        bmp_page_list(page)[i] = (uint16_t)entry;
        page->n = (uint16_t)(i + 1);
        last = entry;
    }
    return page;
}

static BmpPage *make_words(const uint8_t *payload, uint32_t length)
{
    BmpPage *page = length == BMP_PAGE_WORDS * 8 ? bmp_page_new_words() : NULL;

    for (unsigned i = 0; page && i < BMP_PAGE_WORDS; i++)
        bmp_page_words(page)[i] = tm_get_le64(payload + 8 * i);
    return page;
}

/* What a slot of a node at @level refers to; BMP_FULL if that can't be. */
static BmpPage *slot_page(Parser *p, uint64_t ordinal, unsigned level, uint64_t ref, Built *into)
{
    Built *child;

    if (ref == REF_NONE)
        return NULL;
    if (ref == REF_FULL)
        return BMP_FULL;
    child = ref - 1 < ordinal ? &p->built[ref - 1] : NULL;
    if (!child || (child->page != BMP_FULL && child->level != level - 1)) {
        into->tainted = true;
        p->out->damaged_pages++;
        return BMP_FULL;
    }
    into->tainted |= child->tainted;
    into->regular &= child->regular;
    return bmp_page_ref(child->page);
}

static BmpPage *make_node(Parser *p, uint64_t ordinal, const uint8_t *payload, uint32_t length,
                          unsigned count, Built *into)
{
    BmpPage *page;

    if (!count || count > BMP_NODE_SLOTS || length != count * 8 || !into->level)
        return NULL;
    page = bmp_page_new_node(count, NULL);
    into->regular = count == BMP_NODE_SLOTS;
    for (unsigned i = 0; page && i < count; i++)
        bmp_page_slots(page)[i] =
            slot_page(p, ordinal, into->level, tm_get_le64(payload + 8 * i), into);
    return page;
}

static BmpPage *make_page(Parser *p, uint64_t ordinal, Built *into)
{
    const uint8_t *entry = p->directory + ordinal * DIRECTORY_ENTRY, *payload;
    uint64_t offset = tm_get_le64(entry);
    uint32_t length = tm_get_le32(entry + 8);
    unsigned count = tm_get_le16(entry + 14);

    if (tm_get_le64(entry + 24) != bmp_checksum(entry, 24, ordinal) || offset > p->pages_length ||
        length > p->pages_length - offset || offset < p->pages_end)
        return NULL;
    p->pages_end = offset + length;
    payload = p->pages + offset;
    if (tm_get_le64(entry + 16) != bmp_checksum(payload, length, ordinal))
        return NULL;
    into->level = entry[13];
    if (entry[12] == BMP_NODE)
        return make_node(p, ordinal, payload, length, count, into);
    if (into->level)
        return NULL;
    if (entry[12] == BMP_LIST)
        return make_list(payload, length, count);
    return entry[12] == BMP_WORDS ? make_words(payload, length) : NULL;
}

static bool make_pages(Parser *p)
{
    p->built = g_try_new0(Built, p->n + 1);
    if (!p->built)
        return false;
    for (uint64_t i = 0; i < p->n; i++) {
        Built *built = &p->built[i];

        built->regular = true;
        built->page = make_page(p, i, built);
        if (built->page)
            continue;
        *built = (Built){ .page = BMP_FULL, .regular = true, .tainted = true };
        p->out->damaged_pages++;
    }
    return true;
}

static void free_pages(Parser *p)
{
    for (uint64_t i = 0; p->built && i < p->n; i++)
        bmp_page_unref(p->built[i].page);
    g_free(p->built);
}

/* ---- bitmaps */

static bool node_regular(const BmpPage *page, unsigned level)
{
    if (!page || page == BMP_FULL || !level)
        return true;
    if (page->kind != BMP_NODE || page->n != BMP_NODE_SLOTS)
        return false;
    return true;
}

/* Whether a tree has the shape that the set needs: the nodes of its right edge may be narrower. The
 * others were found to be regular while they were built. */
static bool edge_fits(Parser *p, GHashTable *regular, const BmpBits *bits, const BmpPage *page,
                      unsigned level, uint64_t base)
{
    unsigned slots;

    if (!page || page == BMP_FULL || !level)
        return !page || page == BMP_FULL || page->kind != BMP_NODE;
    slots = bmp_bits_node_slots(bits, level, base);
    if (page->kind != BMP_NODE || page->n != slots)
        return false;
    for (unsigned i = 0; i + 1 < slots; i++) {
        const BmpPage *child = bmp_page_slots(page)[i];

        if (!node_regular(child, level - 1) ||
            (child && child != BMP_FULL && !g_hash_table_contains(regular, child)))
            return false;
    }
    return edge_fits(p, regular, bits, bmp_page_slots(page)[slots - 1], level - 1,
                     base + (slots - 1) * bmp_bits_span(level - 1));
}

static void damaged(Parser *p, BmpRecord *record)
{
    if (!record->reason)
        record->reason = g_strdup("the store is damaged: pages of its catalogue count as dirty");
}

static void set_root(Parser *p, GHashTable *regular, BmpRecord *record, uint64_t ref)
{
    BmpBits *bits = &record->bits;
    const Built *root;

    if (!bits->nbits || ref == REF_NONE)
        return;
    bits->root = BMP_FULL;
    if (ref == REF_FULL)
        return;
    if (ref - 1 >= p->n) {
        p->out->damaged_pages++;
        damaged(p, record);
        return;
    }
    root = &p->built[ref - 1];
    if (root->tainted)
        damaged(p, record);
    if (root->page == BMP_FULL)
        return;
    if (root->level == bits->height && edge_fits(p, regular, bits, root->page, root->level, 0)) {
        bits->root = bmp_page_ref(root->page);
    } else {
        p->out->damaged_pages++;
        damaged(p, record);
    }
}

/* The pages whose nodes have all their slots, all the way down. */
static GHashTable *regular_pages(Parser *p)
{
    GHashTable *set = g_hash_table_new(NULL, NULL);

    for (uint64_t i = 0; i < p->n; i++) {
        if (p->built[i].regular && p->built[i].page != BMP_FULL)
            g_hash_table_add(set, p->built[i].page);
    }
    return set;
}

static char *take_text(const uint8_t *text, uint64_t length)
{
    if (memchr(text, 0, length) || !g_utf8_validate((const char *)text, (gssize)length, NULL))
        return NULL;
    return g_strndup((const char *)text, length);
}

/* The record at *at, which moves past it; false: it does not end within the index. One that makes
 * no sense is passed over. */
static bool take_record(Parser *p, GHashTable *names, GHashTable *regular, uint64_t *at,
                        uint64_t end)
{
    const uint8_t *fixed = p->index + *at;
    uint64_t name, reason;
    BmpRecord record = { 0 };

    if (end - *at < RECORD_FIXED)
        return false;
    name = tm_get_le16(fixed);
    reason = tm_get_le32(fixed + 4);
    if (end - *at - RECORD_FIXED < name || end - *at - RECORD_FIXED - name < reason)
        return false;
    *at += RECORD_FIXED + name + reason;
    record.shift = fixed[2];
    if (name && name <= BMP_NAME_MAX && record.shift >= 9 && record.shift <= 31)
        record.name = take_text(fixed + RECORD_FIXED, name);
    if (!record.name || !g_hash_table_add(names, g_strdup(record.name))) {
        p->out->damaged_index = true;
        g_free(record.name);
        return true;
    }
    if (reason && reason <= REASON_MAX)
        record.reason = take_text(fixed + RECORD_FIXED + name, reason);
    record.enabled = fixed[3] & RECORD_ENABLED;
    record.inconsistent = fixed[3] & RECORD_INCONSISTENT;
    record.unfinished = fixed[3] & RECORD_UNFINISHED;
    record.recovered = tm_get_le64(fixed + 8);
    bmp_bits_init(&record.bits, p->size, record.shift);
    set_root(p, regular, &record, tm_get_le64(fixed + 16));
    p->out->records[p->out->n++] = record;
    return true;
}

static bool take_records(Parser *p)
{
    uint64_t count = tm_get_le32(p->index + 12), leader = tm_get_le32(p->index + 48);
    uint64_t at = INDEX_HEADER, end = p->index_length - 8;
    g_autoptr(GHashTable) names = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    g_autoptr(GHashTable) regular = regular_pages(p);

    if (leader > end - at || count > (end - at - leader) / RECORD_FIXED)
        return false;
    end -= leader;
    p->out->records = g_try_new0(BmpRecord, count + 1);
    if (!p->out->records)
        return false;
    for (uint64_t i = 0; i < count; i++) {
        if (!take_record(p, names, regular, &at, end)) {
            p->out->damaged_index = true;
            break;
        }
    }
    if (leader && !memchr(p->index + end, 0, leader))
        p->out->leader = g_strndup((const char *)p->index + end, leader);
    return true;
}

bool bmp_catalogue_parse(const void *data, size_t length, uint64_t size, BmpCatalogue *out)
{
    Parser p = { .data = data, .length = length, .size = size, .out = out };
    bool ok;

    *out = (BmpCatalogue){ 0 };
    ok = find_index(&p) && make_pages(&p) && take_records(&p);
    free_pages(&p);
    if (!ok)
        bmp_catalogue_clear(out);
    return ok;
}

void bmp_catalogue_clear(BmpCatalogue *catalogue)
{
    for (size_t i = 0; i < catalogue->n; i++)
        bmp_record_clear(&catalogue->records[i]);
    g_free(catalogue->records);
    g_free(catalogue->leader);
    *catalogue = (BmpCatalogue){ 0 };
}
