/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/qcow2/check.h: what the files of the checker share.
 *
 * A check counts what all tables of an image refer to (check_refs.c, check_bitmaps.c), compares
 * that with its refcounts (check_refcounts.c; check_rebuild.c makes them anew) and the refcounts
 * with the flags that rest on them (check_copied.c); check.c says what comes when. What counts as
 * what is QEMU's, so that the figures are those of `qemu-img check`.
 *
 * Invariants:
 *  K1  Work and memory follow what there is in the file, not what is claimed: holes are not read,
 *      and tables that are referred to over and over are given up.
 *  K2  A repair writes into a table only if nothing but that kind of table is said to be there.
 *
 * Threads: one, which may block. */
#pragma once
#include "block/drivers/qcow2/image.h"
#include "block/drivers/qcow2/qcow2.h"
#include "block/drivers/qcow2/snapshots.h"

/* What a cluster was said to hold. */
#define QCOW2_HOLDS_HEADER (1u << 26)
#define QCOW2_HOLDS_L1     (1u << 27)
#define QCOW2_HOLDS_L2     (1u << 28)
#define QCOW2_HOLDS_REFS   (1u << 29) /* refcount table or block */
#define QCOW2_HOLDS_OTHER  (1u << 30) /* snapshot table, bitmaps */
#define QCOW2_HOLDS_DATA   (1u << 31)
#define QCOW2_HOLDS_COUNT  ((1u << 26) - 1) /* the references, in the lower bits */

#define QCOW2_REFTABLE_RESERVED UINT64_C(0x1ff)
#define QCOW2_REPEATED_MAX      64u /* tables that may overlap others before it is enough */

typedef struct Qcow2Check {
    BlkNode *file;
    bool external_data;
    BlkImageCheckOptions options;
    bool quiet; /* nothing is reported */
    Qcow2Header header;
    uint64_t cluster;     /* bytes */
    uint64_t size;        /* of the file, bytes */
    uint64_t clusters;    /* of the file, the last one perhaps in part */
    uint64_t counted_max; /* the highest number with a count, plus one */
    uint64_t allocated;   /* clusters of the file that are no holes, more or less */
    unsigned entry_bytes; /* of an L2 entry */
    unsigned bits;        /* of a refcount */
    uint64_t max;         /* refcount */
    GArray *snapshots;    /* Qcow2Snapshot */
    char *no_snapshots;   /* why the table of them can't be read; or NULL */
    bool cut_snapshots;   /* the table extends beyond the end of the image */
    uint64_t snapshots_bytes;
    BlkProgress work;
    BlkImageCheck result; /* of this pass */
    uint64_t fixable;     /* entries that a repair would set to zero */
    uint64_t cut_end;     /* the end of what is referred to not far beyond the end of the file; 0 */
    uint64_t repeated;    /* tables that were referred to again where nothing should */

    GHashTable *pages; /* counts, by 1024 clusters: uint32_t each */
    bool rebuild;      /* the refcount structures are beyond mending */

    uint64_t *reftable; /* host-endian, as it is on the medium */
    uint64_t reftable_entries;
    uint8_t *slots;    /* refcount blocks in memory, a cluster each */
    uint64_t *slot_of; /* which one, plus 1; 0: none */
    unsigned n_slots;
} Qcow2Check;

/* ---- check_counts.c */

/* A line for people, if this pass reports. */
void qcow2_check_found(Qcow2Check *k, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Reads beyond the end of the file, too: zeroes. */
int qcow2_check_read(Qcow2Check *k, void *buf, uint64_t offset, uint64_t length);
/* How much of [offset, offset + length) is a hole from its start. */
uint64_t qcow2_check_hole(Qcow2Check *k, uint64_t offset, uint64_t length);
/* Makes the file at least that big. */
int qcow2_check_grow(Qcow2Check *k, uint64_t size);
int qcow2_check_write(Qcow2Check *k, const void *buf, uint64_t offset, uint64_t length);

/* Counts one reference to what is in [offset, offset + length). */
void qcow2_check_refer(Qcow2Check *k, uint64_t offset, uint64_t length, uint32_t holds);
uint32_t qcow2_check_cell(Qcow2Check *k, uint64_t cluster); /* count and what it holds */
void qcow2_check_add(Qcow2Check *k, uint64_t cluster, uint32_t holds);
/* The cells from @cluster on, *n of them at most; NULL: no counts there. */
const uint32_t *qcow2_check_cells(Qcow2Check *k, uint64_t cluster, uint64_t *n);
/* K2: that kind of table, and nothing else. */
bool qcow2_check_holds(Qcow2Check *k, uint64_t offset, uint32_t holds);
/* Whether a cluster of the range is said to hold that already: tables that overlap others. Too
 * many of them, and false. */
bool qcow2_check_fresh(Qcow2Check *k, uint64_t offset, uint64_t length, uint32_t holds);
/* Whether a cluster of [first, end) is referred to. */
bool qcow2_check_any_counted(Qcow2Check *k, uint64_t first, uint64_t end);

/* ---- check_refs.c */

/* The counts of all that is referred to, into k->pages; fills most of the result. With a table's
 * own errors *error is not set, and true is returned. */
bool qcow2_check_count(Qcow2Check *k, bool refcounts_too, GError **error);
/* What an L2 entry is; the place of what it refers to. */
Qcow2Kind qcow2_check_kind(const Qcow2Check *k, uint64_t entry, uint64_t *offset, uint64_t *length);

/* ---- check_bitmaps.c */
bool qcow2_check_bitmaps(Qcow2Check *k, GError **error);

/* A bitmap as the directory has it. */
typedef struct Qcow2DirectoryEntry {
    uint64_t table_offset;
    uint32_t table_size; /* entries */
    uint32_t flags, granularity_bits;
    char *name; /* UTF-8 */
} Qcow2DirectoryEntry;
/* An array of them (g_array_unref), without what they refer to; NULL: it can't be. */
GArray *qcow2_directory_read(BlkNode *file, const Qcow2Header *header, GError **error);

/* ---- check_refcounts.c */
bool qcow2_check_load_reftable(Qcow2Check *k, GError **error);
/* The refcount blocks refer to themselves: checks and counts them. */
bool qcow2_check_blocks(Qcow2Check *k, GError **error);
/* The refcount on the medium; -errno: it can't be read. */
int qcow2_check_refcount(Qcow2Check *k, uint64_t cluster, uint64_t *refcount);
/* Compares, and repairs what @fix (BLK_IMAGE_FIX_*) allows. */
bool qcow2_check_compare(Qcow2Check *k, unsigned fix, GError **error);
uint64_t qcow2_check_per_block(const Qcow2Check *k); /* refcounts */
void qcow2_check_set(const Qcow2Check *k, uint8_t *block, uint64_t i, uint64_t value);

/* ---- check_rebuild.c */
/* Makes a new table and new blocks after the end of all there is, by the counts. */
bool qcow2_check_rebuild(Qcow2Check *k, GError **error);

/* ---- check_copied.c */
bool qcow2_check_copied(Qcow2Check *k, bool fix, GError **error);
/* Sets what is fixable to zero. */
bool qcow2_check_zero_entries(Qcow2Check *k, GError **error);
