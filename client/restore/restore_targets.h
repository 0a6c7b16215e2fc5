/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/restore/restore_targets.h: which disk of a point goes where. Threads: main. */
#pragma once
#include "client/repository/manifest.h"

typedef struct TcRestoreTarget {
    const TcPointDisk *disk; /* borrowed from the manifest */
    char *name;              /* a path or an NBD URI */
} TcRestoreTarget;

/* @words: a target for each disk in order, NAME=TARGET, or one directory. @disks: the names of
 * those to restore; none: all, or those that the words name. @format decides the names of files in
 * a directory. TcRestoreTarget, returned. */
GPtrArray *tc_restore_targets(const TcManifest *point, const char *const *words,
                              const GPtrArray *disks, const char *format, GError **error);
