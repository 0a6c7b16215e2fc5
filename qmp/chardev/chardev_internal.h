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
    json_object *(*address)(const QmpChardev *c, bool *connected); /* or NULL */
    /* TmSocket: where it listens, borrowed; NULL: it doesn't. The operation may be NULL. */
    const GArray *(*listening)(const QmpChardev *c);
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
    int log;            /* or -1 */
    json_object *given; /* or NULL */
};

extern const QmpChardevDriver qmp_driver_file, qmp_driver_null, qmp_driver_pty, qmp_driver_socket,
    qmp_driver_stdio;

GMainContext *qmp_chardev_main(const QmpChardev *c);
TmInherited *qmp_chardev_inherited(const QmpChardev *c);
/* "chardev 'ID': MESSAGE". */
void qmp_chardev_note(const QmpChardev *c, const char *format, ...) G_GNUC_PRINTF(2, 3);
/* Sources that call @fn when @fd is ready for @what, or every @ms. Returned
 * (qmp_chardev_unwatch). */
GSource *qmp_chardev_watch(const QmpChardev *c, int fd, GIOCondition what, GUnixFDSourceFunc fn,
                           void *opaque);
GSource *qmp_chardev_timer(const QmpChardev *c, int64_t ms, GSourceFunc fn, void *opaque);
/* Destroys *source, if there is one, and clears it. */
void qmp_chardev_unwatch(GSource **source);

/* ---- tls.c */

typedef struct QmpTlsOptions {
    TmObject *creds, *authz; /* creds: NULL: no TLS; authz: or NULL */
    const char *host;        /* what a server's certificate is to be for; or NULL */
} QmpTlsOptions;

/* The handshake is over: @why it failed (static), or NULL. Frees @tls, or keeps it. */
typedef void (*QmpTlsFn)(void *opaque, QmpTls *tls, int fd, const char *why);

/* Begins a handshake on @fd (borrowed, until qmp_tls_free()). @options are borrowed. NULL: it
 * could not begin, and @fn is not called. */
QmpTls *qmp_tls_new(QmpChardev *c, int fd, const QmpTlsOptions *options, QmpTlsFn fn, void *opaque,
                    GError **error);
/* Says goodbye, if there was a conversation. NULL is fine. */
void qmp_tls_free(QmpTls *tls);
/* How far the handshake is: the peer has sent no whole message, or has, or it succeeded. */
typedef enum { QMP_TLS_SILENT, QMP_TLS_BEGUN, QMP_TLS_OVER } QmpTlsStage;

QmpTlsStage qmp_tls_stage(const QmpTls *tls);
int qmp_tls_fd(const QmpTls *tls);
