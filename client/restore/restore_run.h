/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/restore/restore_run.h: carries one disk of a point to its place: several threads,
 * each with a lane, read blocks, which the reader checks, and write them.
 *
 * Invariant: what is not written is known to be the same: because the place was empty, was
 * read, or by its bitmap. Threads: new, begin, finish and free on the main thread; copy on one
 * other; cancel and progress on any. */
#pragma once
#include "client/copy/rate.h"
#include "client/repository/point_reader.h"
#include "client/restore/place.h"

typedef struct TcRestore TcRestore;

/* @reader and @place (which has begun) are borrowed. @before: what the place was when
 * its bitmap began, or NULL; borrowed. @rate may be NULL. @what names the disk in messages. */
TcRestore *tc_restore_new(TcPointReader *reader, TcPlace *place, TcPointReader *before,
                          TcRate *rate, const char *what);
/* To the place's end. False with @error, or without when it was cancelled. */
bool tc_restore_copy(TcRestore *restore, GError **error);
void tc_restore_cancel(TcRestore *restore);
/* What it is doing, and how far that is. A string that lasts. */
const char *tc_restore_progress(TcRestore *restore, uint64_t *done, uint64_t *total);
void tc_restore_free(TcRestore *restore);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TcRestore, tc_restore_free)
