/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp/chardev/files.c: channels with one connection that is there from the beginning: standard
 * input and output, files, nothing; and a pseudoterminal, whose connection comes and goes. */
#include "qmp/chardev/chardev_internal.h"
#include "util/error.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

#define PTY_POLL_MS 100u

typedef struct Files {
    QmpConnection connection;
    bool ours;        /* to be closed */
    GSource *polling; /* pty: until somebody has opened it */
} Files;

static Files *files_new(QmpChardev *c, int in, int out, bool ours)
{
    Files *f = g_new0(Files, 1);

    f->connection = (QmpConnection){ in, out };
    f->ours = ours;
    c->state = f;
    return f;
}

static void files_used(QmpChardev *c)
{
    const Files *f = c->state;

    c->connected(c->opaque, &f->connection);
}

static char *files_filename(const QmpChardev *c)
{
    return g_strdup(c->driver->name);
}

static void files_close(QmpChardev *c)
{
    Files *f = c->state;

    qmp_chardev_unwatch(&f->polling);
    if (f->ours && f->connection.in >= 0)
        close(f->connection.in);
    if (f->ours && f->connection.out != f->connection.in)
        close(f->connection.out);
    g_free(f);
}

/* ---- stdio */

static bool stdio_open(QmpChardev *c, const QmpChardevOptions *o, GError **error)
{
    g_autoptr(GPtrArray) list = qmp_chardevs_list(c->chardevs);

    for (guint i = 0; i < list->len; i++) {
        const QmpChardev *other = list->pdata[i];

        if (other->driver == c->driver)
            return tm_error_set(error, "cannot use stdio by multiple character devices");
    }
    files_new(c, STDIN_FILENO, STDOUT_FILENO, false);
    return true;
}

const QmpChardevDriver qmp_driver_stdio = {
    .name = "stdio",
    .open = stdio_open,
    .used = files_used,
    .filename = files_filename,
    .close = files_close,
};

/* ---- null: what is sent there can be had from its log file only */

static bool null_open(QmpChardev *c, const QmpChardevOptions *o, GError **error)
{
    int fd = open("/dev/null", O_WRONLY | O_CLOEXEC);

    if (fd < 0)
        return tm_error_set_errno(error, errno, "Failed to open '/dev/null'");
    files_new(c, -1, fd, true);
    return true;
}

const QmpChardevDriver qmp_driver_null = {
    .name = "null",
    .open = null_open,
    .used = files_used,
    .filename = files_filename,
    .close = files_close,
};

/* ---- file; FIFOs, too, but without waiting for their other end */

static int open_file(const char *path, int flags, GError **error)
{
    int fd = open(path, flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0666);

    if (fd < 0)
        tm_error_set_errno(error, errno, "Failed to open '%s'", path);
    return fd;
}

static bool file_open(QmpChardev *c, const QmpChardevOptions *o, GError **error)
{
    int out = open_file(o->out, O_WRONLY | O_CREAT | (o->append ? O_APPEND : O_TRUNC), error);
    int in = -1;

    if (out < 0)
        return false;
    if (o->in && (in = open_file(o->in, O_RDONLY, error)) < 0) {
        close(out);
        return false;
    }
    files_new(c, in, out, true);
    return true;
}

const QmpChardevDriver qmp_driver_file = {
    .name = "file",
    .open = file_open,
    .used = files_used,
    .filename = files_filename,
    .close = files_close,
};

/* ---- pty: while nobody has its other end open, it is hung up, and nothing is sent */

static bool make_raw(const char *name)
{
    int fd = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
    struct termios t;
    bool ok = fd >= 0 && !tcgetattr(fd, &t);

    if (ok) {
        cfmakeraw(&t);
        ok = !tcsetattr(fd, TCSAFLUSH, &t);
    }
    if (fd >= 0)
        close(fd);
    return ok;
}

static bool pty_open(QmpChardev *c, const QmpChardevOptions *o, GError **error)
{
    int fd = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    char name[64];

    if (fd < 0 || grantpt(fd) < 0 || unlockpt(fd) < 0 || ptsname_r(fd, name, sizeof(name)) ||
        !make_raw(name) || fcntl(fd, F_SETFL, O_NONBLOCK) < 0) {
        tm_error_set_errno(error, errno, "Failed to create PTY");
        if (fd >= 0)
            close(fd);
        return false;
    }
    files_new(c, fd, fd, true);
    c->pty = g_strdup(name);
    qmp_chardev_note(c, "redirected to %s", name);
    return true;
}

/* There is no event for the other end's being opened. */
static gboolean pty_poll(void *opaque)
{
    QmpChardev *c = opaque;
    Files *f = c->state;
    struct pollfd p = { f->connection.in, 0, 0 };

    if (poll(&p, 1, 0) > 0 && p.revents & POLLHUP)
        return G_SOURCE_CONTINUE;
    qmp_chardev_unwatch(&f->polling);
    c->connected(c->opaque, &f->connection);
    return G_SOURCE_REMOVE;
}

static void pty_used(QmpChardev *c)
{
    ((Files *)c->state)->polling = qmp_chardev_timer(c, PTY_POLL_MS, pty_poll, c);
}

static void pty_disused(QmpChardev *c)
{
    qmp_chardev_unwatch(&((Files *)c->state)->polling);
}

static void pty_closed(QmpChardev *c, const QmpConnection *connection)
{
    if (c->connected)
        pty_used(c);
}

static char *pty_filename(const QmpChardev *c)
{
    return g_strdup_printf("pty:%s", c->pty);
}

const QmpChardevDriver qmp_driver_pty = {
    .name = "pty",
    .open = pty_open,
    .used = pty_used,
    .disused = pty_disused,
    .closed = pty_closed,
    .filename = pty_filename,
    .close = files_close,
};
