/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/export/export_internal.h: what the files about exports share. Private to block/. */
#pragma once
#include "block/export/export.h"
#include "util/sync.h"

struct BlkExports {
    BlkGraph *graph; /* borrowed */
    TmObjects *objects;
    BlkServer server;
    GPtrArray *types;     /* BlkExportType, which live as long as this */
    pthread_mutex_t lock; /* guards the list, and selection and sessions of every export; a leaf */
    pthread_cond_t gone;  /* an export has been freed */
    GPtrArray *list;      /* BlkExport, borrowed: they take themselves out; every refs is > 0 */
    GHashTable *ids;      /* the same by their id */
    GHashTable *names;    /* name -> GPtrArray of them */
    GPtrArray *defaults;  /* those that are the default one of their servers */
    unsigned alive;       /* exports not yet freed, the listed ones among them */
};

struct BlkExport {
    int refs;                  /* atomic; drops to 0 only under the registry's lock */
    BlkExports *exports;       /* borrowed */
    const BlkExportType *type; /* the registry's */
    void *serving;             /* the type's; or NULL */
    char *id, *name, *description;
    BlkUser *user;
    bool writable, writethrough, allocation_depth, hidden, is_default, status_2016, release;
    char **servers; /* NULL: all */
    uint32_t max_connections;
    TmObject *allow[BLK_ACCESSES]; /* NULL: everybody */
    TmObject *iothread;            /* or NULL */
    json_object *given;            /* or NULL */
    unsigned dirty_flag_2016;
    char *bitmap_2016;
    bool shutting_down; /* atomic */
    bool orphaned;      /* no running server shows it; written by the main thread under the lock */
    bool waits;         /* shutting down, its clients may go on; the main thread's, as the next */
    int64_t cut_at;     /* monotonic us: till then; INT64_MAX: for ever */
    unsigned sessions;
    int64_t left_at;      /* monotonic us; under the lock */
    BlkCounts past;       /* of sessions that have ended */
    BlkCounters counters; /* of requests that no session counts */
    BlkSelection *selection;
    BlkContexts *contexts;
    int64_t last_error; /* atomic: monotonic seconds of the last BLOCK_IO_ERROR */
};

/* export.c. The type of that name, which can have exports; or NULL. */
const BlkExportType *blk_exports_type(const BlkExports *exports, const char *name);
/* At the end of the list. Under the lock. */
void blk_exports_enlist(BlkExports *exports, BlkExport *x);
/* Those of that name, or NULL; borrowed. Under the lock. */
const GPtrArray *blk_exports_named(const BlkExports *exports, const char *name);
/* Whether that server runs; @id NULL: any of them. */
bool blk_exports_running(const BlkExports *exports, const char *id);
/* Says so; false. */
bool blk_exports_not_running(const char *id, GError **error);
/* What an export that is in no list has. */
void blk_export_free(BlkExport *x);

/* selection.c: making the selection of bitmaps that an export offers. */

/* The bitmaps named, of @node and those whose content it shows, or of the nodes that the names
 * give: whatever size these have, what is beyond their end is clean. All or nothing; a reference.
 * @exclusive: one that is busy elsewhere is refused, as QEMU does. Errors: not found, busy,
 * inconsistent, named twice, enabled on an export that cannot write, unless its node was named.
 * Main thread. */
BlkSelection *blk_selection_make(BlkNode *node, bool writable, const BlkBitmapName *names, size_t n,
                                 bool exclusive, GError **error);
