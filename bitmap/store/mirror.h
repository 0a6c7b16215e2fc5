/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* bitmap/store/mirror.h: a store that a keeper has, as a file (inside bitmap/ only).
 *
 * The rest of the store works on a file, maps it and syncs it. Here that is a file in memory that
 * nobody else sees, and the keeper is its medium: what was changed is noted, and a sync hands it
 * over. So a loss of power, to such a store, is whatever ends the process.
 *
 * A file that is written anew (bmp_mirror_create) reaches the keeper as a whole, in one write, when
 * it replaces what was there.
 *
 * A sync that fails has lost what it was to hand over, as the kernel's do: the store has failed.
 *
 * Threads: any; a sync waits for the one before. */
#pragma once
#include "bitmap/store/keeper.h"
#include "util/sys.h"

typedef struct BmpMirror BmpMirror;

/* @sys: borrowed; @keeper: copied. */
BmpMirror *bmp_mirror_new(const TmSys *sys, const BmpKeeper *keeper);
void bmp_mirror_free(BmpMirror *mirror); /* NULL is fine; closes no file, asks the keeper nothing */

/* What the keeper has: *fd, the caller's; -1 if that is nothing. 0 or -errno. */
int bmp_mirror_open(BmpMirror *mirror, bool read_only, int *fd);
/* Whether somebody has it open for writing, from who reads. */
bool bmp_mirror_is_written(BmpMirror *mirror);
/* An empty file, which is nothing to the keeper yet. */
int bmp_mirror_create(BmpMirror *mirror, int *fd);
/* The file is what there is from now on; -1: there is nothing. 0 or -errno, and then it is unknown
 * whether that is so. */
int bmp_mirror_replace(BmpMirror *mirror, int fd);
/* The range was changed, before this call. */
void bmp_mirror_note(BmpMirror *mirror, int fd, uint64_t offset, uint64_t length);
/* What was noted is durable, if the file is the one that there is. 0 or -errno. */
int bmp_mirror_sync(BmpMirror *mirror, int fd);
void bmp_mirror_abandon(BmpMirror *mirror);

/* ---- of a file that may have a keeper: @mirror is NULL if it has none. As tm_write_all(),
 * tm_fdatasync(). */
int bmp_file_write(const TmSys *sys, BmpMirror *mirror, int fd, const void *data, uint64_t length,
                   uint64_t offset);
int bmp_file_sync(const TmSys *sys, BmpMirror *mirror, int fd);
