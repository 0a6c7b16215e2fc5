/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp/chardev/tls.c: TLS on the connections of a socket: the handshake, before the user has the
 * connection, and what is sent and received from then on.
 *
 * The descriptor keeps its flags: the library calls it with MSG_DONTWAIT. A peer has HANDSHAKE_MS
 * for the handshake. */
#include "object/tls_creds.h"
#include "qmp/chardev/chardev_internal.h"

#include <errno.h>
#include <sys/socket.h>

#define HANDSHAKE_MS 10000
#define NOTHING_YET  ((gnutls_handshake_description_t)-1)

struct QmpTls {
    TmTlsSession session;
    QmpChardev *c;
    TmObject *authz; /* a reference; or NULL */
    int fd;
    bool talking; /* the handshake is over */
    bool partly;  /* bytes that were to be sent are with the library */
    /* the handshake */
    GSource *source, *deadline; /* or NULL */
    QmpTlsFn fn;
    void *opaque;
};

static ssize_t pull(gnutls_transport_ptr_t opaque, void *data, size_t length)
{
    return recv(((QmpTls *)opaque)->fd, data, length, MSG_DONTWAIT);
}

static ssize_t push(gnutls_transport_ptr_t opaque, const void *data, size_t length)
{
    return send(((QmpTls *)opaque)->fd, data, length, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* ---- the handshake */

static void over(QmpTls *tls, const char *why)
{
    qmp_chardev_unwatch(&tls->source);
    qmp_chardev_unwatch(&tls->deadline);
    tls->talking = !why;
    tls->fn(tls->opaque, tls, tls->fd, why);
}

static void watch(QmpTls *tls);

static void step(QmpTls *tls)
{
    g_autofree char *identity = NULL;
    const char *why = NULL;
    int ret = tm_tls_session_handshake(&tls->session, tls->authz, &identity, &why);

    qmp_chardev_unwatch(&tls->source);
    if (ret == GNUTLS_E_AGAIN)
        watch(tls);
    else
        over(tls, why);
}

static gboolean ready(int fd, GIOCondition condition, void *opaque)
{
    step(opaque);
    return G_SOURCE_REMOVE;
}

static gboolean late(void *opaque)
{
    over(opaque, "the handshake took too long");
    return G_SOURCE_REMOVE;
}

static void watch(QmpTls *tls)
{
    bool writes = gnutls_record_get_direction(tls->session.handle);

    tls->source = qmp_chardev_watch(tls->c, tls->fd, writes ? G_IO_OUT : G_IO_IN, ready, tls);
}

QmpTls *qmp_tls_new(QmpChardev *c, int fd, const QmpTlsOptions *options, QmpTlsFn fn, void *opaque,
                    GError **error)
{
    QmpTls *tls = g_new0(QmpTls, 1);

    if (!tm_tls_session_init(&tls->session, options->creds, options->host, error)) {
        g_free(tls);
        return NULL;
    }
    tls->c = c;
    tls->fd = fd;
    tls->authz = options->authz ? tm_object_ref(options->authz) : NULL;
    tls->fn = fn;
    tls->opaque = opaque;
    gnutls_transport_set_ptr(tls->session.handle, tls);
    gnutls_transport_set_push_function(tls->session.handle, push);
    gnutls_transport_set_pull_function(tls->session.handle, pull);
    gnutls_handshake_set_timeout(tls->session.handle, GNUTLS_INDEFINITE_TIMEOUT);
    tls->deadline = qmp_chardev_timer(c, HANDSHAKE_MS, late, tls);
    /* A client begins, which it can at once; fn() is not called from here. */
    tls->source = qmp_chardev_watch(c, fd, tls->session.server ? G_IO_IN : G_IO_OUT, ready, tls);
    return tls;
}

void qmp_tls_free(QmpTls *tls)
{
    if (!tls)
        return;
    if (tls->talking && !tls->partly)
        gnutls_bye(tls->session.handle, GNUTLS_SHUT_WR);
    qmp_chardev_unwatch(&tls->source);
    qmp_chardev_unwatch(&tls->deadline);
    tm_object_unref(tls->authz);
    tm_tls_session_clear(&tls->session);
    g_free(tls);
}

QmpTlsStage qmp_tls_stage(const QmpTls *tls)
{
    if (tls->talking)
        return QMP_TLS_OVER;
    return gnutls_handshake_get_last_in(tls->session.handle) == NOTHING_YET ? QMP_TLS_SILENT
                                                                            : QMP_TLS_BEGUN;
}

int qmp_tls_fd(const QmpTls *tls)
{
    return tls->fd;
}

/* ---- data */

static ssize_t result(ssize_t n)
{
    if (n >= 0)
        return n;
    errno = gnutls_error_is_fatal((int)n) ? EPROTO : EAGAIN;
    return -1;
}

ssize_t qmp_tls_recv(QmpTls *tls, void *data, size_t length)
{
    return result(gnutls_record_recv(tls->session.handle, data, length));
}

/* A record that was sent in part is finished first: it holds the beginning of @data. */
ssize_t qmp_tls_send(QmpTls *tls, const void *data, size_t length)
{
    ssize_t n = tls->partly ? gnutls_record_send(tls->session.handle, NULL, 0)
                            : gnutls_record_send(tls->session.handle, data, length);

    tls->partly = n == GNUTLS_E_AGAIN || n == GNUTLS_E_INTERRUPTED;
    return result(n);
}
