/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* daemon/dump.c: see the header. */
#include "daemon/dump.h"

#include "qmp/json/json.h"
#include "util/address.h"
#include "util/error.h"

#include <errno.h>
#include <glib-unix.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#define TIMEOUT_MS 10000
#define COMMANDS   "{'execute':'qmp_capabilities'}{'execute':'query-configuration','id':'c'}"

typedef struct Dump {
    const char *path;
    int fd;
    bool done;
    json_object *configuration; /* a reference; or NULL */
    GError *error;
} Dump;

static void answered(void *opaque, json_object *value, const GError *error)
{
    Dump *d = opaque;
    json_object *member, *description;

    if (d->done)
        return;
    if (error) {
        tm_error_set(&d->error, "'%s' does not speak QMP: %s", d->path, error->message);
    } else if (json_object_object_get_ex(value, "error", &member)) {
        description = json_object_object_get(member, "desc");
        tm_error_set(&d->error, "'%s': %s", d->path,
                     json_object_is_type(description, json_type_string)
                         ? json_object_get_string(description)
                         : "an error without a description");
    } else if (json_object_object_get_ex(value, "id", NULL) &&
               json_object_object_get_ex(value, "return", &member)) {
        if (json_object_is_type(member, json_type_object))
            d->configuration = json_object_get(member);
        else
            tm_error_set(&d->error, "'%s': expected a configuration, an object", d->path);
    }
    d->done = d->error || d->configuration;
}

/* As recv(), until @end; ETIMEDOUT then. */
static ssize_t receive(int fd, char *buffer, size_t size, gint64 end)
{
    gint64 left = end - g_get_monotonic_time();
    struct timeval limit = { .tv_sec = left / G_USEC_PER_SEC, .tv_usec = left % G_USEC_PER_SEC };
    ssize_t n = -1;

    errno = EAGAIN;
    if (left > 0 && setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) == 0)
        n = recv(fd, buffer, size, 0);
    if (n < 0 && errno == EAGAIN)
        errno = ETIMEDOUT;
    return n;
}

/* No answer within a time is one, too. */
static bool ask(Dump *d, GError **error)
{
    QmpStream *stream = qmp_stream_new(answered, d);
    gint64 end = g_get_monotonic_time() + TIMEOUT_MS * G_TIME_SPAN_MILLISECOND;
    char buffer[4096];
    ssize_t n = 1;

    g_unix_set_fd_nonblocking(d->fd, FALSE, NULL);
    if (send(d->fd, COMMANDS, sizeof(COMMANDS) - 1, MSG_NOSIGNAL) < 0)
        n = -1;
    while (!d->done && n > 0) {
        n = receive(d->fd, buffer, sizeof(buffer), end);
        if (n > 0)
            qmp_stream_feed(stream, buffer, (size_t)n);
    }
    qmp_stream_free(stream);
    if (d->error) {
        g_propagate_error(error, d->error);
        return false;
    }
    if (d->configuration)
        return true;
    return n < 0 ? tm_error_set_errno(error, errno, "'%s'", d->path)
                 : tm_error_set(error, "'%s': the connection ended without an answer", d->path);
}

bool dump_config(const char *path, GError **error)
{
    TmAddress address = { .type = TM_ADDRESS_UNIX, .path = path };
    Dump d = { .path = path };
    g_autofree char *text = NULL;
    bool ok;

    d.fd = tm_address_connect(&address, NULL, TIMEOUT_MS, error);
    if (d.fd < 0)
        return false;
    ok = ask(&d, error);
    close(d.fd);
    if (!ok)
        return false;
    text = qmp_json_text(d.configuration, true);
    json_object_put(d.configuration);
    return puts(text) >= 0 && fflush(stdout) == 0
               ? true
               : tm_error_set_errno(error, errno, "standard output");
}
