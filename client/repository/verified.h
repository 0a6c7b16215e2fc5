/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/verified.h: what the last `tidemark verify` found of a point.
 *
 * Threads: one at a time. */
#pragma once
#include "client/repository/repository.h"

typedef struct TcVerified {
    uint64_t time;    /* ns since 1970 */
    bool whole;       /* every block of every disk was read, and is as it was written */
    GPtrArray *found; /* char *: what is wrong, or needs a look; NULL: nothing */
} TcVerified;

void tc_verified_clear(TcVerified *verified);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(TcVerified, tc_verified_clear)
/* false: it never was, or not as @point is now. */
bool tc_verified_read(const TcRepository *repo, const TcManifest *point, TcVerified *verified);
bool tc_verified_write(const TcRepository *repo, const TcManifest *point,
                       const TcVerified *verified, GError **error);
