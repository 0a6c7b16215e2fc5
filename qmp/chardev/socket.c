/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp/chardev/socket.c: channels that are sockets: they listen for clients, or connect to one
 * server, again and again if that is wanted. With TLS, a connection is the user's after the
 * handshake.
 *
 * A client that comes to no user waits in the kernel's queue. An attempt to connect again to a host
 * runs in a thread, since names may have to be resolved; what the thread works on is its own, so
 * that the channel may be removed meanwhile. */
#include "qmp/chardev/chardev_internal.h"
#include "util/error.h"
#include "util/json.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define CONNECT_MS 5000 /* for an answer */
#define PAUSE_MS   1000 /* until clients are taken again when there were no descriptors */
#define HANDSHAKES 64u  /* at a time; then the next one ends another */

typedef struct Socket Socket;

/* To connect, in a thread. */
typedef struct Attempt {
    Socket *socket; /* main thread: NULL if it is gone */
    GThread *thread;
    GMainContext *main;
    TmAddress *address;
    int fd;
    GError *error;
} Attempt;

struct Socket {
    QmpChardev *c;
    TmAddress *address;
    unsigned n_clients; /* connections that the user has */
    char *peer;         /* of the last connection, while it is the only one */
    QmpTlsOptions tls;
    /* QmpTls, owned, oldest first: of connections that are not the user's yet. Those whose
     * handshake is over wait for the user to have room; no others are accepted meanwhile. */
    GPtrArray *handshakes;

    bool server;
    GArray *sockets;    /* TmSocket */
    GPtrArray *watches; /* GSource: clients are taken */
    GSource *pause;

    int64_t reconnect_ms;
    int pending;      /* connected, and nobody has taken it; or -1 */
    GSource *waiting; /* until the next attempt */
    Attempt *attempt;
    char *complaint; /* as reported last, and nobody has come since; or NULL */
};

static const char *const family_names[] = {
    [TM_ADDRESS_UNIX] = "unix",
    [TM_ADDRESS_INET] = "tcp",
    [TM_ADDRESS_VSOCK] = "vsock",
    [TM_ADDRESS_FD] = "fd",
};

static const char *const type_names[] = {
    [TM_ADDRESS_UNIX] = "unix",
    [TM_ADDRESS_INET] = "inet",
    [TM_ADDRESS_VSOCK] = "vsock",
    [TM_ADDRESS_FD] = "fd",
};

static void start_accepting(Socket *s);
static void stop_accepting(Socket *s);
static void try_later(Socket *s);

static bool is_full(const Socket *s)
{
    return s->c->remote && s->n_clients >= QMP_CHARDEV_REMOTE_MAX;
}

static void give(Socket *s, int fd, QmpTls *tls)
{
    QmpConnection connection = { fd, fd, tls };

    g_clear_pointer(&s->complaint, g_free);
    g_free(s->peer);
    s->peer = tm_address_peer(fd);
    s->n_clients++;
    if (is_full(s)) {
        qmp_chardev_note(s->c, "has %u clients: others have to wait", s->n_clients);
        stop_accepting(s);
    }
    s->c->connected(s->c->opaque, &connection);
}

/* The user gets a connection whose handshake is over. */
static void give_waiting(Socket *s)
{
    for (guint i = 0; i < s->handshakes->len && !is_full(s); i++) {
        QmpTls *tls = s->handshakes->pdata[i];

        if (qmp_tls_stage(tls) == QMP_TLS_OVER) {
            g_ptr_array_steal_index(s->handshakes, i);
            give(s, qmp_tls_fd(tls), tls);
            return;
        }
    }
}

/* A connection is over: the next one may come. */
static void hang_up(Socket *s, int fd, QmpTls *tls)
{
    qmp_tls_free(tls);
    close(fd);
    if (!s->c->connected)
        return;
    give_waiting(s);
    if (s->server)
        start_accepting(s);
    else if (s->reconnect_ms)
        try_later(s);
}

/* Says once what happens again and again. Takes @text. */
static void complain(Socket *s, char *text)
{
    if (g_strcmp0(s->complaint, text))
        qmp_chardev_note(s->c, "%s", text);
    g_free(s->complaint);
    s->complaint = text;
}

static void note_refused(Socket *s, int fd, const char *why)
{
    g_autofree char *peer = tm_address_peer(fd);

    complain(s, g_strdup_printf("TLS with %s failed: %s", peer, why));
}

static void end_handshake(Socket *s, guint i)
{
    QmpTls *tls = g_ptr_array_steal_index(s->handshakes, i);

    hang_up(s, qmp_tls_fd(tls), tls);
}

