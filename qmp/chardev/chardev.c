/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp/chardev/chardev.c: the list of channels, their users and log files. What the channels are is
 * their drivers'. */
#include "qmp/chardev/chardev_internal.h"
#include "util/error.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

struct QmpChardevs {
    QmpChardevsOptions options;
    GPtrArray *list; /* QmpChardev, owned, oldest first */
};

static const QmpChardevDriver *const drivers[] = { &qmp_driver_file, &qmp_driver_null,
                                                   &qmp_driver_pty, &qmp_driver_socket,
                                                   &qmp_driver_stdio };

const char *const *qmp_chardev_drivers(void)
{
    static const char *const names[] = { "file", "null", "pty", "socket", "stdio", NULL };
    G_STATIC_ASSERT(G_N_ELEMENTS(names) == G_N_ELEMENTS(drivers) + 1);

    return names;
}

static const QmpChardevDriver *find_driver(const char *name)
{
    for (size_t i = 0; i < G_N_ELEMENTS(drivers); i++) {
        if (g_str_equal(drivers[i]->name, name))
            return drivers[i];
    }
    return NULL;
}

/* ---- for the drivers */

GMainContext *qmp_chardev_main(const QmpChardev *c)
{
    return c->chardevs->options.main;
}

TmInherited *qmp_chardev_inherited(const QmpChardev *c)
{
    return c->chardevs->options.inherited;
}

void qmp_chardev_note(const QmpChardev *c, const char *format, ...)
{
    const QmpChardevsOptions *o = &c->chardevs->options;
    g_autofree char *text = NULL;
    va_list ap;

    va_start(ap, format);
    text = g_strdup_vprintf(format, ap);
    va_end(ap);
    tm_log_note(o->log, &(TmLogFacts){ .area = TM_LOG_QMP, .level = TM_LOG_INFO },
                "chardev '%s': %s", c->id, text);
}

GSource *qmp_chardev_watch(const QmpChardev *c, int fd, GIOCondition what, GUnixFDSourceFunc fn,
                           void *opaque)
{
    GSource *source = g_unix_fd_source_new(fd, what);

    g_source_set_callback(source, G_SOURCE_FUNC(fn), opaque, NULL);
    g_source_attach(source, qmp_chardev_main(c));
    return source;
}

GSource *qmp_chardev_timer(const QmpChardev *c, int64_t ms, GSourceFunc fn, void *opaque)
{
    GSource *source = g_timeout_source_new((guint)MIN(ms, G_MAXINT));

    g_source_set_callback(source, fn, opaque, NULL);
    g_source_attach(source, qmp_chardev_main(c));
    return source;
}

void qmp_chardev_unwatch(GSource **source)
{
    if (!*source)
        return;
    g_source_destroy(*source);
    g_source_unref(*source);
    *source = NULL;
}

/* ---- life */

static void chardev_free(void *opaque)
{
    QmpChardev *c = opaque;

    if (c->state)
        c->driver->close(c);
    if (c->log >= 0)
        close(c->log);
    json_object_put(c->given);
    g_free(c->pty);
    g_free(c->id);
    g_free(c);
}

QmpChardevs *qmp_chardevs_new(const QmpChardevsOptions *options)
{
    QmpChardevs *chardevs = g_new0(QmpChardevs, 1);

    chardevs->options = *options;
    chardevs->list = g_ptr_array_new_with_free_func(chardev_free);
    return chardevs;
}

void qmp_chardevs_free(QmpChardevs *chardevs)
{
    if (!chardevs)
        return;
    g_ptr_array_unref(chardevs->list);
    g_free(chardevs);
}

/* A FIFO that nobody reads is an error, and nothing to wait for. */
static bool open_log(QmpChardev *c, const QmpChardevOptions *o, GError **error)
{
    int flags = O_WRONLY | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK | O_APPEND;

    if (!o->logfile)
        return true;
    c->log = open(o->logfile, flags | (o->logappend ? 0 : O_TRUNC), 0600);
    return c->log >= 0 || tm_error_set_errno(error, errno, "Unable to open logfile %s", o->logfile);
}

QmpChardev *qmp_chardevs_add(QmpChardevs *chardevs, const QmpChardevOptions *o, GError **error)
{
    QmpChardev *c;

    if (qmp_chardevs_find(chardevs, o->id)) {
        tm_error_set(error, "Chardev with id '%s' already exists", o->id);
        return NULL;
    }
    c = g_new0(QmpChardev, 1);
    c->chardevs = chardevs;
    c->id = g_strdup(o->id);
    c->log = -1;
    c->driver = find_driver(o->driver);
    if (!open_log(c, o, error) || !c->driver->open(c, o, error)) {
        g_prefix_error(error, "Failed to add chardev '%s': ", o->id);
        chardev_free(c);
        return NULL;
    }
    if (o->given)
        json_object_deep_copy(o->given, &c->given, NULL);
    g_ptr_array_add(chardevs->list, c);
    return c;
}

bool qmp_chardevs_remove(QmpChardevs *chardevs, const char *id, GError **error)
{
    QmpChardev *c = qmp_chardevs_find(chardevs, id);

    if (!c)
        return tm_error_set(error, "Chardev '%s' not found", id);
    if (c->connected)
        return tm_error_set(error, "Chardev '%s' is busy", id);
    g_ptr_array_remove(chardevs->list, c);
    return true;
}

QmpChardev *qmp_chardevs_find(QmpChardevs *chardevs, const char *id)
{
    for (guint i = 0; i < chardevs->list->len; i++) {
        QmpChardev *c = g_ptr_array_index(chardevs->list, i);

        if (g_str_equal(c->id, id))
            return c;
    }
    return NULL;
}

GPtrArray *qmp_chardevs_list(QmpChardevs *chardevs)
{
    return g_ptr_array_ref(chardevs->list);
}

const char *qmp_chardev_id(const QmpChardev *c)
{
    return c->id;
}

json_object *qmp_chardev_given(const QmpChardev *c)
{
    return c->given;
}

const char *qmp_chardev_driver(const QmpChardev *c)
{
    return c->driver->name;
}

json_object *qmp_chardev_address(const QmpChardev *c, bool *connected)
{
    return c->driver->address ? c->driver->address(c, connected) : NULL;
}

char *qmp_chardev_filename(const QmpChardev *c)
{
    return c->driver->filename(c);
}

const char *qmp_chardev_pty(const QmpChardev *c)
{
    return c->pty;
}

bool qmp_chardev_used(const QmpChardev *c)
{
    return c->connected != NULL;
}

bool qmp_chardev_remote(const QmpChardev *c)
{
    return c->remote;
}

/* ---- users */

bool qmp_chardev_use(QmpChardev *c, QmpConnectedFn fn, void *opaque, GError **error)
{
    if (c->connected)
        return tm_error_set(error, "Device '%s' is in use", c->id);
    c->connected = fn;
    c->opaque = opaque;
    c->driver->used(c);
    return true;
}

void qmp_chardev_disuse(QmpChardev *c)
{
    c->connected = NULL;
    if (c->driver->disused)
        c->driver->disused(c);
}

void qmp_chardev_closed(QmpChardev *c, const QmpConnection *connection)
{
    if (c->driver->closed)
        c->driver->closed(c, connection);
}

/* A log that can't be written, as on a full disk, is no reason to end a conversation. */
void qmp_chardev_sent(QmpChardev *c, const char *text, size_t length)
{
    while (c->log >= 0 && length) {
        ssize_t n = write(c->log, text, length);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return;
        text += n;
        length -= (size_t)n;
    }
}
