/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/new_point.h: a point that is being written.
 *
 * Invariant: until tc_new_point_commit() has renamed the manifest, which is after everything else
 * is durable, the point is not there; whatever ends the program before leaves debris that the next
 * opening removes. Threads: main, but for tc_new_disk_write(). */
#pragma once
#include "client/copy/sink.h"
#include "client/repository/hashes.h"
#include "client/repository/repository.h"

typedef struct TcNewPoint TcNewPoint;
typedef struct TcNewDisk TcNewDisk;

/* @repo is open to ADD, borrowed, and outlives the point. Fails if there is a point @name. */
TcNewPoint *tc_new_point(TcRepository *repo, const char *name, GError **error);
/* It is to be the same point as @manifest, of another repository. */
void tc_new_point_like(TcNewPoint *point, const TcManifest *manifest);
/* Adds a disk: @disk says name, size, parent, why, compression and source, and is taken; @runs,
 * taken too, what will be written. Of a disk with a parent, its runs of zeroes are written here.
 * Borrowed result. */
TcNewDisk *tc_new_point_add(TcNewPoint *point, TcPointDisk *disk, TcRuns *runs, GError **error);
/* The data of whole blocks, in runs of data, each once: hashes them, leaves out those of zeroes,
 * compresses, and writes. 0 or -errno. Threads: any, several at once. */
int tc_new_disk_write(TcNewDisk *disk, uint64_t offset, const void *buf, size_t length);
/* The same as a sink; zero() is for pieces that were found to be zeroes. Borrowed. */
TcSink *tc_new_disk_sink(TcNewDisk *disk);
/* What it is about: counts (stored, zero) are right at any time. Borrowed. */
const TcPointDisk *tc_new_disk_entry(const TcNewDisk *disk);

/* Makes everything durable, then the point. Every block of the runs of data has been written. */
bool tc_new_point_commit(TcNewPoint *point, uint64_t instant, GError **error);
/* Without a commit: removes what was written. */
void tc_new_point_free(TcNewPoint *point);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TcNewPoint, tc_new_point_free)