static void shaken(void *opaque, QmpTls *tls, int fd, const char *why)
{
    Socket *s = opaque;
    guint i;

    g_ptr_array_find(s->handshakes, tls, &i);
    if (why) {
        note_refused(s, fd, why);
        end_handshake(s, i);
    } else {
        give_waiting(s);
    }
}

/* Who connects and says nothing can't keep others out: the oldest of those has to go, else the
 * oldest of all. */
static void make_room(Socket *s)
{
    guint i = 0;

    if (s->handshakes->len < HANDSHAKES)
        return;
    while (i < s->handshakes->len && qmp_tls_stage(s->handshakes->pdata[i]) != QMP_TLS_SILENT)
        i++;
    complain(s, g_strdup_printf("%u connections have not finished their TLS handshakes: each new "
                                "one ends the oldest",
                                HANDSHAKES));
    end_handshake(s, i < s->handshakes->len ? i : 0);
}

static void take(Socket *s, int fd)
{
    g_autoptr(GError) error = NULL;
    QmpTls *tls;

    if (!s->tls.creds) {
        give(s, fd, NULL);
        return;
    }
    make_room(s);
    tls = qmp_tls_new(s->c, fd, &s->tls, shaken, s, &error);
    if (tls) {
        g_ptr_array_add(s->handshakes, tls);
    } else {
        note_refused(s, fd, error->message);
        hang_up(s, fd, NULL);
    }
}

static void end_handshakes(Socket *s)
{
    while (s->handshakes->len)
        end_handshake(s, 0);
}

/* ---- a server */

static void stop_accepting(Socket *s)
{
    for (guint i = 0; i < s->watches->len; i++)
        g_source_destroy(s->watches->pdata[i]);
    g_ptr_array_set_size(s->watches, 0);
}

static gboolean pause_over(void *opaque)
{
    Socket *s = opaque;

    qmp_chardev_unwatch(&s->pause);
    start_accepting(s);
    return G_SOURCE_REMOVE;
}

/* The sources end while this one runs, if the channel is full. */
static gboolean acceptable(int fd, GIOCondition condition, void *opaque)
{
    Socket *s = opaque;
    int client = accept4(fd, NULL, NULL, SOCK_CLOEXEC);

    if (client >= 0) {
        tm_address_configure(client, !s->address->no_keepalive);
        take(s, client);
    } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
        qmp_chardev_note(s->c, "cannot accept a client: %s", tm_strerror(errno));
        stop_accepting(s);
        s->pause = qmp_chardev_timer(s->c, PAUSE_MS, pause_over, s);
    }
    return G_SOURCE_CONTINUE;
}

static void start_accepting(Socket *s)
{
    if (!s->c->connected || s->watches->len || s->pause || is_full(s))
        return;
    for (guint i = 0; i < s->sockets->len; i++)
        g_ptr_array_add(s->watches,
                        qmp_chardev_watch(s->c, g_array_index(s->sockets, TmSocket, i).fd, G_IO_IN,
                                          acceptable, s));
}

/* ---- a client */

static void attempt_free(Attempt *attempt)
{
    tm_address_free(attempt->address);
    g_clear_error(&attempt->error);
    g_free(attempt);
}

/* Takes @fd, or an error. */
static void attempted(Socket *s, int fd, const GError *error)
{
    if (fd < 0) {
        complain(s, g_strdup_printf("%s; trying again every %" G_GINT64_FORMAT " ms",
                                    error->message, s->reconnect_ms));
        try_later(s);
        return;
    }
    if (s->c->connected)
        take(s, fd);
    else
        s->pending = fd;
}

static gboolean attempt_over(void *opaque)
{
    Attempt *attempt = opaque;

    g_thread_join(attempt->thread);
    if (attempt->socket) {
        attempt->socket->attempt = NULL;
        attempted(attempt->socket, attempt->fd, attempt->error);
    } else if (attempt->fd >= 0) {
        close(attempt->fd);
    }
    attempt_free(attempt);
    return G_SOURCE_REMOVE;
}

static void *attempt_run(void *opaque)
{
    Attempt *attempt = opaque;
    GSource *source = g_idle_source_new();

    attempt->fd = tm_address_connect(attempt->address, NULL, CONNECT_MS, &attempt->error);
    /* g_main_context_invoke() would call it here while the main loop does not run. */
    g_source_set_callback(source, attempt_over, attempt, NULL);
    g_source_attach(source, attempt->main);
    g_source_unref(source);
    return NULL;
}

