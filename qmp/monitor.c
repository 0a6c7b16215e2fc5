/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp/monitor.c: the list of a channel's sessions. The sessions are in session.c. */
#include "qmp/monitor.h"
#include "qmp/qmp_internal.h"

/* How long the end of a monitor may wait for its clients, in microseconds. */
#define FAREWELL G_USEC_PER_SEC

#define REMOTE_NEGOTIATE_MS 10000u

struct QmpMonitor {
    QmpContext *ctx;
    QmpMonitorOptions options;
    GPtrArray *sessions; /* QmpSession, owned */
    QmpChardev *chardev; /* borrowed; NULL: its session is on descriptors of others */
};

static void session_sent(void *opaque, const char *text, size_t length)
{
    QmpMonitor *m = opaque;

    if (m->chardev)
        qmp_chardev_sent(m->chardev, text, length);
}

static void remove_session(QmpMonitor *m, QmpSession *session)
{
    QmpConnection connection = *qmp_session_connection(session);

    g_ptr_array_remove(m->sessions, session);
    if (m->chardev)
        qmp_chardev_closed(m->chardev, &connection);
}

static void session_ended(void *opaque, QmpSession *session)
{
    remove_session(opaque, session);
}

static void add_session(void *opaque, const QmpConnection *connection)
{
    QmpMonitor *m = opaque;
    QmpSessionOptions o = {
        .connection = *connection,
        .pretty = m->options.pretty,
        .negotiate_ms = m->options.negotiate_ms,
        .ended = session_ended,
        .sent = session_sent,
        .owner = m,
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
    return m;
}

QmpMonitor *qmp_monitor_new(QmpContext *ctx, QmpChardev *chardev, const QmpMonitorOptions *options,
                            GError **error)
{
    QmpMonitor *m = monitor_new(ctx, options);

    if (!m->options.negotiate_ms && qmp_chardev_remote(chardev))
        m->options.negotiate_ms = REMOTE_NEGOTIATE_MS;
    m->chardev = chardev;
    if (qmp_chardev_use(chardev, add_session, m, error))
        return m;
    m->chardev = NULL;
    qmp_monitor_free(m);
    return NULL;
}

QmpMonitor *qmp_monitor_new_stdio(QmpContext *ctx, int in, int out,
                                  const QmpMonitorOptions *options)
{
    QmpMonitor *m = monitor_new(ctx, options);

    add_session(m, &(QmpConnection){ .in = in, .out = out });
    return m;
}

void qmp_monitor_free(QmpMonitor *m)
{
    gint64 until = g_get_monotonic_time() + FAREWELL;

    if (!m)
        return;
    if (m->chardev)
        qmp_chardev_disuse(m->chardev);
    for (guint i = 0; i < m->sessions->len; i++)
        qmp_session_flush(g_ptr_array_index(m->sessions, i), until);
    while (m->sessions->len)
        remove_session(m, m->sessions->pdata[0]);
    g_ptr_array_unref(m->sessions);
    g_free(m);
}

unsigned qmp_monitor_sessions(const QmpMonitor *m)
{
    return m->sessions->len;
}
