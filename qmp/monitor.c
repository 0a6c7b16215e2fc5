/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp/monitor.c: listens, and keeps the list of sessions. The sessions are in session.c. */
#include "qmp/monitor.h"
#include "qmp/qmp_internal.h"
#include "util/unix_socket.h"
#include <errno.h>
#include <glib-unix.h>
#include <sys/socket.h>
#include <unistd.h>

#define BACKLOG 16

/* How long the end of a monitor may wait for its clients, in microseconds. */
#define FAREWELL G_USEC_PER_SEC

struct QmpMonitor {
    QmpContext *ctx;
    QmpMonitorOptions options;
    GPtrArray *sessions; /* QmpSession, owned */
    int fd;              /* listening, or -1 */
    GSource *watch;      /* on fd */
    TmSocketFile file;   /* of the socket, if it has one */
};

static void session_ended(void *opaque, QmpSession *session)
{
    QmpMonitor *m = opaque;

    g_ptr_array_remove(m->sessions, session);
}

static void add_session(QmpMonitor *m, int in, int out, bool owned)
{
    QmpSessionOptions o = {
        in, out, owned, m->options.pretty, session_ended, m->options.log, m, m->options.opaque
    };

    g_ptr_array_add(m->sessions, qmp_session_new(m->ctx, &o));
}

static QmpMonitor *monitor_new(QmpContext *ctx, const QmpMonitorOptions *options)
{
    QmpMonitor *m = g_new0(QmpMonitor, 1);

    m->ctx = ctx;
    if (options)
        m->options = *options;
    m->sessions = g_ptr_array_new_with_free_func((GDestroyNotify)qmp_session_free);
    m->fd = -1;
    return m;
}

static gboolean accept_client(int fd, GIOCondition condition, void *opaque)
{
    QmpMonitor *m = opaque;
    int client = accept4(fd, NULL, NULL, SOCK_CLOEXEC);

    if (client >= 0)
        add_session(m, client, client, true);
    else if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED && m->options.log)
        m->options.log(m->options.opaque, "cannot accept a QMP client");
    return G_SOURCE_CONTINUE;
}

QmpMonitor *qmp_monitor_new_unix(QmpContext *ctx, const char *path,
                                 const QmpMonitorOptions *options, GError **error)
{
    QmpMonitor *m = monitor_new(ctx, options);

    m->fd = tm_unix_listen(path, BACKLOG, &m->file, error);
    if (m->fd < 0) {
        qmp_monitor_free(m);
        return NULL;
    }
    m->watch = g_unix_fd_source_new(m->fd, G_IO_IN);
    g_source_set_callback(m->watch, G_SOURCE_FUNC(accept_client), m, NULL);
    g_source_attach(m->watch, qmp_context_main(ctx));
    return m;
}

QmpMonitor *qmp_monitor_new_stdio(QmpContext *ctx, int in, int out,
                                  const QmpMonitorOptions *options)
{
    QmpMonitor *m = monitor_new(ctx, options);

    add_session(m, in, out, false);
    return m;
}

void qmp_monitor_free(QmpMonitor *m)
{
    gint64 until = g_get_monotonic_time() + FAREWELL;

    if (!m)
        return;
    if (m->watch) {
        g_source_destroy(m->watch);
        g_source_unref(m->watch);
    }
    for (guint i = 0; i < m->sessions->len; i++)
        qmp_session_flush(g_ptr_array_index(m->sessions, i), until);
    g_ptr_array_unref(m->sessions);
    tm_socket_file_remove(&m->file);
    if (m->fd >= 0)
        close(m->fd);
    g_free(m);
}

unsigned qmp_monitor_sessions(const QmpMonitor *m)
{
    return m->sessions->len;
}
