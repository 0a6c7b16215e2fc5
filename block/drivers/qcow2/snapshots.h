/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/qcow2/snapshots.h: the table of an image's internal snapshots.
 *
 * Threads: any that may block. */
#pragma once
#include "block/drivers/qcow2/qcow2.h"

typedef struct Qcow2Snapshot {
    char *id, *name; /* UTF-8, whatever the image has */
    uint64_t l1_offset;
    uint32_t l1_size; /* entries */
    uint32_t date_seconds, date_nanoseconds;
    uint64_t vm_clock_nanoseconds;
    uint64_t vm_state_size; /* bytes, stored after the disk */
    uint64_t disk_size;     /* bytes; the image's where the table doesn't say */
    uint64_t icount;        /* UINT64_MAX: none */
    uint32_t extra_size;    /* bytes of the fields beyond the first ones */
} Qcow2Snapshot;

/* Reads the whole table: an array of Qcow2Snapshot (g_array_unref frees all of it), and its length
 * in *bytes. What the entries refer to is not read. @cut NULL: a table that extends beyond the end
 * of the image is an error. Else what is beyond reads as zeroes, as in QEMU, and *cut says that:
 * for what only shows the image. NULL and QEMU's message: it can't be read. */
GArray *qcow2_snapshots_read(BlkNode *file, const Qcow2Header *header, uint64_t *bytes, bool *cut,
                             GError **error);
/* The one of that id or, if there is none, of that name. NULL and QEMU's message. Borrowed. */
const Qcow2Snapshot *qcow2_snapshots_find(const GArray *list, const char *id_or_name,
                                          GError **error);
/* Whether its L1 table may be used: where it is, and that it holds its disk. */
bool qcow2_snapshot_check(const Qcow2Header *header, const Qcow2Snapshot *snapshot,
                          uint64_t file_size, GError **error);

/* Makes @header one of that snapshot's disk, which has no bitmaps. */
bool qcow2_snapshot_use(BlkNode *file, Qcow2Header *header, const char *id_or_name, GError **error);

/* Adds what is shown of an image to @image, which has its "filename": backing-filename, dirty-flag,
 * snapshots, format-specific. false: the snapshot table can't be, and the rest has been added.
 * describe.c */
bool qcow2_describe(BlkNode *file, const Qcow2Header *header, json_object *image, GError **error);

#define QCOW2_SNAPSHOT_DISK_SIZE_END 16u /* extra_size from which the entry has its disk size */
