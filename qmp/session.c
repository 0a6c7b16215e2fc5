/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp/session.c: the conversation with one client.
 *
 * Input is read when it is there and while not too much output waits; each value is answered before
 * the next one is read, so replies are in order. Output waits in a buffer that is written when
 * the descriptor takes more; both directions use poll and calls that cannot block, without
 * O_NONBLOCK, which on standard input would change the terminal for everybody else on it.
 *
 * Invariant: the session ends (and is freed) only from a source of its own, never while a message
 * is being handled or an event sent. */
#include "qmp/json/json.h"
#include "qmp/qmp_internal.h"
#include "util/error.h"
#include <errno.h>
#include <glib-unix.h>
#include <limits.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define PAUSE_AT  ((size_t)1 << 20)
#define CUT_AT    ((size_t)64 << 20)
#define HELLO_MAX 65536u /* bytes of a client that has limits and has not negotiated */

struct QmpSession {
    QmpContext *ctx;
    QmpSessionOptions options;
    QmpStream *stream;
    QmpListener *listener;
    bool negotiated;
    bool socket;
    bool ended;        /* no more input */
    bool broken;       /* the client is to be cut off */
    char input[16384]; /* of a record of TLS nothing is left then */
    size_t input_length, input_used;
    GString *output;
    size_t sent;                         /* of output */
    GSource *reading, *writing, *ending; /* NULL: not watched */
    GSource *deadline;                   /* until it has negotiated; or NULL */
    size_t received;                     /* before that */
};

static void update(QmpSession *s);

static size_t waiting(const QmpSession *s)
{
    return s->output->len - s->sent;
}

/* ---- output ---- */

/* Without blocking. A pipe or terminal that polls writable takes PIPE_BUF bytes. */
static ssize_t put(const QmpSession *s, const char *data, size_t n)
{
    const QmpConnection *c = &s->options.connection;

    if (c->tls)
        return qmp_tls_send(c->tls, data, n);
    return s->socket ? send(c->out, data, n, MSG_DONTWAIT | MSG_NOSIGNAL)
                     : write(c->out, data, MIN(n, PIPE_BUF));
}

static ssize_t get(const QmpSession *s, void *data, size_t n)
{
    const QmpConnection *c = &s->options.connection;

    if (c->tls)
        return qmp_tls_recv(c->tls, data, n);
    return s->socket ? recv(c->in, data, n, MSG_DONTWAIT) : read(c->in, data, n);
}

/* Writes what the descriptor takes. */
static bool write_some(QmpSession *s)
{
    const char *at = s->output->str + s->sent;
    size_t n = waiting(s);
    ssize_t r = put(s, at, n);

    if (r < 0)
        return errno == EAGAIN || errno == EINTR;
    s->sent += (size_t)r;
    if (s->sent == s->output->len) {
        g_string_free(s->output, TRUE);
        s->output = g_string_new(NULL);
        s->sent = 0;
    } else if (s->sent >= PAUSE_AT) {
        g_string_erase(s->output, 0, (gssize)s->sent);
        s->sent = 0;
    }
    return true;
}

static void cut(QmpSession *s, const char *why)
{
    s->broken = true;
    tm_log_note(qmp_context_log(s->ctx),
                &(TmLogFacts){ .area = TM_LOG_QMP, .level = TM_LOG_WARNING }, "%s", why);
}

/* Lines end as on a terminal, in pretty output too. */
static void write_message(QmpSession *s, json_object *message)
{
    g_autofree char *text = qmp_json_text(message, s->options.pretty);
    size_t before = s->output->len;

    for (const char *line = text, *end; line; line = end ? end + 1 : NULL) {
        end = strchr(line, '\n');
        g_string_append_len(s->output, line, end ? end - line : -1);
        g_string_append(s->output, "\r\n");
    }
    if (s->options.sent)
        s->options.sent(s->options.owner, s->output->str + before, s->output->len - before);
}

static void say(QmpSession *s, json_object *message)
{
    if (s->broken)
        return;
    if (waiting(s) >= CUT_AT) {
        cut(s, "disconnected a QMP client that does not read its replies");
    } else {
        write_message(s, message);
        /* Most replies go out at once; an error shows again when the rest is written. */
        if (s->socket)
            write_some(s);
    }
    update(s);
}

