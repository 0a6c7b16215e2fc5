/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/against.h: a disk of a point is compared with another disk: with what an NBD
 * server has, or with an image file.
 *
 * Threads: one at a time, but for what says otherwise. */
#pragma once
#include "client/repository/hashes.h"
#include "client/repository/point_reader.h"

typedef struct TcAgainst TcAgainst;

/* @repo is borrowed, open to READ. */
TcAgainst *tc_against_new(TcRepository *repo, const TcManifest *point, const char *disk,
                          GError **error);
void tc_against_free(TcAgainst *against);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TcAgainst, tc_against_free)
/* Compares all of it. Differences and damage are no failure; another size is. false without an
 * error: it was stopped. */
bool tc_against_nbd(TcAgainst *against, const char *uri, GError **error);
bool tc_against_file(TcAgainst *against, const char *path, GError **error);

/* Any thread, meanwhile. */
void tc_against_stop(TcAgainst *against);
uint64_t tc_against_done(const TcAgainst *against);
uint64_t tc_against_size(const TcAgainst *against);

/* What differs, in order and apart: TcRun; of TC_RUN_NONE where the point can't be read. Borrowed.
 * *more: there were too many to keep them all. */
const GArray *tc_against_found(TcAgainst *against, bool *more);
