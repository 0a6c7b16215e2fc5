/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/store/store_view.h: the store of a disk's persistent bitmaps (bitmap/store/store.h), seen
 * without a daemon: finding it, and telling people and programs what is in it.
 *
 * What is known is a JSON object, which --json prints as it is and the texts are made from:
 *
 *     store, disk       paths; disk may be null
 *     state             "none", "missing", "closed", "in-use", "killed", "crashed", "distrusted",
 *                       "of-the-past", "in-image" (a closed image has them itself), "unreadable"
 *                       (such an image can't be opened) or "damaged"; see tidemark-bitmap(1)
 *     durability        "power-loss" or "process-death"
 *     generation, size (of the disk), store-size
 *     bitmaps as the daemon reports them: name, granularity, count, recording, persistent,
 *                       and where it is so inconsistent, recovered, reason; size is the disk's
 *     problems          one line each
 *
 * Without a store (none, missing, in-image, unreadable) and where it is not known (damaged) numbers
 * are left out.
 * Threads: main. */
#pragma once
#include "client/daemon/qmp_client.h"
#include "client/table.h"
#include "util/sys.h"

typedef struct TcStorePlace {
    char *store, *disk; /* paths; disk may be NULL */
    bool exists;        /* the store */
    bool lost;          /* it doesn't, though the disk says that it has one */
    bool guessed;       /* taken for a store for its content: not to be written */
} TcStorePlace;

/* @file is an image, whose store stands beside it, or a store, if it is called so ("*.bitmaps") or
 * @disk (may be NULL) says what it is the store of. On failure *place is untouched. */
bool tc_store_find(const TmSys *sys, const char *file, const char *disk, TcStorePlace *place,
                   GError **error);
void tc_store_place_clear(TcStorePlace *place);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(TcStorePlace, tc_store_place_clear)

/* All that is known of it. Changes nothing. A new reference. */
json_object *tc_store_describe(const TmSys *sys, const TcStorePlace *place, GError **error);
/* Makes the safest usable state of it, as bmp_store_repair does; without bitmaps it is gone. */
bool tc_store_repair(const TmSys *sys, TcStorePlace *place, GError **error);

/* ---- in words: store_text.c */

/* Whether something is wrong, or a bitmap can't be used. */
bool tc_store_bad(json_object *store);
/* Keeps to the bitmap called @name. */
bool tc_store_only(json_object *store, const char *name, GError **error);

/* The head: which store, of which disk, how it stands. */
void tc_store_print_head(json_object *store, FILE *out);
TcTable *tc_store_table(json_object *store);
/* A line for each bitmap that has a reason for its state. */
void tc_store_print_reasons(json_object *store, FILE *out);
/* The problems, and what they mean for each bitmap that is touched. */
void tc_store_print_verdict(json_object *store, FILE *out, bool colors);
