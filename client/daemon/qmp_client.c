/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/daemon/qmp_client.c: see qmp_client.h. */
#include "client/daemon/qmp_client.h"
#include "client/daemon/runtime_dir.h"
#include "util/unix_socket.h"
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* A reply longer than this is a broken server: query-qmp-schema is some hundred kilobytes. */
enum { REPLY_MAX = 256 << 20, JSON_DEPTH = 128, READ_SIZE = 65536, GREETING_SECONDS = 10 };

struct TcQmp {
    int fd;
    TcQmpWait wait; /* NULL: recv() waits */
    void *opaque;
    char *path;
    json_tokener *tokener;
    char *buf;
    size_t start, end; /* what is in buf and not parsed yet */
    json_object *greeting;
    bool ended; /* there are no more replies */
};

char *tc_qmp_socket(const char *option)
{
    const char *variable = g_getenv("TIDEMARK_SOCKET"), *runtime = g_getenv("XDG_RUNTIME_DIR");
    g_autofree char *dir = tc_runtime_dir();
    g_autofree char *of_user =
        runtime && *runtime ? g_build_filename(runtime, "tidemark.sock", NULL) : NULL;
    g_autofree char *of_serve = g_build_filename(dir, TC_QMP_SOCKET_NAME, NULL);

    if (option)
        return g_strdup(option);
    if (variable && *variable)
        return g_strdup(variable);
    if (of_user && tc_socket_listens(of_user))
        return g_steal_pointer(&of_user);
    if (tc_runtime_dir_ours(dir) && tc_socket_listens(of_serve))
        return g_steal_pointer(&of_serve);
    return g_strdup("/run/tidemark/qmp.sock");
}

/* The next JSON value from the socket: a new reference. */
static json_object *receive(TcQmp *qmp, GError **error)
{
    size_t total = 0;

    for (;;) {
        ssize_t got;

        if (qmp->start < qmp->end) {
            json_object *value = json_tokener_parse_ex(qmp->tokener, qmp->buf + qmp->start,
                                                       (int)(qmp->end - qmp->start));
            enum json_tokener_error state = json_tokener_get_error(qmp->tokener);

            if (state == json_tokener_success) {
                qmp->start += json_tokener_get_parse_end(qmp->tokener);
                return value;
            }
            total += qmp->end - qmp->start;
            qmp->start = qmp->end;
            if (state != json_tokener_continue || total > REPLY_MAX) {
                tm_error_set(error, "socket '%s': this is not QMP: %s", qmp->path,
                             state == json_tokener_continue ? "the reply is too long"
                                                            : json_tokener_error_desc(state));
                return NULL;
            }
        }
        if (qmp->wait && !qmp->wait(qmp->fd, qmp->opaque, error))
            return NULL;
        got = recv(qmp->fd, qmp->buf, READ_SIZE, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            if (errno == EAGAIN)
                tm_error_set(error,
                             "socket '%s': no greeting within %d seconds: the server may be busy "
                             "with its only client",
                             qmp->path, GREETING_SECONDS);
            else
                tm_error_set_errno(error, errno, "socket '%s'", qmp->path);
            return NULL;
        }
        if (!got) {
            tm_error_set(error, "socket '%s': the server closed the connection", qmp->path);
            return NULL;
        }
        qmp->start = 0;
        qmp->end = (size_t)got;
    }
}

/* @fd (-1: none) goes with the first byte. */
static bool send_text(TcQmp *qmp, const char *text, int fd, GError **error)
{
    size_t left = strlen(text);

    while (left) {
        struct iovec iov = { (void *)text, left };
        ssize_t sent = tm_unix_send(qmp->fd, &iov, 1, fd, 0);

        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0)
            return tm_error_set_errno(error, errno, "socket '%s'", qmp->path);
        fd = -1;
        text += sent;
        left -= (size_t)sent;
    }
    return true;
}

