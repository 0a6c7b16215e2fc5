/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp/chardev/chardev_internal.h: what the files of chardevs share. */
#pragma once
#include "qmp/chardev/chardev.h"

#include <glib-unix.h>

typedef struct QmpChardevDriver {
    const char *name;
    /* Sets c->state. */
    bool (*open)(QmpChardev *c, const QmpChardevOptions *options, GError **error);
    /* It has a user: gives it the connections that there are, and those that come. */
    void (*used)(QmpChardev *c);
    void (*disused)(QmpChardev *c);                                 /* no more; or NULL */
    void (*closed)(QmpChardev *c, const QmpConnection *connection); /* or NULL */
    char *(*filename)(const QmpChardev *c);
    void (*close)(QmpChardev *c); /* frees c->state; nobody uses it */
} QmpChardevDriver;

struct QmpChardev {
    QmpChardevs *chardevs;
    char *id;
    const QmpChardevDriver *driver;
    void *state; /* the driver's */
    bool remote;
    char *pty;                /* or NULL */
    QmpConnectedFn connected; /* NULL: it has no user */
    void *opaque;
    int log; /* or -1 */
};

extern const QmpChardevDriver qmp_driver_file, qmp_driver_null, qmp_driver_pty, qmp_driver_socket,
    qmp_driver_stdio;

GMainContext *qmp_chardev_main(const QmpChardev *c);
TmInherited *qmp_chardev_inherited(const QmpChardev *c);
/* "chardev 'ID': MESSAGE". */
void qmp_chardev_note(const QmpChardev *c, const char *format, ...) G_GNUC_PRINTF(2, 3);
/* Sources that call @fn when @fd is readable, or every @ms. Returned (qmp_chardev_unwatch). */
GSource *qmp_chardev_watch(const QmpChardev *c, int fd, GUnixFDSourceFunc fn, void *opaque);
GSource *qmp_chardev_timer(const QmpChardev *c, int64_t ms, GSourceFunc fn, void *opaque);
/* Destroys *source, if there is one, and clears it. */
void qmp_chardev_unwatch(GSource **source);
