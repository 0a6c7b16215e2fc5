/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* bitmap/store/part_internal.h: one store's part in a commit, in the order in which a commit takes
 * the steps (bitmap/store/commit.c). Of the functions none takes a lock: the caller holds the
 * store's `ticking`, within a change. bool: true or *error; int: 0 or -errno. */
#pragma once
#include "bitmap/store/store_internal.h"

/* One store's part in a commit. */
typedef struct BmpPart {
    BmpStore *store;
    BmpStoreState state;
    const char *leader; /* NULL: alone, or the leader */
    bool grouped;
    BmpRecord *records;
    size_t n;
    BmpSuper next;
    BmpGeometry geometry;
    bool new_journal;  /* a table is written */
    bool open_journal; /* it, or the one that is there, is mapped */
    bool new_catalogue;
    bool unsynced;  /* what was written is not on the medium yet */
    int synced;     /* how the last bmp_parts_sync() went with it: 0 or -errno */
    bool create;    /* the file is written anew */
    bool vanish;    /* there is nothing left to keep */
    bool published; /* a file that was created has its name */
    bool unsaid;    /* and says that it doesn't count */
    bool lost;      /* a sync of the store's own file has failed */
    int fd;         /* where it is written */
    uint64_t old_size;
} BmpPart;

/* What the set has now, into a part whose store, state and group are set. */
void bmp_part_collect(BmpPart *part);
void bmp_part_clear(BmpPart *part);

/* ---- the first phase: nothing names what is written */

/* The new state is written. On failure nothing is left of it. */
bool bmp_part_prepare(BmpPart *part, GError **error);
/* What was written is on the medium, of all parts, which are synced at the same time. false: some
 * is not, and *error is of the first. */
bool bmp_parts_sync(BmpPart *parts, size_t n, GError **error);
/* The journal of the new state; NULL and *err where it can't be had. */
BmpJournal *bmp_part_open_journal(BmpPart *part, int *err);
/* Takes back what was prepared, with the file if it was new. */
void bmp_part_discard(BmpPart *part);

/* ---- the second phase: superblocks */

void bmp_part_random_bytes(uint8_t bytes[16]);
/* The superblock says what is, not what a leader decides. */
void bmp_part_not_pending(BmpSuper *super);
/* One copy, to be synced; and with the sync. */
int bmp_part_put_copy(BmpPart *part, unsigned copy, const BmpSuper *super);
int bmp_part_write_copy(BmpPart *part, unsigned copy, const BmpSuper *super);
/* Both, @first first, each with the sync. */
int bmp_part_write_copies(BmpPart *part, unsigned first, const BmpSuper *super);
/* A file that was written anew gets its name. */
int bmp_part_publish_new(BmpPart *part, GError **error);
/* The state of before is in force again; where that can't be said the store has failed. */
void bmp_part_undo_supers(BmpPart *part, int err);
/* The same of a new file that has its name. Whether that is on the medium. */
bool bmp_part_unsay(BmpPart *part);
/* The new state is in force: the store and its set go on with it. */
void bmp_part_settle(BmpPart *part, BmpJournal *journal);
