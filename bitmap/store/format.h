/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* bitmap/store/format.h: the bytes of a bitmap store (inside bitmap/ only); docs/bitmap-store.md is
 * the written format, with its invariants F1...
 *
 * A store is one file of little-endian numbers:
 *
 *     0      superblock, copy 0          512 bytes used of 4096
 *     4096   superblock, copy 1
 *     ...    two extents, each at a multiple of 4096, named by the superblock:
 *            the catalogue   every bitmap and its content as of the last commit (catalogue.h)
 *            the journal     what was marked since (journal.h): two lists of intents (intents.h),
 *                            a table with one entry a region, then the words of all regions
 *
 * The content of an enabled bitmap is what the catalogue says of it, and what the journal says.
 *
 * Nothing of a store is believed unless it proves itself: superblock, catalogue index and each page
 * of the catalogue carry checksums; an entry of the table carries a check; a word of the journal
 * holds its bits and their complement, so that it changes in one atomic store and is yet checked.
 * Zeroes are never valid.
 *
 * Pure functions, no I/O. Threads: any. */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#define BMP_STORE_MAGIC   "TIDEMARK" /* 8 bytes, no NUL */
#define BMP_STORE_VERSION 1u
#define BMP_STORE_ALIGN   UINT64_C(4096)
#define BMP_SUPER_SIZE    512u /* one sector: written whole or not at all */
#define BMP_SUPER_COPIES  2u
#define BMP_LAYER_MAX     31u /* bytes of a layer's name */

/* Who closed the store, and how. */
typedef enum {
    BMP_STORE_CLOSED = 1,     /* nobody has it open; the disk is as the identity says */
    BMP_STORE_OPEN = 2,       /* a daemon has it open, or died with it */
    BMP_STORE_DISTRUSTED = 3, /* a daemon had to go on writing without it */
} BmpStoreState;

typedef enum {
    BMP_DURABLE_POWER = 1,   /* intents are synced before the data is written */
    BMP_DURABLE_PROCESS = 2, /* nothing is synced on the write path */
} BmpDurability;

typedef enum {
    BMP_DISK_UNKNOWN = 0,
    BMP_DISK_FILE = 1,
    BMP_DISK_DEVICE = 2,
} BmpDiskKind;

#define BMP_GROUPS_MAX 14u

typedef struct BmpSuper {
    uint8_t uuid[16];      /* of the store, random at creation */
    uint64_t generation;   /* grows by one a commit; the highest valid copy is the truth (F2) */
    uint64_t disk_size;    /* bytes */
    uint8_t state;         /* BmpStoreState */
    uint8_t durability;    /* BmpDurability of the session */
    uint8_t journal_shift; /* log2 of the journal's granules; 0: there is no journal */
    uint8_t region_shift;
    uint64_t journal_epoch; /* entries with another stamp are of the past: clean (F4) */
    uint64_t journal_offset, journal_length;
    uint64_t catalogue_offset, catalogue_length;
    /* The disk at clean close; but for the times and what was written also while open. */
    uint8_t disk_kind;   /* BmpDiskKind */
    uint8_t disk_marked; /* 1: the store's uuid is in its extended attribute */
    uint8_t disk_lossy;  /* 1: a flush of it has failed in this boot */
    int64_t disk_mtime_sec;
    uint32_t disk_mtime_nsec;
    uint64_t disk_dev, disk_ino; /* of a block device: its own number, and 0 */
    int64_t disk_birth_sec;      /* of a file, 0, 0: unknown */
    uint32_t disk_birth_nsec;
    uint64_t disk_serial;   /* of a block device: checksum of what names it; 0: unknown */
    uint64_t disk_instance; /* the kernel's number for it in this boot; 0: unknown */
    uint64_t disk_written;  /* sectors that were ever written to that instance */
    /* Where the session that opened it ran: equal values mean that the page cache has survived. */
    uint8_t boot_id[16];
    uint64_t store_dev, store_ino;
    /* A commit over several stores (F9): this copy counts only if the leader's store says so. */
    uint8_t group_pending; /* 1: prepared, not decided here */
    uint8_t group[16];     /* pending: random */
    uint8_t leader[16];    /* pending: uuid of the leader's store; zeroes: it is this one */
    /* Those that this store has decided and others may have to ask for, oldest first; zeroes. */
    uint8_t decided[BMP_GROUPS_MAX][16];
    uint8_t forgotten;             /* 1: there were more of them */
    char layer[BMP_LAYER_MAX + 1]; /* the driver of the node that keeps its bitmaps here */
} BmpSuper;

