/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/backup/qemu_instant.h: disks of a QEMU process as they are at one instant.
 *
 * Afterwards node TC_QEMU_POINT of each disk that can be written to shows it as it was, and bitmap
 * TC_QEMU_DISK of each has what was dirty. Two ways:
 *
 *   filter  A copy-before-write filter comes between the device and its disk, and a snapshot-access
 *           node shows the instant. A scratch that fails breaks the backup, not the guest. Needs
 *           QEMU 7.1, and that the device is the only user of the disk.
 *   job     A backup job that copies nothing by itself (sync=none) does the same within QEMU, into
 *           an image that is backed by the disk. Works with all graphs and versions, but a scratch
 *           that fails makes writes of the guest fail.
 *
 * Threads: one at a time. */
#pragma once
#include "client/backup/qemu_view.h"

typedef struct TcQemuInstant {
    TcQmp *qmp;
    const GPtrArray *disks;       /* TcQemuDisk */
    const GPtrArray *froms;       /* by disk: the bitmap of what is dirty, or NULL */
    const GPtrArray *checkpoints; /* by disk: the bitmap that begins, or NULL */
    const char *scratch;          /* directory; NULL: beside each image, else /var/tmp */
    GArray *files;   /* out: descriptors of the scratch files, to be closed by the caller */
    bool filters;    /* QEMU is new enough for them */
    const char *way; /* out: "filter" or "job", static */
} TcQemuInstant;

/* Where the scratch of a disk goes: @scratch if it is not NULL, else beside the image. Returned. */
char *tc_qemu_scratch_directory(const char *scratch, const TcQemuDisk *disk);

/* The way is the first that works. If none does, the checkpoint is not there; what else was set up
 * is left to tc_qemu_clean(). *time is ns since 1970. */
bool tc_qemu_instant(TcQemuInstant *plan, uint64_t *time, GError **error);
