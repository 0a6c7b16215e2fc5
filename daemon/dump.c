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

    if (error)
        tm_error_set(&d->error, "'%s' does not speak QMP: %s", d->path, error->message);
    else if (json_object_object_get_ex(value, "error", &member) &&
             json_object_object_get_ex(member, "desc", &description))
        tm_error_set(&d->error, "'%s': %s", d->path, json_object_get_string(description));
    else if (json_object_object_get_ex(value, "id", NULL) &&
             json_object_object_get_ex(value, "return", &member))
        d->configuration = json_object_get(member);
    d->done = d->error || d->configuration;
}

/* No answer within a time is one, too. */
static bool ask(Dump *d, GError **error)
{
    QmpStream *stream = qmp_stream_new(answered, d);
    struct timeval limit = { .tv_sec = TIMEOUT_MS / 1000 };
    char buffer[4096];
    ssize_t n = 1;

    g_unix_set_fd_nonblocking(d->fd, FALSE, NULL);
    setsockopt(d->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    if (send(d->fd, COMMANDS, sizeof(COMMANDS) - 1, MSG_NOSIGNAL) < 0)
        n = -1;
    while (!d->done && n > 0) {
        n = recv(d->fd, buffer, sizeof(buffer), 0);
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
    return n < 0 ? tm_error_set_errno(error, errno == EAGAIN ? ETIMEDOUT : errno, "'%s'", d->path)
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
