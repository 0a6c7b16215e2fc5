/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/backup/agent.c: see agent.h. */
#include "client/backup/agent.h"
#include "util/range.h"
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* Before an answer to guest-sync-delimited, and before what we send, to end what others began. */
#define DELIMITER '\xff'
enum { REPLY_MAX = 1 << 20 };

struct TcAgent {
    int fd;
    char *path;
    GString *buf; /* what has come and not been used */
};

static bool fail(const TcAgent *a, GError **error, int errnum)
{
    return tm_error_set_errno(error, errnum, "guest agent '%s'", a->path);
}

/* Waits for @events of the socket. */
static bool wait_for(TcAgent *a, short events, gint64 deadline, GError **error)
{
    struct pollfd fd = { .fd = a->fd, .events = events };

    for (;;) {
        gint64 left = deadline - g_get_monotonic_time();
        int r = left <= 0 ? 0 : poll(&fd, 1, (int)tm_min((uint64_t)left / 1000 + 1, 3600000));

        if (r > 0)
            return true;
        if (r < 0 && errno != EINTR)
            return fail(a, error, errno);
        if (left <= 0)
            return tm_error_set(error, "guest agent '%s' does not answer", a->path);
    }
}

static bool send_bytes(TcAgent *a, const char *bytes, size_t length, gint64 deadline,
                       GError **error)
{
    while (length) {
        ssize_t sent = send(a->fd, bytes, length, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (sent < 0 && errno == EAGAIN) {
            if (!wait_for(a, POLLOUT, deadline, error))
                return false;
            continue;
        }
        if (sent < 0 && errno != EINTR)
            return fail(a, error, errno);
        if (sent > 0) {
            bytes += sent;
            length -= (size_t)sent;
        }
    }
    return true;
}

static bool receive(TcAgent *a, gint64 deadline, GError **error)
{
    char bytes[4096];
    ssize_t got;

    if (!wait_for(a, POLLIN, deadline, error))
        return false;
    got = recv(a->fd, bytes, sizeof(bytes), MSG_DONTWAIT);
    if (got < 0)
        return errno == EAGAIN || errno == EINTR || fail(a, error, errno);
    if (!got)
        return tm_error_set(error, "guest agent '%s' closed the connection", a->path);
    if (a->buf->len + (size_t)got > REPLY_MAX)
        return tm_error_set(error, "guest agent '%s': this is no guest agent", a->path);
    g_string_append_len(a->buf, bytes, got);
    return true;
}

/* The next line, without its end: returned. */
static char *next_line(TcAgent *a, gint64 deadline, GError **error)
{
    for (;;) {
        const char *end = memchr(a->buf->str, '\n', a->buf->len);

        if (end) {
            gssize length = end - a->buf->str;
            char *line = g_strndup(a->buf->str, (gsize)length);

            g_string_erase(a->buf, 0, length + 1);
            return line;
        }
        if (!receive(a, deadline, error))
            return NULL;
    }
}

static json_object *parse_reply(const TcAgent *a, const char *line, const char *command,
                                GError **error)
{
    g_autoptr(json_object) reply = json_tokener_parse(line);
    json_object *result = NULL, *details = tc_json_get(reply, "error", NULL);
    const char *desc = tc_json_string(details, "desc");

    if (json_object_is_type(reply, json_type_object) &&
        json_object_object_get_ex(reply, "return", &result))
        return result ? json_object_get(result) : json_object_new_object();
    tm_error_set(error, "guest agent '%s': %s: %s", a->path, command,
                 desc      ? desc
                 : details ? "it failed"
                           : "the answer is not JSON");
    return NULL;
}

json_object *tc_agent_execute(TcAgent *a, const char *command, gint64 deadline, GError **error)
{
    g_autofree char *text = g_strdup_printf("{\"execute\":\"%s\"}\n", command), *line = NULL;

    if (!send_bytes(a, text, strlen(text), deadline, error))
        return NULL;
    line = next_line(a, deadline, error);
    return line ? parse_reply(a, line, command, error) : NULL;
}

/* Answers to earlier clients are passed over until ours comes, which the delimiter precedes. */
static bool synchronize(TcAgent *a, gint64 deadline, GError **error)
{
    int64_t id = g_random_int_range(1, G_MAXINT32);
    g_autofree char *text = g_strdup_printf(
        "%c{\"execute\":\"guest-sync-delimited\",\"arguments\":{\"id\":%" PRId64 "}}\n", DELIMITER,
        id);

    if (!send_bytes(a, text, strlen(text), deadline, error))
        return false;
    for (;;) {
        g_autofree char *line = next_line(a, deadline, error);
        const char *begin = line ? strrchr(line, DELIMITER) : NULL;
        g_autoptr(json_object) result = NULL;

        if (!line)
            return false;
        if (!begin)
            continue;
        result = parse_reply(a, begin + 1, "guest-sync-delimited", NULL);
        if (json_object_is_type(result, json_type_int) && json_object_get_int64(result) == id)
            return true;
    }
}

TcAgent *tc_agent_open(const char *path, gint64 deadline, GError **error)
{
    g_autoptr(TcAgent) a = g_new0(TcAgent, 1);
    struct sockaddr_un address = { .sun_family = AF_UNIX };

    a->path = g_strdup(path);
    a->buf = g_string_new(NULL);
    a->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (a->fd < 0 || strlen(path) >= sizeof(address.sun_path)) {
        fail(a, error, a->fd < 0 ? errno : ENAMETOOLONG);
        return NULL;
    }
    strcpy(address.sun_path, path);
    if (connect(a->fd, (struct sockaddr *)&address, sizeof(address))) {
        fail(a, error, errno);
        return NULL;
    }
    return synchronize(a, deadline, error) ? g_steal_pointer(&a) : NULL;
}

void tc_agent_free(TcAgent *a)
{
    if (!a)
        return;
    if (a->fd >= 0)
        close(a->fd);
    g_string_free(a->buf, TRUE);
    g_free(a->path);
    g_free(a);
}