static void attempt_start(Socket *s)
{
    s->attempt = g_new0(Attempt, 1);
    s->attempt->socket = s;
    s->attempt->main = qmp_chardev_main(s->c);
    s->attempt->address = tm_address_copy(s->address);
    s->attempt->thread = g_thread_try_new("connect", attempt_run, s->attempt, NULL);
    if (!s->attempt->thread) {
        g_clear_pointer(&s->attempt, attempt_free);
        try_later(s);
    }
}

static void try_now(Socket *s)
{
    g_autoptr(GError) error = NULL;
    int fd;

    if (s->address->type == TM_ADDRESS_UNIX) { /* it answers at once */
        fd = tm_address_connect(s->address, NULL, 0, &error);
        attempted(s, fd, error);
    } else {
        attempt_start(s);
    }
}

static gboolean wait_over(void *opaque)
{
    Socket *s = opaque;

    qmp_chardev_unwatch(&s->waiting);
    try_now(s);
    return G_SOURCE_REMOVE;
}

static void try_later(Socket *s)
{
    s->waiting = qmp_chardev_timer(s->c, s->reconnect_ms, wait_over, s);
}

/* ---- opening */

static bool check_tls(const QmpChardevOptions *o, GError **error)
{
    if (!o->tls_creds || o->address->type == TM_ADDRESS_INET)
        return true;
    if (o->address->type != TM_ADDRESS_FD)
        return tm_error_set(error, "'tls-creds' option is incompatible with '%s' address type",
                            family_names[o->address->type]);
    return o->server ||
           tm_error_set(error,
                        "'tls-creds' option is incompatible with 'fd' address type as client");
}

static bool check(const QmpChardevOptions *o, GError **error)
{
    if (o->reconnect_ms && o->server)
        return tm_error_set(error,
                            "'reconnect' option is incompatible with socket in server listen mode");
    if (o->reconnect_ms && o->address->type == TM_ADDRESS_FD)
        return tm_error_set(error, "'reconnect' option is incompatible with 'fd'");
    return check_tls(o, error);
}

/* Whether somebody elsewhere may be at the other end of @fd. */
static bool is_remote(int fd)
{
    bool abstract, padded;
    g_autofree char *path = tm_address_path(fd, &abstract, &padded);

    return !path;
}

static bool open_server(Socket *s, GError **error)
{
    if (!tm_address_listen(s->address, qmp_chardev_inherited(s->c), s->sockets, error))
        return false;
    s->c->remote = is_remote(g_array_index(s->sockets, TmSocket, 0).fd);
    return true;
}

/* --daemonize changes the directory before a client connects again. */
static void make_absolute(TmAddress *a)
{
    g_autofree char *path = NULL;

    if (a->type != TM_ADDRESS_UNIX || a->abstract)
        return;
    path = g_canonicalize_filename(a->path, NULL);
    if (strlen(path) >= sizeof(((struct sockaddr_un *)NULL)->sun_path))
        return; /* the relative one may be short enough */
    g_free((char *)a->path);
    a->path = g_steal_pointer(&path);
}

static bool open_client(Socket *s, GError **error)
{
    if (s->reconnect_ms) {
        make_absolute(s->address);
        try_now(s);
        return true;
    }
    s->pending = tm_address_connect(s->address, qmp_chardev_inherited(s->c), CONNECT_MS, error);
    return s->pending >= 0;
}

static void socket_close(QmpChardev *c);

static bool socket_open(QmpChardev *c, const QmpChardevOptions *o, GError **error)
{
    Socket *s;

    if (!check(o, error))
        return false;
    s = g_new0(Socket, 1);
    s->c = c;
    s->address = tm_address_copy(o->address);
    s->server = o->server;
    s->sockets = g_array_new(FALSE, FALSE, sizeof(TmSocket));
    s->watches = g_ptr_array_new_with_free_func((GDestroyNotify)g_source_unref);
    s->reconnect_ms = o->reconnect_ms;
    s->pending = -1;
    s->handshakes = g_ptr_array_new();
    if (o->tls_creds)
        s->tls.creds = tm_object_ref(o->tls_creds);
    if (o->tls_authz)
        s->tls.authz = tm_object_ref(o->tls_authz);
    s->tls.host = s->address->host;
    c->state = s;
    return s->server ? open_server(s, error) : open_client(s, error);
}

