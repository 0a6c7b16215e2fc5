/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/reopen_internal.h: what a reopening knows. Private to block/reopen*.c. */
#pragma once
#include "block/node_internal.h"

/* The index of the child "file" of drivers that have one. */
#define BLK_REOPEN_FILE 0u

/* One node that is opened anew. */
typedef struct BlkReopenEntry {
    BlkNode *node;       /* borrowed: the graph has it, and only this thread changes that */
    BlkOptions *options; /* the new ones; once exchanged, the old ones */
    bool other_backing;  /* "backing" changes, to: */
    BlkUser *backing;    /* NULL: none; once exchanged, what it was */
    BlkNode *file;   /* "file" changes, to: a reference; once exchanged, what it was; NULL: no */
    bool other_disk; /* which shows another disk */
    bool was_open;
    uint64_t size; /* when it was closed */
} BlkReopenEntry;

typedef struct BlkReopen {
    BlkGraph *graph;
    GPtrArray *entries; /* BlkReopenEntry */
    GPtrArray *held;    /* BlkNode, borrowed: those and all that stand on them, parents first */
    GPtrArray *still;   /* BlkNode, borrowed: those, and what they show or will show */
    GPtrArray *moved;   /* BlkNode, borrowed: whose data will be on another disk, or somebody
                         * else's to write: the bitmaps are closed, and opened anew */
    bool exchanged;     /* the nodes have the new options and children */
} BlkReopen;

/* ---- reopen.c */

void blk_reopen_begin(BlkReopen *r, BlkGraph *graph);
/* All entries or none. */
bool blk_reopen_run(BlkReopen *r, GError **error);
void blk_reopen_end(BlkReopen *r);

/* ---- reopen_check.c */

/* Makes the entries out of BlockdevOptions, and checks what can be said without touching a driver.
 * *error is QEMU's. */
bool blk_reopen_check(BlkReopen *r, json_object *list, GError **error);
/* Another entry: the node as it is, but with that option, a BOOL. */
void blk_reopen_add(BlkReopen *r, BlkNode *node, const char *option, bool value);
/* That nobody relies on writing to a node that is @read_only. */
bool blk_reopen_check_writers(const BlkReopen *r, BlkNode *node, bool read_only, GError **error);
/* Whether the node's options say so; of one that is not opened anew, whether it is. */
bool blk_reopen_read_only(const BlkReopen *r, const BlkNode *node);
/* NULL: it is not opened anew. */
BlkReopenEntry *blk_reopen_entry(const BlkReopen *r, const BlkNode *node);
