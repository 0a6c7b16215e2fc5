/* block/drivers/qcow2/qcow2.h: what the files of the qcow2 driver share.
 *
 * Source: QEMU docs/interop/qcow2.txt ("the specification" below). All of an image is big-endian,
 * and nothing of it is trusted: header.c checks the header before anything is made of it, tables.c
 * each entry of a table before it is used.
 *
 * So far images are read, not written.
 *
 * Threads: a Qcow2 is constant once open, but for the caches of tables.c and compressed.c, which
 * have locks of their own (leaves). */
#pragma once
#include "block/drivers/drivers.h"
#include "block/registry.h"

#include <glib.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

/* The children, in the order of the driver's roles. */
enum { QCOW2_FILE, QCOW2_BACKING, QCOW2_DATA_FILE };

#define QCOW2_CLUSTER_BITS_MIN 9u
#define QCOW2_CLUSTER_BITS_MAX 21u
#define QCOW2_L1_MAX           (UINT64_C(32) << 20) /* bytes of the L1 table, as QEMU bounds it */
#define QCOW2_SUBCLUSTERS      32u

typedef enum { QCOW2_ZLIB, QCOW2_ZSTD } Qcow2Compression;

/* The header, checked. */
typedef struct Qcow2Header {
    uint32_t version, cluster_bits, l1_size, compression;
    uint64_t size, l1_offset;
    uint64_t incompatible;
    bool extended_l2, external_data, data_raw;
    char *backing, *backing_format; /* as the image names them, or NULL */
} Qcow2Header;

typedef struct Qcow2Table Qcow2Table;
typedef struct Qcow2 {
    struct tidemark_node *node; /* the host's */
    Qcow2Header header;
    uint64_t cluster;     /* bytes */
    uint64_t subcluster;  /* bytes; a cluster without extended L2 entries */
    unsigned entry_bytes; /* of an L2 entry */
    unsigned l2_bits;     /* log2 of the entries of an L2 table */
    uint32_t data_child;  /* where data clusters are */
    uint64_t *l1;         /* host-endian offsets of L2 tables, checked; 0: none */
    uint32_t l1_size;     /* entries that the size takes */

    pthread_mutex_t tables_lock; /* guards the next */
    Qcow2Table **tables;         /* by L1 index: those that are in memory */
    GQueue used;                 /* of those, the last used first */
    uint64_t tables_bytes, tables_max;

    pthread_mutex_t inflated_lock; /* guards the next */
    uint64_t inflated_at;          /* host descriptor of what is in there; 0: nothing */
    uint8_t *inflated;             /* a cluster, or NULL */
} Qcow2;

/* header.c: reads and checks it; -errno, and then the host has been told why. */
int qcow2_header_read(struct tidemark_node *node, Qcow2Header *header);
void qcow2_header_clear(Qcow2Header *header);

typedef enum { QCOW2_UNALLOCATED, QCOW2_ZERO, QCOW2_DATA, QCOW2_COMPRESSED } Qcow2Kind;

/* What a range of the disk is. */
typedef struct Qcow2Run {
    Qcow2Kind kind;
    uint64_t length; /* how far that holds, at most as asked */
    uint64_t host;   /* DATA: offset in the data file; COMPRESSED: the descriptor of its cluster */
    bool occupied;   /* takes space in the image; ZERO: it was preallocated */
} Qcow2Run;

/* tables.c */
int qcow2_tables_open(Qcow2 *q); /* reads L1; the host has been told why not */
void qcow2_tables_close(Qcow2 *q);
/* -EAGAIN: @load is false and the table is not in memory; -EIO: what it says can't be. */
int qcow2_lookup(Qcow2 *q, uint64_t offset, uint64_t length, bool load, Qcow2Run *run);

/* compressed.c: @length bytes at @within a compressed cluster. */
int qcow2_inflate(Qcow2 *q, uint64_t descriptor, void *buf, uint64_t within, uint64_t length);
void qcow2_inflate_close(Qcow2 *q);

/* Reads what may lie behind the end of a file, which ends before its last cluster does. */
int qcow2_read_child(Qcow2 *q, uint32_t child, void *buf, uint64_t offset, uint64_t length);
