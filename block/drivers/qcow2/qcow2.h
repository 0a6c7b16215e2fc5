/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/qcow2/qcow2.h: what the files of the qcow2 driver share.
 *
 * Source: QEMU docs/interop/qcow2.txt ("the specification" below). All of an image is big-endian,
 * and nothing of it is trusted: header.c checks the header before anything is made of it, tables.c
 * and refcounts.c each entry of a table before it is used.
 *
 * What is changed and when it is on the medium:
 *  Q1  Metadata changes in memory; commit.c alone writes it, in an order that after a cut at any
 *      moment leaves an image that holds all that was flushed, and leaked clusters at most.
 *  Q2  On the medium a cluster's refcount is never less than what the tables there refer to it: new
 *      refcounts and data are synced before the entries that rest on them are written, and what an
 *      entry no longer refers to is let go only after that entry is synced.
 *  Q3  A host cluster that a reader may be using is not given to other data: requests that
 *      take clusters away hold their range exclusively (TIDEMARK_EXCLUSIVE), and what a client was
 *      sent from the page cache is invalidated there first (child_invalidate).
 *  Q4  Two requests never allocate the same guest cluster (Qcow2Claim).
 *
 * Threads and locks, by rank:
 *  commit_lock  one commit at a time; held across I/O
 *  alloc_lock   refcounts, claims, what is to be freed; held while metadata is read, for who
 *               allocates waits for who allocates; never by the fast lane
 *  tables_lock  L1, the L2 tables in memory, the set of metadata clusters; short; a leaf
 *  inflated_lock  inflate.c; a leaf */
#pragma once
#include "block/drivers/drivers.h"
#include "block/node.h"
#include "block/registry.h"

#include <glib.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

/* The children, in the driver's order. */
enum { QCOW2_FILE, QCOW2_BACKING, QCOW2_DATA_FILE };

#define QCOW2_CLUSTER_BITS_MIN 9u
#define QCOW2_CLUSTER_BITS_MAX 21u
#define QCOW2_L1_MAX           (UINT64_C(32) << 20) /* bytes of the L1 table, as QEMU bounds it */
#define QCOW2_REFTABLE_MAX     (UINT64_C(8) << 20)  /* bytes of the refcount table, likewise */
#define QCOW2_SUBCLUSTERS      32u
#define QCOW2_SECTOR           512u /* in which compressed clusters are measured */

/* Feature bits. */
#define QCOW2_INCOMPATIBLE_DIRTY       UINT64_C(1)
#define QCOW2_INCOMPATIBLE_CORRUPT     UINT64_C(2)
#define QCOW2_INCOMPATIBLE_DATA_FILE   UINT64_C(4)
#define QCOW2_INCOMPATIBLE_COMPRESSION UINT64_C(8)
#define QCOW2_INCOMPATIBLE_EXTENDED_L2 UINT64_C(16)
#define QCOW2_INCOMPATIBLE_KNOWN       UINT64_C(31)
#define QCOW2_COMPATIBLE_LAZY          UINT64_C(1)
#define QCOW2_AUTOCLEAR_BITMAPS        UINT64_C(1)
#define QCOW2_AUTOCLEAR_DATA_RAW       UINT64_C(2)
#define QCOW2_AUTOCLEAR_STORE          (UINT64_C(1) << 63) /* bitmaps.h */
#define QCOW2_AUTOCLEAR_KNOWN                                                                      \
    (QCOW2_AUTOCLEAR_BITMAPS | QCOW2_AUTOCLEAR_DATA_RAW | QCOW2_AUTOCLEAR_STORE)

#define QCOW2_EXTENSION_END            0u
#define QCOW2_EXTENSION_BACKING_FORMAT 0xe2792acau
#define QCOW2_EXTENSION_FEATURES       0x6803f857u
#define QCOW2_EXTENSION_BITMAPS        0x23852875u
#define QCOW2_EXTENSION_DATA_FILE      0x44415441u