void qmp_session_flush(QmpSession *s, gint64 until)
{
    while (waiting(s) && !s->broken) {
        struct pollfd p = { s->options.connection.out, POLLOUT, 0 };
        gint64 left = (until - g_get_monotonic_time()) / 1000;
        int r = poll(&p, 1, left > 0 ? (int)left : 0);

        if (r == 0 || (r < 0 && errno != EINTR))
            return;
        if (r > 0 && !write_some(s))
            return;
    }
}

static void send_event(void *opaque, json_object *event)
{
    QmpSession *s = opaque;

    if (s->negotiated)
        say(s, event);
}

static void greet(QmpSession *s)
{
    json_object *greeting = json_object_new_object(), *body = json_object_new_object();

    json_object_object_add(body, "version", qmp_context_version());
    json_object_object_add(body, "capabilities", json_object_new_array());
    json_object_object_add(greeting, "QMP", body);
    say(s, greeting);
    json_object_put(greeting);
}

/* ---- requests ---- */

static bool check_member(const char *key, json_object *value, const char **command,
                         json_object **args, GError **error)
{
    if (!strcmp(key, "execute")) {
        if (!json_object_is_type(value, json_type_string))
            return tm_error_set(error, "QMP input member '%s' must be a string", key);
        *command = json_object_get_string(value);
    } else if (!strcmp(key, "arguments")) {
        if (!json_object_is_type(value, json_type_object))
            return tm_error_set(error, "QMP input member 'arguments' must be an object");
        *args = value;
    } else if (strcmp(key, "id")) {
        return tm_error_set(error, "QMP input member '%s' is unexpected", key);
    }
    return true;
}

static bool take_apart(json_object *request, const char **command, json_object **args,
                       GError **error)
{
    if (!json_object_is_type(request, json_type_object))
        return tm_error_set(error, "QMP input must be a JSON object");
    json_object_object_foreach(request, key, value)
    {
        if (!check_member(key, value, command, args, error))
            return false;
    }
    return *command || tm_error_set(error, "QMP input lacks member 'execute'");
}

/* qmp_capabilities is the session's own: its table entry is for introspection. */
static bool negotiate(QmpSession *s, json_object *args, GError **error)
{
    const QmpCommand *c = qmp_table_command("qmp_capabilities");
    json_object *none = json_object_new_object(), *enable;
    bool ok = qmp_check(qmp_context_types(s->ctx), c->args, args ? args : none, error);

    json_object_put(none);
    if (!ok)
        return false;
    enable = args ? qmp_arg(args, "enable") : NULL;
    if (enable && json_object_array_length(enable))
        return tm_error_set(error, "Capability %s not available",
                            json_object_get_string(json_object_array_get_idx(enable, 0)));
    s->negotiated = true;
    return true;
}

static bool answer(QmpSession *s, json_object *request, json_object **result, GError **error)
{
    const char *command = NULL;
    json_object *args = NULL;

    if (!take_apart(request, &command, &args, error))
        return false;
    if (!s->negotiated) {
        if (!strcmp(command, "qmp_capabilities"))
            return negotiate(s, args, error);
        return tm_error_set_class(error, TM_ERROR_COMMAND_NOT_FOUND,
                                  "Expecting capabilities negotiation with 'qmp_capabilities'");
    }
    return qmp_dispatch(s->ctx, command, args, result, error);
}

static json_object *error_body(const GError *error)
{
    json_object *body = json_object_new_object();

    json_object_object_add(body, "class", json_object_new_string(tm_error_class_name(error)));
    json_object_object_add(body, "desc", json_object_new_string(error->message));
    return body;
}

static void handle_input(void *opaque, json_object *request, const GError *malformed)
{
    QmpSession *s = opaque;
    json_object *reply = json_object_new_object(), *result = NULL, *id = NULL;
    g_autoptr(GError) error = malformed ? g_error_copy(malformed) : NULL;

    if (!error)
        answer(s, request, &result, &error);
    if (error)
        json_object_object_add(reply, "error", error_body(error));
    else
        json_object_object_add(reply, "return", result ? result : json_object_new_object());
    if (json_object_is_type(request, json_type_object) &&
        json_object_object_get_ex(request, "id", &id))
        json_object_object_add(reply, "id", json_object_get(id));
    say(s, reply);
    json_object_put(reply);
}

/* ---- sources ---- */

static void stop_watching(GSource **source)
{
    if (*source) {
        g_source_destroy(*source);
        g_source_unref(*source);
        *source = NULL;
    }
}