/* Why bytes are not a superblock. */
typedef enum {
    BMP_SUPER_OK,
    BMP_SUPER_EMPTY,   /* all zeroes */
    BMP_SUPER_FOREIGN, /* another magic */
    BMP_SUPER_VERSION, /* a valid header of another version */
    BMP_SUPER_DAMAGED, /* checksum or a field out of range */
} BmpSuperVerdict;

void bmp_super_encode(const BmpSuper *super, uint8_t bytes[BMP_SUPER_SIZE]);
/* Checks everything that can be checked without the rest of the file: ranges, alignment, no overlap
 * of extents and superblocks, geometry against disk_size. *super is set for BMP_SUPER_OK only; for
 * _VERSION *version is. */
BmpSuperVerdict bmp_super_decode(const uint8_t bytes[BMP_SUPER_SIZE], BmpSuper *super,
                                 uint32_t *version);

/* ---- the journal's geometry */
#define BMP_REGIONS_MAX      65536u
#define BMP_REGION_SHIFT_MIN 22u /* 4 MiB, unless granules are bigger */

typedef struct BmpGeometry {
    uint64_t size; /* of the disk */
    uint8_t journal_shift, region_shift;
    uint32_t regions;      /* 0 for an empty disk */
    uint64_t block;        /* bytes of one region's words; a multiple of 8 */
    uint64_t table_offset; /* from the start of the journal, where the lists of intents are */
    uint64_t words_offset; /* from the start of the journal; a multiple of 4096 */
    uint64_t length;       /* of the journal; a multiple of 4096 */
} BmpGeometry;

/* With the smallest regions that are at least 2^@region_shift_min bytes, at least a granule, and
 * at most BMP_REGIONS_MAX many. */
void bmp_geometry_choose(BmpGeometry *g, uint64_t size, unsigned journal_shift,
                         unsigned region_shift_min);
/* What a superblock says; false if the shifts are out of range or the journal too short for it. */
bool bmp_geometry_of(BmpGeometry *g, const BmpSuper *super);

/* ---- entries of the table: one atomic 64-bit word each */
typedef enum {
    BMP_REGION_CLEAN = 0,   /* with stamp 0, in a new table: nothing marked */
    BMP_REGION_CROWDED = 0, /* with an epoch: no room for its words, all counts as dirty */
    BMP_REGION_NEW = 1,     /* its words may not be on the medium; intents have all its marks */
    BMP_REGION_READY = 2,   /* its words were synced after they were initialised */
    BMP_REGION_FULL = 3,    /* all of it is marked, its words say nothing */
} BmpRegionState;

#define BMP_EPOCH_MAX ((UINT64_C(1) << 38) - 1)

/* bits 0-37 the stamp (epoch), 38-39 the state, 40-63 a check over both, the index and @seed. */
uint64_t bmp_entry_make(uint64_t seed, uint32_t index, uint64_t epoch, BmpRegionState state);
/* false: damaged. */
bool bmp_entry_read(uint64_t seed, uint32_t index, uint64_t entry, uint64_t *epoch,
                    BmpRegionState *state);
/* The seed of a store's entries: from its uuid. */
uint64_t bmp_entry_seed(const uint8_t uuid[16]);

/* ---- words of the journal: bits 0-31 are 32 granules, bits 32-63 their complement */
#define BMP_WORD_GRANULES 32u
#define BMP_WORD_CLEAN    UINT64_C(0xffffffff00000000)

static inline bool bmp_word_valid(uint64_t word)
{
    return (uint32_t)word == (uint32_t) ~(word >> 32);
}

static inline uint64_t bmp_word_set(uint64_t word, uint32_t bits)
{
    return (word | bits) & ~((uint64_t)bits << 32);
}

/* XXH64 with @seed, the checksum everywhere in a store. */
uint64_t bmp_checksum(const void *data, size_t length, uint64_t seed);
