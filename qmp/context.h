/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp/context.h: what commands work on, and how one is run.
 *
 * One QmpContext for a daemon. Monitors run the commands of their clients through it, and the
 * daemon those of its command line.
 *
 * Threads: the main thread, except qmp_context_emit(). */
#pragma once
#include "block/backup/backup.h"
#include "block/export/export.h"
#include "block/graph.h"
#include "block/jobs/job.h"
#include "qmp/chardev/chardev.h"
#include "qmp/schema/table.h"
#include "qmp/transfers.h"
#include "util/log.h"

typedef struct QmpContext QmpContext;

/* The version of QEMU's QMP that we speak, which clients look for in the greeting's "qemu"; our own
 * version is in "package". */
#define QMP_QEMU_MAJOR 7
#define QMP_QEMU_MINOR 2
#define QMP_QEMU_MICRO 0

/* The HTTP server of metrics, which stands beside QMP. */
typedef struct QmpMetrics {
    /* Errors: it runs; @address is not of this machine alone, and the rest is not given. Ids of
     * objects, or NULL. @given: the arguments; borrowed. */
    bool (*start)(void *opaque, const TmAddress *address, const char *tls_creds,
                  const char *token_secret, json_object *given, GError **error);
    json_object *(*given)(void *opaque); /* the arguments it was started with, borrowed; or NULL */
    bool (*stop)(void *opaque, GError **error); /* errors: it does not run */
    json_object *(*query)(void *opaque);        /* MetricsServerInfo: a reference */
    void *opaque;
} QmpMetrics;

typedef struct QmpContextOptions {
    BlkGraph *graph;     /* borrowed, outlives the context */
    BlkExports *exports; /* borrowed, outlives the context */
    GMainContext *main;  /* borrowed; NULL: the default one */
    /* The command quit: to make the main loop return, not to exit at once, so that the reply goes
     * out. */
    void (*quit)(void *opaque);
    void *opaque;
    /* What but the files themselves may be to blame where @message ends in an error that says that
     * something is not permitted or not there, and the command had @args; it is added in brackets.
     * Returned (g_free); NULL: nothing. Itself NULL: never. */
    char *(*not_permitted)(void *opaque, const char *message, json_object *args);
    void *not_permitted_opaque;
    /* What query-configuration says of the process: members of qmp_type_configuration, a reference;
     * NULL: nothing. */
    json_object *(*process)(void *opaque);
    void *process_opaque;
    TmSocketRights socket_rights; /* of the unix sockets that are made, unless they say others */
    TmInherited *inherited;       /* sockets of the process; borrowed, outlives it; or NULL */
    const QmpMetrics *metrics;    /* borrowed, outlives the context; NULL: there is none */
    TmLog *log;                   /* borrowed, outlives it; or NULL */
} QmpContextOptions;

/* The drivers known to the graph's registry now are those that blockdev-add knows. Takes the
 * graph's events. The thread that calls it is the main one. */
QmpContext *qmp_context_new(const QmpContextOptions *options);
/* All monitors are freed before, and no thread emits any more. NULL is fine. */
void qmp_context_free(QmpContext *ctx);

BlkGraph *qmp_context_graph(QmpContext *ctx);
BlkExports *qmp_context_exports(QmpContext *ctx);
BlkJobs *qmp_context_jobs(QmpContext *ctx);
BlkBackups *qmp_context_backups(QmpContext *ctx);
const QmpTypes *qmp_context_types(QmpContext *ctx);
GMainContext *qmp_context_main(QmpContext *ctx);
QmpChardevs *qmp_context_chardevs(QmpContext *ctx);
QmpTransfers *qmp_context_transfers(QmpContext *ctx);
const QmpMetrics *qmp_context_metrics(QmpContext *ctx); /* or NULL */
TmSocketRights qmp_context_socket_rights(QmpContext *ctx);
TmLog *qmp_context_log(QmpContext *ctx); /* or NULL */
/* An object: a reference. */
json_object *qmp_context_process(QmpContext *ctx);
void qmp_context_quit(QmpContext *ctx);
/* {"qemu": {...}, "package": ...}: a reference */
json_object *qmp_context_version(void);

/* Runs a command as the command line does. @args (borrowed) may be NULL for none. *result, if not
 * NULL, is a reference. false and an error with its class, if the command is unknown, the arguments
 * do not fit, or it fails. */
bool qmp_dispatch(QmpContext *ctx, const char *command, json_object *args, json_object **result,
                  GError **error);

/* A bitmap that a configuration names: if it is there, it stays as it is. Else it is made (*made),
 * dirty everywhere: nobody knows what was written while it was not there, and a client may rely on
 * one of that name. @args: block-dirty-bitmap-add's, checked. transaction.c */
bool qmp_bitmap_provide(QmpContext *ctx, json_object *args, bool *made, GError **error);

/* ---- for handlers */
struct QmpCall {
    QmpContext *ctx;
    json_object *args;   /* borrowed, checked; never NULL */
    json_object *result; /* a reference; NULL: {} */
};

/* Arguments by name; a dotted path ("addr.type") goes down. Absent: NULL or the default.
 * Borrowed. */
json_object *qmp_arg(json_object *args, const char *path);
const char *qmp_arg_str(json_object *args, const char *path);
bool qmp_arg_bool(json_object *args, const char *path, bool otherwise);
uint64_t qmp_arg_uint(json_object *args, const char *path, uint64_t otherwise);
int64_t qmp_arg_int(json_object *args, const char *path, int64_t otherwise);

/* A list may be asked for in pages: @limit items at most, in the order of their names, after that
 * name, which need not exist. So the next page goes on after the last name of this one, whatever
 * has been added or removed meanwhile, and one with fewer items than @limit is the last. */
#define QMP_PAGE_LIMIT(what)                                                                       \
    {                                                                                              \
        "limit", &qmp_type_uint32, true,                                                           \
            "a page: at most so many of them, in the order of their " what " (default: all)"       \
    }
#define QMP_PAGE_MEMBERS(what)                                                                     \
    QMP_PAGE_LIMIT(what),                                                                          \
    {                                                                                              \
        "after", &qmp_type_str, true,                                                              \
            "a page: only those whose " what " comes after this one, which need not exist "        \
            "(default: from the beginning)"                                                        \
    }
uint32_t qmp_arg_limit(json_object *args); /* UINT32_MAX: all */
/* What is to be shown of @items (borrowed, the oldest first), in the order to show it: all of them,
 * or a page by @name, which is borrowed from its item. */
GPtrArray *qmp_arg_page(json_object *args, const GPtrArray *items, bool newest_first,
                        const char *(*name)(const void *item));

/* ---- events */
/* Sends an event to every listener. Takes @data (NULL: none). Any thread: it is sent on the main
 * one, at once if this is it. Its type matches BlkEventFn. */
void qmp_context_emit(void *ctx, const char *name, json_object *data);

/* @event is the whole message, borrowed. */
typedef void (*QmpListenFn)(void *opaque, json_object *event);
typedef struct QmpListener QmpListener;
QmpListener *qmp_context_listen(QmpContext *ctx, QmpListenFn fn, void *opaque);
void qmp_listener_free(QmpListener *listener); /* also from within a callback; NULL is fine */
