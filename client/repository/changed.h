/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/changed.h: which blocks of a disk have data at a point, or changed between two
 * points, from what the images of its chain store: their hashes are read, the images not.
 *
 * A block that an increment stores counts as changed, though it may have been written with what it
 * had. Threads: main. */
#pragma once
#include "client/repository/repository.h"

typedef struct TcChanged {
    uint64_t size; /* bytes of the disk at the point */
    GArray *runs;  /* TcChangedRun, in order; they may touch */
} TcChanged;

typedef struct TcChangedRun {
    uint64_t offset, length; /* bytes */
} TcChangedRun;

/* What has data at @point, or with @since (which @point stands on) what changed after that. @repo
 * is open to READ. Returned. Errors: @point has no such disk, or does not stand on @since; hashes
 * are damaged (TC_REPO_ERROR_DAMAGED). */
TcChanged *tc_changed_new(const TcRepository *repo, const TcManifest *point,
                          const TcManifest *since, const char *disk, GError **error);
void tc_changed_free(TcChanged *changed);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TcChanged, tc_changed_free)