/* Table entries. */
#define QCOW2_OFFSET_MASK     UINT64_C(0x00fffffffffffe00) /* bits 9 to 55 */
#define QCOW2_COPIED          (UINT64_C(1) << 63)
#define QCOW2_COMPRESSED_FLAG (UINT64_C(1) << 62)
#define QCOW2_READS_ZERO      UINT64_C(1) /* of a standard entry, version 3 */

typedef enum { QCOW2_ZLIB, QCOW2_ZSTD } Qcow2Compression;

/* A file that lost its end in a power cut has clusters beyond it, which read as zeroes and may be
 * written. What is at or beyond this can't have been in a file of @size bytes. */
static inline uint64_t qcow2_reach(uint64_t size)
{
    return size + MAX(size, UINT64_C(16) << 20);
}

/* The header, checked. */
typedef struct Qcow2Header {
    uint32_t version, cluster_bits, l1_size, compression;
    uint32_t length; /* bytes, without extensions */
    uint32_t refcount_order;
    uint64_t size, l1_offset;
    uint64_t reftable_offset;
    uint32_t reftable_clusters;
    uint32_t n_snapshots;
    uint64_t snapshots_offset;
    uint64_t incompatible, compatible, autoclear;
    bool extended_l2, external_data, data_raw;
    char *backing, *backing_format, *data_file; /* as the image names them, or NULL */
    bool has_bitmaps; /* the extension is there; it counts only while autoclear says so */
    uint32_t n_bitmaps, bitmaps_reserved;
    uint64_t bitmaps_size, bitmaps_offset; /* of the directory, bytes */
} Qcow2Header;

typedef struct Qcow2Table Qcow2Table;
typedef struct Qcow2Block Qcow2Block;

/* Clusters that are to lose a reference. */
typedef enum { QCOW2_FREED_REQUEST, QCOW2_FREED_OTHER } Qcow2FreedBy;
typedef struct Qcow2Freed {
    uint64_t offset, clusters;
    Qcow2FreedBy by;
} Qcow2Freed;

typedef struct Qcow2Dirty {
    uint32_t from, to; /* bytes; from >= to: none */
} Qcow2Dirty;

typedef struct Qcow2 {
    struct tidemark_node *node; /* the host's */
    uint64_t size;              /* atomic: the header's; what get_info may ask at any time */
    Qcow2Header header;         /* changes with the node drained, or under commit_lock */
    bool opened, writable;
    bool corrupt; /* atomic: it was found out, nothing is written any more */
    bool discard_no_unref;
    bool pass_discard[2]; /* by Qcow2FreedBy */
    uint64_t cluster;     /* bytes */
    uint64_t subcluster;  /* bytes; a cluster without extended L2 entries */
    unsigned entry_bytes; /* of an L2 entry */
    unsigned l2_bits;     /* log2 of the entries of an L2 table */
    uint32_t data_child;  /* where data clusters are */

    pthread_mutex_t tables_lock; /* guards the next */
    uint64_t *l1;                /* host-endian entries with COPIED, checked */
    uint32_t l1_size;            /* entries that the size takes */
    Qcow2Dirty l1_dirty;
    Qcow2Table **tables; /* by L1 index: those that are in memory */
    GQueue used;         /* of those, the last used first */
    GQueue loads;        /* tables that are being read */
    uint64_t tables_bytes, tables_max;
    GHashTable *metadata; /* numbers of host clusters -> Qcow2Metadata; NULL: not writable */
    bool barrier;         /* entries were set that rest on data not yet synced */

    pthread_mutex_t alloc_lock; /* guards the next; see above */
    uint64_t *reftable;         /* host-endian offsets of refcount blocks, checked */
    uint64_t reftable_entries;
    uint64_t reftable_offset; /* where it is to be; the header says where it is */
    uint32_t reftable_clusters;
    Qcow2Dirty reftable_dirty;
    bool reftable_moved;         /* it is new as a whole: the header is to say where */
    uint64_t reftable_in_header; /* where the header says, or may say, that it is if it moved */
    GHashTable *blocks;          /* index -> Qcow2Block: those that are in memory */
    uint64_t blocks_max;         /* how many of them, when clean */
    uint64_t free_hint;          /* no cluster before this one is free */
    uint64_t touched; /* bytes, atomic, raised under the lock: from here on nothing was ever
                               written to the file, and by the refcounts nothing is in use */
    uint64_t l1_reserved, reftable_reserved; /* qcow2_reserve_part() */
    uint64_t packed;  /* where the next compressed cluster may go; 0: nowhere begun */
    GArray *freed;    /* Qcow2Freed: not yet committed */
    uint64_t n_freed; /* clusters therein */
    GArray *retired;  /* Qcow2Freed: free, but a client may be reading what was there */
    bool closing;     /* nobody is any more */
    GQueue claims;
    pthread_cond_t unclaimed;

    pthread_mutex_t commit_lock;
    uint64_t commits, committed; /* atomic: number of the last one begun, of the last that worked */
    bool failing;                /* atomic: the last one did not work */
    bool header_in_doubt;        /* what it says on the medium; under commit_lock, or drained */
    bool dirty;     /* atomic: there is something to commit, or a commit is under way */
    bool redirtied; /* since the commit under way began; under alloc_lock or tables_lock */

    pthread_mutex_t inflated_lock; /* guards the next */
    uint64_t inflated_at;          /* host descriptor of what is in there; 0: nothing */
    uint8_t *inflated;             /* a cluster, or NULL */
} Qcow2;

