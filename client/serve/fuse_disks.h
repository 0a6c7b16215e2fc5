/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/serve/fuse_disks.h: disks of a point as files in a directory, through FUSE.
 *
 * Every block that is read is checked against its hash: one that does not have it is EIO, and a
 * line on standard error. Threads: main; files are read by several at once. */
#pragma once
#include "client/repository/point_reader.h"

typedef struct TcFuseDisk {
    char *file; /* "disk0.img" */
    TcPointReader *reader;
} TcFuseDisk;

/* NULL, or why there can be no such directory. Static. */
const char *tc_fuse_missing(void);
/* Shows @disks (TcFuseDisk) in the directory @dir until a signal that ends a command comes, or
 * somebody unmounts it. @instant: the time of the files, ns since 1970. @ready is called when they
 * are there. */
bool tc_fuse_run(const char *dir, const GPtrArray *disks, uint64_t instant, const char *source,
                 void (*ready)(void *opaque), void *opaque, GError **error);