/* From a source only; returns what that returns. */
static gboolean end(void *opaque)
{
    QmpSession *s = opaque;

    s->options.ended(s->options.owner, s);
    return G_SOURCE_REMOVE;
}

static gboolean too_late(void *opaque)
{
    QmpSession *s = opaque;

    cut(s, "disconnected a QMP client that did not negotiate in time");
    update(s);
    return G_SOURCE_REMOVE;
}

/* A client that anybody may be must not fill the memory before it has said what it speaks. */
static void count_received(QmpSession *s)
{
    if (s->negotiated) {
        stop_watching(&s->deadline);
    } else if (s->deadline) {
        s->received += s->input_length;
        if (s->received > HELLO_MAX)
            cut(s, "disconnected a QMP client that sends data and does not negotiate");
    }
}

/* Handles what has been read, as far as the output has room. */
static void consume(QmpSession *s)
{
    while (s->input_used < s->input_length && waiting(s) < PAUSE_AT && !s->broken)
        qmp_stream_feed(s->stream, s->input + s->input_used++, 1);
}

static gboolean readable(int fd, GIOCondition condition, void *opaque)
{
    QmpSession *s = opaque;
    ssize_t n;

    if (s->input_used == s->input_length) {
        n = get(s, s->input, sizeof(s->input));
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return G_SOURCE_CONTINUE;
        s->ended = n <= 0;
        s->input_used = 0;
        s->input_length = n > 0 ? (size_t)n : 0;
    }
    consume(s);
    count_received(s);
    if (s->ended && !waiting(s))
        return end(s);
    update(s);
    return G_SOURCE_CONTINUE;
}

static gboolean writable(int fd, GIOCondition condition, void *opaque)
{
    QmpSession *s = opaque;

    if (!write_some(s))
        return end(s);
    consume(s);
    if (s->ended && !waiting(s))
        return end(s);
    update(s);
    return G_SOURCE_CONTINUE;
}

static void watch(QmpSession *s, GSource **source, bool wanted, int fd, GIOCondition condition,
                  GUnixFDSourceFunc fn)
{
    if (!wanted) {
        stop_watching(source);
    } else if (!*source) {
        *source = g_unix_fd_source_new(fd, condition);
        g_source_set_callback(*source, G_SOURCE_FUNC(fn), s, NULL);
        g_source_attach(*source, qmp_context_main(s->ctx));
    }
}

/* Watches for what the session can do now. */
static void update(QmpSession *s)
{
    watch(s, &s->reading,
          s->options.connection.in >= 0 && waiting(s) < PAUSE_AT && !s->broken && !s->ended,
          s->options.connection.in, G_IO_IN | G_IO_HUP | G_IO_ERR, readable);
    watch(s, &s->writing, waiting(s) > 0 && !s->broken, s->options.connection.out,
          G_IO_OUT | G_IO_HUP | G_IO_ERR, writable);
    if (s->broken && !s->ending) {
        s->ending = g_idle_source_new();
        g_source_set_callback(s->ending, end, s, NULL);
        g_source_attach(s->ending, qmp_context_main(s->ctx));
    }
}

static bool is_socket(int fd)
{
    int type;
    socklen_t length = sizeof(type);

    return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) == 0;
}

QmpSession *qmp_session_new(QmpContext *ctx, const QmpSessionOptions *options)
{
    QmpSession *s = g_new0(QmpSession, 1);

    s->ctx = ctx;
    s->options = *options;
    s->socket = is_socket(options->connection.in) && is_socket(options->connection.out);
    s->output = g_string_new(NULL);
    s->stream = qmp_stream_new(handle_input, s);
    s->listener = qmp_context_listen(ctx, send_event, s);
    if (options->negotiate_ms) {
        s->deadline = g_timeout_source_new(options->negotiate_ms);
        g_source_set_callback(s->deadline, too_late, s, NULL);
        g_source_attach(s->deadline, qmp_context_main(ctx));
    }
    greet(s);
    update(s);
    return s;
}

const QmpConnection *qmp_session_connection(const QmpSession *s)
{
    return &s->options.connection;
}

void qmp_session_free(QmpSession *s)
{
    if (!s)
        return;
    stop_watching(&s->reading);
    stop_watching(&s->writing);
    stop_watching(&s->ending);
    qmp_listener_free(s->listener);
    qmp_stream_free(s->stream);
    g_string_free(s->output, TRUE);
    stop_watching(&s->deadline);
    g_free(s);
}