static void socket_close(QmpChardev *c)
{
    Socket *s = c->state;

    stop_accepting(s);
    qmp_chardev_unwatch(&s->pause);
    qmp_chardev_unwatch(&s->waiting);
    if (s->attempt)
        s->attempt->socket = NULL;
    if (s->pending >= 0)
        close(s->pending);
    for (guint i = 0; i < s->sockets->len; i++)
        tm_socket_close(&g_array_index(s->sockets, TmSocket, i));
    g_array_unref(s->sockets);
    g_ptr_array_unref(s->watches);
    g_ptr_array_unref(s->handshakes);
    tm_object_unref(s->tls.creds);
    tm_object_unref(s->tls.authz);
    tm_address_free(s->address);
    g_free(s->peer);
    g_free(s->complaint);
    g_free(s);
}

/* ---- its user */

static void socket_used(QmpChardev *c)
{
    Socket *s = c->state;
    int fd = s->pending;

    if (s->server) {
        start_accepting(s);
    } else if (fd >= 0) {
        s->pending = -1;
        take(s, fd);
    }
}

static void socket_disused(QmpChardev *c)
{
    Socket *s = c->state;

    stop_accepting(s);
    qmp_chardev_unwatch(&s->pause);
    qmp_chardev_unwatch(&s->waiting);
    end_handshakes(s);
}

static void socket_closed(QmpChardev *c, const QmpConnection *connection)
{
    Socket *s = c->state;

    g_clear_pointer(&s->peer, g_free);
    s->n_clients--;
    hang_up(s, connection->in, connection->tls);
}

/* ---- showing */

/* The address that it is bound to, if it listens at one, has the port that it got. */
static void append_address(const Socket *s, GString *text)
{
    const TmAddress *a = s->address;
    g_autofree char *host = NULL, *port = NULL;

    if (a->type == TM_ADDRESS_UNIX) {
        g_string_append(text, a->path);
        if (a->abstract)
            g_string_append_printf(text, ",abstract=on,tight=%s", a->padded ? "off" : "on");
    } else if (a->type == TM_ADDRESS_FD) {
        g_string_append(text, a->fd);
    } else {
        const char *format = "%s:%s";

        if (!s->server ||
            !tm_address_numbers(g_array_index(s->sockets, TmSocket, 0).fd, false, &host, &port)) {
            host = g_strdup(a->type == TM_ADDRESS_VSOCK ? a->cid : a->host);
            port = g_strdup(a->port);
        }
        if (strchr(host, ':'))
            format = "[%s]:%s";
        g_string_append_printf(text, format, host, port);
    }
}

/* What a client connects to. */
static json_object *peer_address(const TmAddress *a)
{
    json_object *info = json_object_new_object();

    tm_json_add_string(info, "type", type_names[a->type]);
    if (a->type == TM_ADDRESS_UNIX) {
        tm_json_add_string(info, "path", a->path);
        if (a->abstract) {
            tm_json_add_bool(info, "abstract", true);
            tm_json_add_bool(info, "tight", !a->padded);
        }
    } else if (a->type == TM_ADDRESS_FD) {
        tm_json_add_string(info, "str", a->fd);
    } else {
        bool vsock = a->type == TM_ADDRESS_VSOCK;

        tm_json_add_string(info, vsock ? "cid" : "host", vsock ? a->cid : a->host);
        tm_json_add_string(info, "port", a->port);
    }
    return info;
}

static json_object *bound_address(const Socket *s)
{
    json_object *info = tm_address_bound(g_array_index(s->sockets, TmSocket, 0).fd);
    const char *host = json_object_get_string(json_object_object_get(info, "host"));

    if (host)
        tm_json_add_bool(info, strchr(host, ':') ? "ipv6" : "ipv4", true);
    return info;
}

static json_object *socket_address(const QmpChardev *c, bool *connected)
{
    const Socket *s = c->state;

    *connected = s->n_clients > 0;
    return s->server ? bound_address(s) : peer_address(s->address);
}

static char *socket_filename(const QmpChardev *c)
{
    const Socket *s = c->state;
    bool connected = s->n_clients || s->pending >= 0;
    GString *text = g_string_new(NULL);

    g_string_printf(text,
                    "%s%s:", connected ? "" : "disconnected:", family_names[s->address->type]);
    append_address(s, text);
    if (s->server)
        g_string_append(text, ",server=on");
    if (s->peer && c->remote)
        g_string_append_printf(text, " <-> %s", s->peer);
    return g_string_free(text, FALSE);
}

static const GArray *socket_listening(const QmpChardev *c)
{
    const Socket *s = c->state;

    return s->server ? s->sockets : NULL;
}

const QmpChardevDriver qmp_driver_socket = {
    .name = "socket",
    .open = socket_open,
    .used = socket_used,
    .disused = socket_disused,
    .closed = socket_closed,
    .filename = socket_filename,
    .address = socket_address,
    .listening = socket_listening,
    .close = socket_close,
};
