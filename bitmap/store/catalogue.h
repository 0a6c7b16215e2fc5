/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* bitmap/store/catalogue.h: the bitmaps of a disk as bytes (inside bitmap/ only): what a commit
 * writes and an opening reads.
 *
 * Layout (numbers little-endian; docs/bitmap-store.md has the table):
 *     index, copy 0 · index, copy 1 · directory · pages
 * The index holds counts, lengths and, for each bitmap, name, granularity, flags, recovered bytes,
 * reason and the ordinal of its root page. The directory has a self-checked entry a page: kind,
 * level, offset, length, checksum. Pages are those of page.h: lists, words, nodes whose slots are
 * ordinals; each page is written once however many bitmaps share it, children before parents, so
 * that a slot's ordinal is always smaller than the node's own.
 *
 * Damage (F7): a page that can't be trusted becomes BMP_FULL wherever it is used; a directory entry
 * likewise; the index is there twice. Whatever the bytes are: no crash, no allocation beyond a
 * small multiple of the input, never a bit missing that was set.
 *
 * Pure memory, no I/O. Threads: any. */
#pragma once
#include "bitmap/store/record.h"
#include <glib.h>

#define BMP_CATALOGUE_MAGIC "TMINDEX1" /* the first 8 bytes */

/* The catalogue of @n records (bits of the same disk size); its index at the start. Returned
 * (g_byte_array_unref); NULL without memory. @leader: path of the leader's store in a commit over
 * several, or NULL. */
GByteArray *bmp_catalogue_build(const BmpRecord *records, size_t n, const char *leader);

typedef struct BmpCatalogue {
    BmpRecord *records;
    size_t n;
    char *leader; /* or NULL */
    /* What was damaged: pages taken as full. For each bitmap that uses one its record's reason is
     * set, unless it had one. */
    size_t damaged_pages;
    bool damaged_index; /* one of its copies */
} BmpCatalogue;

/* Parses. false: neither copy of the index can be trusted, nothing is known. *out is then empty.
 * @size: the disk's, for which the records' bits are made. */
bool bmp_catalogue_parse(const void *data, size_t length, uint64_t size, BmpCatalogue *out);
void bmp_catalogue_clear(BmpCatalogue *catalogue);