/* An error reply as a GError. */
static void set_server_error(json_object *reply, GError **error)
{
    static const struct {
        const char *name;
        TmErrorClass code;
    } classes[] = {
        { "GenericError", TM_ERROR_GENERIC },
        { "CommandNotFound", TM_ERROR_COMMAND_NOT_FOUND },
        { "DeviceNotActive", TM_ERROR_DEVICE_NOT_ACTIVE },
        { "DeviceNotFound", TM_ERROR_DEVICE_NOT_FOUND },
    };
    json_object *details = tc_json_get(reply, "error", NULL);
    const char *name = tc_json_string(details, "class"), *desc = tc_json_string(details, "desc");

    for (unsigned i = 0; i < G_N_ELEMENTS(classes); i++) {
        if (name && !strcmp(classes[i].name, name)) {
            tm_error_set_class(error, classes[i].code, "%s", desc ? desc : "no description");
            return;
        }
    }
    tm_error_set(error, "%s: %s", name ? name : "error", desc ? desc : "no description");
}

static void append_request(GString *text, const char *command, json_object *arguments)
{
    g_autoptr(json_object) request = json_object_new_object();

    json_object_object_add(request, "execute", json_object_new_string(command));
    if (arguments)
        json_object_object_add(request, "arguments", json_object_get(arguments));
    g_string_append(text, json_object_to_json_string_ext(request, JSON_C_TO_STRING_PLAIN));
    g_string_append_c(text, '\n');
}

/* The result of the next reply, or its error. */
static json_object *take_reply(TcQmp *qmp, GError **error)
{
    for (;;) {
        g_autoptr(json_object) reply = receive(qmp, error);
        json_object *result;

        if (!reply) {
            qmp->ended = true;
            return NULL;
        }
        if (tc_json_get(reply, "event", NULL))
            continue;
        if (json_object_is_type(reply, json_type_object) &&
            json_object_object_get_ex(reply, "return", &result))
            return result ? json_object_get(result) : json_object_new_object();
        set_server_error(reply, error);
        return NULL;
    }
}

json_object *tc_qmp_execute_fd(TcQmp *qmp, const char *command, json_object *arguments, int fd,
                               GError **error)
{
    g_autoptr(GString) text = g_string_new(NULL);

    /* At once: who has the last brace may answer, and be gone. */
    append_request(text, command, arguments);
    return send_text(qmp, text->str, fd, error) ? take_reply(qmp, error) : NULL;
}

json_object *tc_qmp_execute(TcQmp *qmp, const char *command, json_object *arguments, GError **error)
{
    return tc_qmp_execute_fd(qmp, command, arguments, -1, error);
}

bool tc_qmp_run(TcQmp *qmp, const char *command, json_object *arguments, GError **error)
{
    g_autoptr(json_object) owned = arguments;
    g_autoptr(json_object) result = tc_qmp_execute(qmp, command, owned, error);

    return result != NULL;
}

static void command_clear(void *data)
{
    TcQmpCommand *command = data;

    json_object_put(command->arguments);
    g_clear_error(&command->error);
}

GArray *tc_qmp_commands(void)
{
    GArray *commands = g_array_new(FALSE, FALSE, sizeof(TcQmpCommand));

    g_array_set_clear_func(commands, command_clear);
    return commands;
}

void tc_qmp_commands_add(GArray *commands, const char *name, json_object *arguments)
{
    TcQmpCommand command = { name, arguments, NULL };

    g_array_append_val(commands, command);
}

bool tc_qmp_run_all(TcQmp *qmp, GArray *commands, GError **error)
{
    g_autoptr(GString) text = g_string_new(NULL);

    for (guint i = 0; i < commands->len; i++) {
        const TcQmpCommand *c = &g_array_index(commands, TcQmpCommand, i);

        append_request(text, c->name, c->arguments);
    }
    if (!send_text(qmp, text->str, -1, error))
        return false;
    for (guint i = 0; i < commands->len; i++) {
        TcQmpCommand *c = &g_array_index(commands, TcQmpCommand, i);

        json_object_put(take_reply(qmp, &c->error));
        if (qmp->ended) {
            g_propagate_error(error, g_steal_pointer(&c->error));
            return false;
        }
    }
    return true;
}

