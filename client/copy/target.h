/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/copy/target.h: the file or block device that a copy is written into.
 *
 * tc_target_examine() changes nothing. Opening locks the target as QEMU would (OFD locks on the
 * bytes that stand for permissions, see lock_target), so that a disk that QEMU, tidemarkd or
 * another copy has open is refused. A block device is opened exclusively, which fails if it is
 * mounted.
 * Threads: write and zero may be called by several at once on distinct ranges. */
#pragma once
#include "client/copy/origin.h"
#include "client/copy/sink.h"
#include "util/error.h"
#include "util/sys.h"
#include <inttypes.h>

typedef struct TcTarget TcTarget;

typedef struct TcTargetFacts {
    bool exists, is_block;
    uint64_t size;
    bool empty; /* a file in which nothing was written */
} TcTargetFacts;

/* What is at @path. Fails for what is neither a regular file nor a block device nor nothing. */
bool tc_target_examine(const char *path, TcTargetFacts *facts, GError **error);
/* Checks that a disk of @size can go there: for an incremental copy (@bitmap not NULL, its name)
 * it has to exist and to be as large; a device must be large enough. */
bool tc_target_check(const char *path, const TcTargetFacts *facts, uint64_t size,
                     const char *bitmap, GError **error);
/* Whether all of it will read as zeroes when it has been opened, so that holes need no work. */
bool tc_target_fresh(const TcTargetFacts *facts);

/* Creates or opens it; a file gets the @size, and remembers the @origin before that, or if that is
 * NULL, that it is no copy. @sys is borrowed and outlives the target. */
TcTarget *tc_target_open(const TmSys *sys, const char *path, const TcTargetFacts *facts,
                         uint64_t size, const TcOrigin *origin, GError **error);
/* A file remembers that from now on, durably. */
bool tc_target_remember(TcTarget *target, const TcOrigin *origin, GError **error);
/* 0 or -errno; all of the range or an error. */
int tc_target_write(TcTarget *target, uint64_t offset, const void *buf, size_t length);
/* Makes the range read as zeroes; @hole: deallocated where that is possible. */
int tc_target_zero(TcTarget *target, uint64_t offset, uint64_t length, bool hole);
TcSink *tc_target_sink(TcTarget *target); /* that does these two; borrowed */
/* Makes it durable, with the name of a file that was created. */
bool tc_target_sync(TcTarget *target, GError **error);
const char *tc_target_path(const TcTarget *target); /* borrowed */
void tc_target_free(TcTarget *target);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TcTarget, tc_target_free)
