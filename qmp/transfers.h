/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp/transfers.h: bitmaps that are on their way, in several commands: exported or imported a part
 * at a time. A client that goes away leaves one behind, so there are few: a new one takes the place
 * of the oldest. Main thread. */
#pragma once
#include "bitmap/copy.h"
#include <json-c/json.h>

typedef struct QmpTransfer {
    uint64_t id;
    char *node, *name; /* of the bitmap */
    json_object *args; /* of the first command: a reference */
    BmpCopy *copy;
    uint64_t at; /* the granule that comes next */
} QmpTransfer;

typedef struct QmpTransfers QmpTransfers;

QmpTransfers *qmp_transfers_new(void);
void qmp_transfers_free(QmpTransfers *transfers); /* NULL is fine */

/* A new one, borrowed. The names and @args are borrowed, @copy is taken. */
QmpTransfer *qmp_transfers_add(QmpTransfers *transfers, const char *node, const char *name,
                               json_object *args, BmpCopy *copy);
/* The one with that id, of that bitmap; borrowed. Errors: there is none, or no longer. */
QmpTransfer *qmp_transfers_find(QmpTransfers *transfers, const char *node, const char *name,
                                uint64_t id, GError **error);
void qmp_transfers_end(QmpTransfers *transfers, QmpTransfer *transfer);