json_object *tc_qmp_event(TcQmp *qmp, GError **error)
{
    for (;;) {
        json_object *message = receive(qmp, error);

        if (!message || tc_json_string(message, "event"))
            return message;
        json_object_put(message);
    }
}

pid_t tc_qmp_pid(const TcQmp *qmp)
{
    struct ucred peer = { 0 };
    socklen_t size = sizeof(peer);

    return getsockopt(qmp->fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) ? 0 : peer.pid;
}

/* 0: none. */
static void set_timeout(int fd, int seconds)
{
    struct timeval limit = { .tv_sec = seconds };

    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
}

/* @who and @hint are for the error when nobody listens there. */
static TcQmp *open_at(const char *path, const char *who, const char *hint, TcQmpWait wait,
                      void *opaque, GError **error)
{
    g_autoptr(TcQmp) qmp = g_new0(TcQmp, 1);
    g_autoptr(json_object) ready = NULL;
    struct sockaddr_un address = { .sun_family = AF_UNIX };

    qmp->path = g_strdup(path);
    qmp->wait = wait;
    qmp->opaque = opaque;
    qmp->buf = g_malloc(READ_SIZE);
    qmp->tokener = json_tokener_new_ex(JSON_DEPTH);
    qmp->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (qmp->fd < 0) {
        tm_error_set_errno(error, errno, "socket");
        return NULL;
    }
    if (strlen(path) >= sizeof(address.sun_path)) {
        tm_error_set(error, "socket '%s': the path is longer than %zu bytes", path,
                     sizeof(address.sun_path) - 1);
        return NULL;
    }
    strcpy(address.sun_path, path);
    if (connect(qmp->fd, (struct sockaddr *)&address, sizeof(address))) {
        tm_error_set_errno(error, errno, "no %s at socket '%s' (%s)", who, path, hint);
        return NULL;
    }
    /* commands may take as long as they need, but who listens also greets */
    set_timeout(qmp->fd, GREETING_SECONDS);
    qmp->greeting = receive(qmp, error);
    if (!qmp->greeting)
        return NULL;
    set_timeout(qmp->fd, 0);
    if (!tc_json_get(qmp->greeting, "QMP", NULL)) {
        tm_error_set(error, "socket '%s': this is not QMP: no greeting", path);
        return NULL;
    }
    ready = tc_qmp_execute(qmp, "qmp_capabilities", NULL, error);
    return ready ? g_steal_pointer(&qmp) : NULL;
}

TcQmp *tc_qmp_open_waiting(const char *path, TcQmpWait wait, void *opaque, GError **error)
{
    return open_at(path, "daemon",
                   "--socket or TIDEMARK_SOCKET name another, and 'tidemark serve DISK' starts one",
                   wait, opaque, error);
}

TcQmp *tc_qmp_open(const char *path, GError **error)
{
    return tc_qmp_open_waiting(path, NULL, NULL, error);
}

TcQmp *tc_qmp_open_qemu(const char *path, GError **error)
{
    return open_at(path, "QEMU", "its option is -qmp unix:PATH,server=on,wait=off", NULL, NULL,
                   error);
}

json_object *tc_qmp_greeting(const TcQmp *qmp)
{
    return qmp->greeting;
}

void tc_qmp_free(TcQmp *qmp)
{
    if (!qmp)
        return;
    if (qmp->fd >= 0)
        close(qmp->fd);
    json_object_put(qmp->greeting);
    json_tokener_free(qmp->tokener);
    g_free(qmp->buf);
    g_free(qmp->path);
    g_free(qmp);
}
