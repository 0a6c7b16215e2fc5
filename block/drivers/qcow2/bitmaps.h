/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/qcow2/bitmaps.h: the bitmaps extension.
 *
 * The header names a directory (one piece, at a cluster), whose entries name a table each, whose
 * entries are clusters of bits, or say that they would be all 0 or all 1. It counts while the
 * autoclear bit QCOW2_AUTOCLEAR_BITMAPS is set.
 *
 * While an image is open for writing here its bitmaps are in a store beside it
 * (bitmap/store/store.h), which QCOW2_AUTOCLEAR_STORE says: a bit of ours that anybody else clears
 * who opens the image for writing. The directory's entries are marked as in use meanwhile.
 *
 * Invariants:
 *  B1  A directory that counts, and what it refers to, is not written to, but for the flag that an
 *      entry is in use, which only ever is set there.
 *  B2  A new directory counts only when everything that it refers to is on the medium, and only
 *      then is what only the old one referred to let go.
 *  B3  Bits and memory of what is loaded follow what is in the file, not what is claimed.
 *
 * Source: the specification, "Bitmaps extension" and "Bitmaps"; bounds as QEMU's.
 *
 * Main thread, drained, but for what says otherwise. */
#pragma once
#include "bitmap/store/record.h"
#include "block/drivers/qcow2/qcow2.h"

#define QCOW2_BITMAP_IN_USE           1u
#define QCOW2_BITMAP_AUTO             2u
#define QCOW2_BITMAP_EXTRA_COMPATIBLE 4u

#define QCOW2_BITMAPS_MAX          65535u
#define QCOW2_BITMAP_DIRECTORY_MAX (UINT64_C(64) << 20)
#define QCOW2_BITMAP_BYTES_MAX     (UINT64_C(512) << 20) /* of one bitmap's clusters */
#define QCOW2_BITMAP_NAME_MAX      1023u
#define QCOW2_BITMAP_ENTRY         24u /* bytes of an entry before extra data and name */
#define QCOW2_BITMAP_ALL_ONES      UINT64_C(1)

/* An entry of the directory. */
typedef struct Qcow2Bitmap {
    uint64_t at; /* of the entry in the directory */
    uint64_t table_offset;
    uint32_t table_size; /* entries */
    uint32_t flags;
    uint8_t granularity_bits;
    char *name;     /* UTF-8; owned */
    uint8_t *bytes; /* the name in the image, if that is no text: owned; NULL: it is @name */
    uint32_t n_bytes;
    uint8_t *extra; /* owned */
    uint32_t extra_size;
} Qcow2Bitmap;

/* ---- bitmaps_parse.c: any thread, no I/O */

GArray *qcow2_bitmaps_new(void); /* of Qcow2Bitmap, cleared with it */
/* The extension's own fields. */
bool qcow2_bitmaps_check(const Qcow2Header *header, uint64_t file_size, GError **error);
/* The directory: Qcow2Bitmap (g_array_unref), each field checked; NULL: it can't be. */
GArray *qcow2_bitmaps_parse(const Qcow2Header *header, uint64_t file_size, const uint8_t *bytes,
                            GError **error);
/* The other way; *size a multiple of 8. Returned (g_free); NULL: too large. */
uint8_t *qcow2_bitmaps_build(const GArray *bitmaps, uint64_t *size);
uint64_t qcow2_bitmap_entry_bytes(uint64_t name, uint64_t extra);
/* Whether that can be an entry of a table; *offset: of its cluster, 0: there is none. */
bool qcow2_bitmap_entry(uint64_t entry, uint64_t cluster, uint64_t file_size, uint64_t *offset);
/* Entries that the table of a disk of @size bytes has. */
uint64_t qcow2_bitmap_table_size(uint64_t size, unsigned granularity_bits, uint64_t cluster);

/* ---- bitmaps_load.c */

/* Whether there is a directory that counts. */
bool qcow2_bitmaps_there(const Qcow2 *q);
/* It; an empty one if there is none. */
GArray *qcow2_bitmaps_read(Qcow2 *q, GError **error);
/* The table, host-endian (g_free); NULL: it can't be read. */
uint64_t *qcow2_bitmap_table(Qcow2 *q, const Qcow2Bitmap *bitmap);
bool qcow2_bitmaps_load(void *handle, GArray *records, GPtrArray *problems, GError **error);

/* ---- bitmaps_store.c */
bool qcow2_bitmaps_drop(void *handle, const GPtrArray *names, GError **error);
bool qcow2_bitmaps_store(void *handle, const GArray *records, GError **error);

/* ---- bitmaps.c */
extern const BlkKeptBitmaps qcow2_kept_bitmaps;
