/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* daemon/daemon.h: everything that one tidemarkd is made of, made and unmade in order, and how its
 * process begins and ends. Main thread. */
#pragma once
#include "daemon/cmdline.h"
#include "daemon/notify.h"
#include "daemon/sandbox.h"
#include "metrics/metrics.h"
#include "qmp/monitor.h"
#include "server/fuse/fuse.h"
#include "server/servers.h"

typedef struct Daemon {
    GMainLoop *loop;
    TmLog *log; /* borrowed, outlives it */
    BlkRegistry *registry;
    BlkEngine *engine;
    BlkGraph *graph;
    BlkExports *exports;
    TmInherited *inherited;
    NbdsServers *servers;
    FexpMounter *mounter;       /* NULL: none was started; borrowed, outlives it, and set before */
    MetricsServer *metrics;     /* NULL: it does not run */
    json_object *metrics_given; /* what it was started with; or NULL */
    QmpMetrics metrics_operations;
    MetricsEvents *metrics_events;
    QmpListener *metrics_listener;
    QmpContext *qmp;
    const GArray *options;       /* CmdOption; borrowed */
    GPtrArray *monitors;         /* QmpMonitor */
    json_object *monitors_given; /* what they were made from: an array */
    guint tick;                  /* the timer that lets time pass for the nodes' bitmaps */
    struct Reload *reload;       /* of configuration files; or NULL */
    Watchdog *watchdog;          /* or NULL */
    char *status;                /* as the service manager shows it; or NULL */
} Daemon;

/* The drivers and plug-ins that @options name, the I/O threads, the servers; nothing is open yet.
 * daemon->log is set before. @options and @sandbox (borrowed) outlive the daemon; the sandbox has a
 * word on errors of permission. With @problems, for --check, errors that leave the rest to be
 * checked are appended to it (g_free) instead. */
bool daemon_init(Daemon *daemon, const GArray *options, const Sandbox *sandbox, GPtrArray *problems,
                 GError **error);
/* Whether an option asks for help ("--blockdev help"), which has then been printed. */
bool daemon_help(Daemon *daemon, const GArray *options);
/* What query-configuration says of the process, whose Daemon @daemon is: an object, a reference.
 * settings.c */
json_object *daemon_settings(void *daemon);
/* All options are carried out, and the rights given up: takes clients, and says so to the service
 * manager. */
void daemon_serve(Daemon *daemon);
/* Ends in order: no new clients, what is in flight finished, everything flushed and closed. Whether
 * the flush succeeded, and bitmaps were kept. */
bool daemon_finish(Daemon *daemon, GError **error);

/* ---- metrics.c: the server of metrics, which asks QMP */
/* What QMP's commands call; @daemon outlives it. */
QmpMetrics daemon_metrics(Daemon *daemon);
/* Counts events from now on: once QMP is there; and ends that, and the server. */
void daemon_metrics_listen(Daemon *daemon);
void daemon_metrics_end(Daemon *daemon);

/* ---- chardev.c: --chardev, which is chardev-add in another form */

/* "BACKEND,id=ID[,KEY=VALUE...]", with QEMU's short forms ("server,nowait"): as flat JSON with
 * strings, or JSON as of chardev-add. A reference, or NULL. */
json_object *chardev_parse(const char *text, GError **error);
extern const QmpType chardev_type; /* of the flat form */
/* The arguments of chardev-add: a reference, or NULL. */
json_object *chardev_arguments(const QmpTypes *types, const char *text, GError **error);
/* Once it is made: waits for a client of a socket that listens, unless wait=off. */
bool chardev_wait(QmpContext *ctx, const char *text, GError **error);

/* Arguments of chardev-add that wait for nobody, as others are served meanwhile: a reference. */
json_object *chardev_without_wait(json_object *args);

/* ---- background.c: --daemonize: the parent waits until the child is up, then leaves */

/* Forks; the parent does not return: it exits with 0 once background_ready() is called, with 1 if
 * the child ends before. Before any thread is started. Returns a descriptor for
 * background_ready(). */
int background_start(GError **error);
/* The child: detaches from the terminal (standard streams go to /dev/null, the directory to /). */
bool background_ready(int fd, GError **error);

/* ---- pidfile.c: --pidfile: the process id in a file that stays locked while the daemon lives
 *
 * What is at the path is taken over only if it is a file of one name that holds a number or
 * nothing, is no symbolic link, and nobody has locked it; it is removed only while it is still this
 * one. */

typedef struct Pidfile Pidfile;

/* Creates and locks @path and writes the id. Errors: not creatable, held by another process,
 * something else. */
Pidfile *pidfile_create(const char *path, GError **error);
/* Removes the file; NULL is fine. */
void pidfile_remove(Pidfile *pidfile);
