/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp/qmp_internal.h: what the files of qmp/ share. Main thread. */
#pragma once
#include "block/export/export.h"
#include "block/image/overlay.h"
#include "block/jobs/backup.h"
#include "block/snapshot.h"
#include "qmp/chardev/chardev.h"
#include "qmp/context.h"

/* ---- args.c: arguments of shapes that several commands take */

/* An array of bitmaps, each a name or {node, name}: returned (g_free), its strings borrowed from
 * @args. Absent: NULL and *n 0. */
BlkBitmapName *qmp_arg_bitmaps(json_object *args, const char *name, size_t *n);
/* The same from the array itself; NULL: absent. */
BlkBitmapName *qmp_bitmap_names(json_object *array, size_t *n);
/* An array of strings: returned (g_free), NULL-terminated, the strings borrowed from @args. Absent:
 * NULL and *n 0. */
const char **qmp_arg_strings(json_object *args, const char *name, size_t *n);

/* A checked SocketAddressLegacy with, for unix, the rights of the socket's file. Strings are
 * borrowed from @addr. */
bool qmp_arg_address(QmpContext *ctx, json_object *addr, TmAddress *address, GError **error);

/* ---- transaction.c: actions that happen all at one instant, or not at all
 *
 * A command on bitmaps is a transaction of one action, so that there is one implementation of
 * each. */

/* @actions: [{"type": ..., "data": {...}}], checked. @grouped: as completion-mode says. */
bool qmp_transaction_run(QmpContext *ctx, json_object *actions, bool grouped, GError **error);
/* The same with one action, @type, whose data are @data (borrowed). */
bool qmp_transaction_run_one(QmpContext *ctx, const char *type, json_object *data, GError **error);

/* Arguments that commands and actions have in common. */
extern const QmpType qmp_type_bitmap_merge, qmp_type_blockdev_backup;

/* ---- backup.c: blockdev-backup */

/* blk_backup_new() with the arguments of the command, checked. */
BlkJob *qmp_backup_new(QmpContext *ctx, BlkBitmapChanges *changes, BlkJobTxn *txn,
                       json_object *args, GError **error);

/* ---- snapshot.c: the nodes of a snapshot */

typedef struct QmpSnapshot {
    BlkNode *node, *overlay; /* references */
    BlkOverlay *made;        /* what the overlay was made with; or NULL */
    BlkSnapshot *taken;      /* NULL: it was not, or taken back */
    bool inactivated;        /* the overlay was active before */
    GError *refused;         /* by the first check: what will read otherwise is not dirty */
} QmpSnapshot;

/* With the nodes that the arguments of blockdev-snapshot name. */
QmpSnapshot *qmp_snapshot_find(QmpContext *ctx, json_object *args, GError **error);
/* As those of blockdev-snapshot-sync say: the overlay is made, and opened. */
QmpSnapshot *qmp_snapshot_make(QmpContext *ctx, json_object *args, GError **error);
/* As in QEMU, where a machine is stopped while its image goes elsewhere: if the node is inactive,
 * so is the overlay. */
bool qmp_snapshot_inactivate(QmpSnapshot *snapshot, GError **error);
/* Keeps what was taken, else removes what was made, or makes the overlay active again. Not within a
 * hold. */
void qmp_snapshot_free(void *snapshot);

extern const QmpType qmp_type_snapshot, qmp_type_snapshot_sync;

/* ---- session.c: one client of a monitor */

typedef struct QmpSession QmpSession;

typedef struct QmpSessionOptions {
    QmpConnection connection;
    bool pretty;
    unsigned negotiate_ms; /* 0: the client may take any time; else it has that, and few bytes */
    /* The client is gone: the session may be freed within; it is not used afterwards. */
    void (*ended)(void *owner, QmpSession *session);
    void (*sent)(void *owner, const char *text, size_t length); /* is to be sent; or NULL */
    void *owner;                                                /* of ended and sent */
} QmpSessionOptions;

/* Greets the client. */
QmpSession *qmp_session_new(QmpContext *ctx, const QmpSessionOptions *options);
const QmpConnection *qmp_session_connection(const QmpSession *session);
void qmp_session_free(QmpSession *session); /* NULL is fine */
/* Sends what waits, until g_get_monotonic_time() is @until at most. */
void qmp_session_flush(QmpSession *session, gint64 until);