/* ---- header.c, header_write.c */

/* Reads and checks it; -errno, and then the host has the reason. */
int qcow2_header_read(struct tidemark_node *node, Qcow2Header *header);
/* The same of a file that no image is opened on; *why is returned (g_free), or NULL. */
int qcow2_header_load(BlkNode *file, Qcow2Header *header, char **why);
/* The same, but the image may lack a refcount table, which a repair makes anew. */
int qcow2_header_load_to_check(BlkNode *file, Qcow2Header *header, char **why);
/* Why an image with a file of that size can't be opened: it lacks its tables. Returned (g_free);
 * NULL: it has them. A check and a description do without. */
char *qcow2_header_cut(const Qcow2Header *header, uint64_t file_size);
void qcow2_header_clear(Qcow2Header *header);
/* Writes what has changed of the fields (not the names) and the bitmaps extension, and syncs: each
 * step leaves a header that holds. Drained, or under commit_lock. */
int qcow2_header_write(Qcow2 *q);

/* ---- child.c */

/* Something in the image can't be: it is marked corrupt, and nothing is written to it any more.
 * Returns -EIO. Blocking lane, not under tables_lock. */
int qcow2_corrupt(Qcow2 *q, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Reads what may lie beyond the end of a file, which ends before its last cluster does. */
int qcow2_read_child(Qcow2 *q, uint32_t child, void *buf, uint64_t offset, uint64_t length);
/* Whether what is unallocated at [offset, offset + length) reads as zeroes: there is no backing, or
 * it ends before. */
bool qcow2_backing_is_zero(Qcow2 *q, uint64_t offset, uint64_t length);
/* Space for clusters that are free and to be taken without asking: the file reaches them. Under
 * alloc_lock. */
int qcow2_make_room(Qcow2 *q, uint64_t offset, uint64_t clusters);
/* Once for metadata that there is: parts of it may be holes. Takes no lock. */
int qcow2_reserve_once(Qcow2 *q, bool *reserved, uint64_t offset, uint64_t length);
/* The same for what is around byte @at of a table of @bytes at @offset, which may be long: *part is
 * the last part that it was done for, plus 1. */
int qcow2_reserve_part(Qcow2 *q, uint64_t *part, uint64_t offset, uint64_t bytes, uint64_t at);
/* Makes a child at least that big. What can't grow is full: -ENOSPC. Takes no lock. */
int qcow2_grow(Qcow2 *q, uint32_t child, uint64_t size);
/* Data is written up to there, whatever the refcounts say. Takes alloc_lock, if need be. */
void qcow2_touch(Qcow2 *q, uint64_t end);
/* Whether the refcounts, or what the file may have lost, reach there. Takes no lock. */
bool qcow2_reaches(const Qcow2 *q, uint64_t offset);
void qcow2_raise_touched(Qcow2 *q, uint64_t end); /* under alloc_lock */
/* The image's file reaches there, and further, so that it grows rarely. */
int qcow2_make_reach(Qcow2 *q, uint64_t end);

/* There is something to commit. */
static inline void qcow2_dirty(Qcow2 *q)
{
    __atomic_store_n(&q->redirtied, true, __ATOMIC_RELAXED);
    __atomic_store_n(&q->dirty, true, __ATOMIC_RELEASE);
}

/* ---- lookup.c */

typedef enum { QCOW2_UNALLOCATED, QCOW2_ZERO, QCOW2_DATA, QCOW2_COMPRESSED } Qcow2Kind;

/* What a range of the disk is. */
typedef struct Qcow2Run {
    Qcow2Kind kind;
    uint64_t length; /* how far that holds, at most as asked */
    uint64_t host;   /* occupied: offset in the data file; COMPRESSED: its cluster's descriptor */
    bool occupied;   /* takes space in the image; others than DATA: it was preallocated */
    bool own;        /* occupied, and nobody else refers to it: may be written in place */
} Qcow2Run;

#define QCOW2_LOAD      1u /* read the table if it is not in memory */
#define QCOW2_FOR_WRITE 2u /* a run has one value of own and, where occupied, is in one piece */

/* -EAGAIN: without QCOW2_LOAD, if the table is not in memory; -EIO: what it says can't be. */
int qcow2_lookup(Qcow2 *q, uint64_t offset, uint64_t length, unsigned flags, Qcow2Run *run);

/* ---- tables.c */

int qcow2_tables_open(Qcow2 *q); /* reads L1; on failure the host has the reason */
void qcow2_tables_close(Qcow2 *q);
/* Bytes of the disk that one L2 table maps. */
static inline uint64_t qcow2_covered(const Qcow2 *q)
{
    return q->cluster << q->l2_bits;
}
/* Reads the table of @offset if it is not in memory; it may be gone again: look. No lock held. */
int qcow2_table_load(Qcow2 *q, uint64_t offset);
/* false: there is none. *entries: host-endian words; NULL: it is not in memory. Under
 * tables_lock. */
bool qcow2_table_find(Qcow2 *q, uint64_t offset, const uint64_t **entries);

/* The table of @offset, made or copied if need be so that its entries may be set, and kept in
 * memory until qcow2_table_unpin(). Blocking lane, no lock held. */
int qcow2_table_pin(Qcow2 *q, uint64_t offset, Qcow2Table **table);
void qcow2_table_unpin(Qcow2 *q, Qcow2Table *table);
/* Its entries, host-endian, one or two words each; under tables_lock; who sets some says so. */
uint64_t *qcow2_table_entry(Qcow2 *q, Qcow2Table *table, uint64_t offset);
void qcow2_table_changed(Qcow2 *q, Qcow2Table *table, uint64_t offset, uint64_t clusters);
/* Whether there is a table for @offset. */
bool qcow2_table_exists(Qcow2 *q, uint64_t offset);
/* Takes the table of @offset, if there is one, out of L1: it is to be freed, and so is what its
 * entries refer to, which are a copy (g_free), or NULL. Drained. */
int qcow2_table_drop(Qcow2 *q, uint64_t offset, uint64_t **entries);
/* A longer or shorter L1 in memory; a longer one with what L1 on the medium has there. Drained. */
int qcow2_tables_resize(Qcow2 *q, uint64_t size);

/* ---- refcounts.c: under alloc_lock but for open and close */

#define QCOW2_OFFSET_END (UINT64_C(1) << 56) /* no cluster is at or beyond this */

int qcow2_refcounts_open(Qcow2 *q); /* reads the table; on failure the host has the reason */
void qcow2_refcounts_close(Qcow2 *q);
static inline uint64_t qcow2_per_block(const Qcow2 *q) /* counts */
{
    return q->cluster * 8 >> q->header.refcount_order;
}
static inline uint64_t qcow2_count_max(const Qcow2 *q)
{
    unsigned bits = 1u << q->header.refcount_order;

    return bits == 64 ? UINT64_MAX : (UINT64_C(1) << bits) - 1;
}
/* The block @index, which counts qcow2_per_block() clusters; *block is NULL where there is none:
 * its counts are all 0. Valid until the next call that may need another. */
int qcow2_block_get(Qcow2 *q, uint64_t index, Qcow2Block **block);
uint64_t qcow2_count_get(const Qcow2 *q, const Qcow2Block *block, uint64_t i);
void qcow2_count_set(Qcow2 *q, Qcow2Block *block, uint64_t i, uint64_t count);
/* Of the cluster with that number. */
int qcow2_count_of(Qcow2 *q, uint64_t cluster, uint64_t *count);
/* Space for what the block has to say of more clusters: before a count goes up in it. */
int qcow2_block_reserve(Qcow2 *q, Qcow2Block *block);
/* A block for counts that had none, at @cluster, which is free: in a block that there is, or one
 * that the new one counts itself. */
int qcow2_block_add(Qcow2 *q, uint64_t index, uint64_t cluster);
/* A table with room for @index. */
int qcow2_reftable_grow(Qcow2 *q, uint64_t index);

/* ---- clusters.c: under alloc_lock but for those that say so */

/* @clusters in one piece, with refcount 1; *fresh: they read as zeroes, as nothing was ever written
 * there. The file is as long as it takes. Takes alloc_lock. */
int qcow2_alloc(Qcow2 *q, uint64_t clusters, uint64_t *offset, bool *fresh);
int qcow2_alloc_locked(Qcow2 *q, uint64_t clusters, uint64_t *offset, bool *fresh);
/* One cluster for metadata, whose space is there whatever else fills the medium. */
int qcow2_alloc_metadata(Qcow2 *q, uint64_t *offset);
/* @bytes for a compressed cluster, in clusters that others like it may share. Takes alloc_lock. */
int qcow2_alloc_bytes(Qcow2 *q, uint64_t bytes, uint64_t *offset);
/* Clusters of data lose a reference once what was changed before is committed. Takes alloc_lock. */
void qcow2_free(Qcow2 *q, uint64_t offset, uint64_t clusters, Qcow2FreedBy by);
/* A cluster of bitmaps does, if it has any and is of no table. Takes alloc_lock. */
void qcow2_free_bitmap(Qcow2 *q, uint64_t offset);
/* Whatever they are of. Under alloc_lock. */
void qcow2_free_locked(Qcow2 *q, uint64_t offset, uint64_t clusters, Qcow2FreedBy by);
/* The same at once, for what nothing has ever referred to. Takes alloc_lock. */
void qcow2_unalloc(Qcow2 *q, uint64_t offset, uint64_t clusters);
/* After a commit: those references go. Takes alloc_lock. */
void qcow2_let_go(Qcow2 *q, const GArray *freed);
/* What was not let go because of clients may be now: they are gone. Takes alloc_lock. */
void qcow2_free_retired(Qcow2 *q);
/* The end of what is in use, by the refcounts, but for what is before @from: what follows may be
 * cut off. Takes alloc_lock. */
int qcow2_used_end(Qcow2 *q, uint64_t from, uint64_t *end);

/* ---- metadata.c: which host clusters hold metadata, so that nothing else comes there */

typedef enum { QCOW2_OF_TABLES = 1, QCOW2_OF_BITMAPS } Qcow2Metadata;

/* Begins with what the header names; on failure the host has the reason. */
int qcow2_metadata_open(Qcow2 *q);
/* false: one of them is already. Takes tables_lock; the other one is called under it. */
bool qcow2_metadata_add(Qcow2 *q, uint64_t offset, uint64_t clusters, Qcow2Metadata kind);
bool qcow2_metadata_add_locked(Qcow2 *q, uint64_t offset, Qcow2Metadata kind);
/* The cluster is free. Takes tables_lock. */
void qcow2_metadata_remove(Qcow2 *q, uint64_t offset);
/* Under tables_lock. */
bool qcow2_is_metadata(const Qcow2 *q, uint64_t offset);
/* Whether any of them is, @of_tables: but for that of bitmaps. Takes tables_lock. */
bool qcow2_has_metadata(Qcow2 *q, uint64_t offset, uint64_t clusters, bool of_tables);
/* -EIO: some of these, by their numbers, are, although their counts are 0. Under alloc_lock. */
int qcow2_check_free(Qcow2 *q, uint64_t first, uint64_t clusters);

/* ---- commit.c */

/* Puts everything on the medium, in order (Q1, Q2). No lock held. */
int qcow2_commit(Qcow2 *q);

/* What a commit writes at one step. */
typedef struct Qcow2Piece {
    uint64_t offset;
    uint32_t length;
    uint8_t *bytes; /* owned */
} Qcow2Piece;
typedef struct Qcow2Pieces {
    GArray *fresh;     /* nothing on the medium refers to this yet */
    GArray *anchors;   /* of the refcount structures: what refers to fresh ones */
    GArray *entries;   /* what refers to clusters: L1, L2 */
    GPtrArray *tables; /* Qcow2Table, pinned: what is taken of each is in its taken */
    GPtrArray *blocks;
    bool barrier, reftable_moved;
    bool entries_begun; /* entries were begun: the medium may refer to what was fresh */
    uint64_t reftable_offset;
    uint32_t reftable_clusters;
    Qcow2Dirty l1_taken, reftable_taken;
} Qcow2Pieces;

/* Take what is dirty, and put it back if it could not be written. Under the locks of each. */
int qcow2_tables_take(Qcow2 *q, Qcow2Pieces *pieces);
void qcow2_tables_done(Qcow2 *q, Qcow2Pieces *pieces, bool written);
int qcow2_refcounts_take(Qcow2 *q, Qcow2Pieces *pieces);
void qcow2_refcounts_done(Qcow2 *q, Qcow2Pieces *pieces, bool written);

static inline void qcow2_dirty_add(Qcow2Dirty *d, uint64_t from, uint64_t to)
{
    if (d->from >= d->to)
        *d = (Qcow2Dirty){ (uint32_t)from, (uint32_t)to };
    d->from = (uint32_t)MIN(d->from, from);
    d->to = (uint32_t)MAX(d->to, to);
}

/* ---- read.c, write.c, zero.c, resize.c: callbacks of the driver */
int qcow2_map(void *handle, uint64_t offset, uint64_t length, uint32_t purpose,
              struct tidemark_mapping *m);
int qcow2_pwrite(void *handle, const void *buf, uint64_t offset, uint64_t length, uint32_t flags);
int qcow2_write_zeroes(void *handle, uint64_t offset, uint64_t length, uint32_t flags);
int qcow2_discard(void *handle, uint64_t offset, uint64_t length);
int qcow2_resize(void *handle, uint64_t size);
int qcow2_pread(void *handle, void *buf, uint64_t offset, uint64_t length, uint32_t flags);

/* What an entry refers to is not referred to by it any more. Takes alloc_lock. */
void qcow2_free_entry(Qcow2 *q, uint64_t word, Qcow2FreedBy by);

/* ---- inflate.c, deflate.c */

/* Where the bytes of a compressed cluster are; *length up to the end of a sector. */
static inline void qcow2_compressed_place(const Qcow2 *q, uint64_t descriptor, uint64_t *offset,
                                          uint64_t *length)
{
    unsigned x = 62 - (q->header.cluster_bits - 8); /* bits of the offset */

    descriptor &= ~(QCOW2_COPIED | QCOW2_COMPRESSED_FLAG);
    *offset = descriptor & ((UINT64_C(1) << x) - 1);
    *length = ((descriptor >> x) + 1) * QCOW2_SECTOR - *offset % QCOW2_SECTOR;
}
/* @length bytes at @within a compressed cluster. */
int qcow2_inflate(Qcow2 *q, uint64_t descriptor, void *buf, uint64_t within, uint64_t length);
void qcow2_inflate_close(Qcow2 *q);
/* A whole cluster; what does not get smaller is written as it is. The range is held exclusively. */
int qcow2_write_compressed(Qcow2 *q, const uint8_t *buf, uint64_t offset, uint64_t length);
