/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp/chardev/wait.c: waiting for the first client of a channel. The main loop does not run
 * meanwhile: only signals are heard. */
#include "qmp/chardev/chardev_internal.h"
#include "util/error.h"

#include <signal.h>

typedef struct Wait {
    bool over, ended;
} Wait;

static gboolean client_waits(int fd, GIOCondition condition, void *opaque)
{
    ((Wait *)opaque)->over = true;
    return G_SOURCE_CONTINUE;
}

static gboolean signalled(void *opaque)
{
    Wait *wait = opaque;

    wait->over = wait->ended = true;
    return G_SOURCE_CONTINUE;
}

static void attach(GPtrArray *sources, GMainContext *context, GSource *source, GSourceFunc fn,
                   Wait *wait)
{
    g_source_set_callback(source, fn, wait, NULL);
    g_source_attach(source, context);
    g_ptr_array_add(sources, source);
}

/* Kept to the end of the process: GLib's thread may wake it at any time after a signal. */
static GMainContext *signals_context(void)
{
    static GMainContext *context;

    if (g_once_init_enter(&context))
        g_once_init_leave(&context, g_main_context_new());
    return context;
}

/* false: a signal came first. */
static bool await_client(const QmpChardev *c, const GArray *sockets)
{
    GMainContext *context = signals_context();
    static const int signals[] = { SIGTERM, SIGINT, SIGHUP };
    g_autoptr(GPtrArray) sources = g_ptr_array_new_with_free_func((GDestroyNotify)g_source_unref);
    g_autofree char *name = qmp_chardev_filename(c);
    Wait wait = { 0 };

    for (size_t i = 0; i < G_N_ELEMENTS(signals); i++)
        attach(sources, context, g_unix_signal_source_new(signals[i]), signalled, &wait);
    /* Whoever reads this may send a signal. */
    qmp_chardev_note(c, "waiting for a connection on %s", name);
    for (guint i = 0; i < sockets->len; i++)
        attach(sources, context,
               g_unix_fd_source_new(g_array_index(sockets, TmSocket, i).fd, G_IO_IN),
               G_SOURCE_FUNC(client_waits), &wait);
    while (!wait.over)
        g_main_context_iteration(context, TRUE);
    for (guint i = 0; i < sources->len; i++)
        g_source_destroy(sources->pdata[i]);
    return !wait.ended;
}

bool qmp_chardev_wait(QmpChardev *c, GError **error)
{
    const GArray *sockets = c->driver->listening ? c->driver->listening(c) : NULL;

    return !sockets || await_client(c, sockets) ||
           tm_error_set(error, "a signal came before the first client of chardev '%s'", c->id);
}
