/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp/chardev/chardev.h: character devices: the channels that monitors speak on, by their ids.
 *
 * A channel has one user, a monitor. It gives the user a connection at a time, or, if it is a
 * socket that listens, several; and takes each back when the user has done with it. Until there is
 * a user, clients wait in the socket's queue.
 *
 * Clients over a network are anybody's: no more than QMP_CHARDEV_REMOTE_MAX of them are connected
 * to one channel at a time, others wait.
 *
 * Threads: main thread. Connecting again to a host may take long, so a thread does it. */
#pragma once
#include "object/objects.h"
#include "util/address.h"
#include "util/log.h"
#include <json-c/json.h>

#define QMP_CHARDEV_REMOTE_MAX 16u

typedef struct QmpChardevs QmpChardevs;
typedef struct QmpChardev QmpChardev;
typedef struct QmpTls QmpTls;

typedef struct QmpChardevsOptions {
    GMainContext *main;     /* borrowed; NULL: the default one */
    TmInherited *inherited; /* borrowed, outlives them; or NULL */
    TmLog *log;             /* borrowed, outlives them; or NULL */
} QmpChardevsOptions;

/* Strings are copied. */
typedef struct QmpChardevOptions {
    const char *id;
    const char *driver;       /* one of qmp_chardev_drivers() */
    const TmAddress *address; /* socket */
    bool server;              /* socket: listens, or else connects */
    int64_t reconnect_ms;     /* a client: from the end of one connection to the next; 0: never */
    TmObject *tls_creds;      /* socket: borrowed, kept by a reference; or NULL: no TLS */
    TmObject *tls_authz;      /* the same, with tls_creds, a server's; or NULL */
    const char *in, *out;     /* file; in: or NULL */
    bool append;              /* file */
    const char *logfile;      /* gets a copy of what is sent; or NULL */
    bool logappend;
    json_object *given; /* the arguments of chardev-add that these are, copied; or NULL */
} QmpChardevOptions;

/* What a user reads from and writes to. */
typedef struct QmpConnection {
    int in, out; /* in: or -1, nothing ever comes */
    QmpTls *tls; /* or NULL; else through qmp_tls_recv() and qmp_tls_send() */
} QmpConnection;

/* There is a connection, which is the user's until qmp_chardev_closed(). */
typedef void (*QmpConnectedFn)(void *opaque, const QmpConnection *connection);

QmpChardevs *qmp_chardevs_new(const QmpChardevsOptions *options);
void qmp_chardevs_free(QmpChardevs *chardevs); /* none is used any more; NULL is fine */
/* Opens it. Borrowed result, or NULL. Messages are QEMU's. A client that does not connect again
 * waits for its connection, CONNECT_MS at most for each address of a name. */
QmpChardev *qmp_chardevs_add(QmpChardevs *chardevs, const QmpChardevOptions *options,
                             GError **error);
bool qmp_chardevs_remove(QmpChardevs *chardevs, const char *id, GError **error);
QmpChardev *qmp_chardevs_find(QmpChardevs *chardevs, const char *id); /* borrowed, or NULL */
/* All of them, borrowed, oldest first; g_ptr_array_unref. */
GPtrArray *qmp_chardevs_list(QmpChardevs *chardevs);
/* Names of drivers; NULL-terminated. */
const char *const *qmp_chardev_drivers(void);

const char *qmp_chardev_id(const QmpChardev *chardev);
json_object *qmp_chardev_given(const QmpChardev *chardev); /* borrowed, or NULL */
const char *qmp_chardev_driver(const QmpChardev *chardev); /* its name */
/* Of a socket: its SocketAddress, returned, and whether there is a connection; else NULL. */
json_object *qmp_chardev_address(const QmpChardev *chardev, bool *connected);
/* As query-chardev shows it; returned. */
char *qmp_chardev_filename(const QmpChardev *chardev);
/* Its other end, of a pty; or NULL. Borrowed. */
const char *qmp_chardev_pty(const QmpChardev *chardev);
bool qmp_chardev_used(const QmpChardev *chardev);
/* Clients may come over a network. */
bool qmp_chardev_remote(const QmpChardev *chardev);

/* Blocks until a client waits to be taken, if it is a socket that listens. Fails if SIGTERM, SIGINT
 * or SIGHUP comes first. */
bool qmp_chardev_wait(QmpChardev *chardev, GError **error);

/* Becomes the user. @fn may be called at once. */
bool qmp_chardev_use(QmpChardev *chardev, QmpConnectedFn fn, void *opaque, GError **error);
/* No more connections come. Those that there are must be given back nevertheless. */
void qmp_chardev_disuse(QmpChardev *chardev);
/* The user has done with @connection. */
void qmp_chardev_closed(QmpChardev *chardev, const QmpConnection *connection);
/* As recv() and send(), without blocking. A send that failed with EAGAIN is repeated with data that
 * begin alike. */
ssize_t qmp_tls_recv(QmpTls *tls, void *data, size_t length);
ssize_t qmp_tls_send(QmpTls *tls, const void *data, size_t length);
/* For the log file: this is sent. */
void qmp_chardev_sent(QmpChardev *chardev, const char *text, size_t length);
