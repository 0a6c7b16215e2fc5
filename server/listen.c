/* server/listen.c: listening sockets, unix and TCP, and accepting.
 *
 * A listener is a source of the engine. It is not armed while the server is full or the process is
 * out of descriptors; a session that ends, or a short nap on a worker, arms it again. To end, the
 * socket is shut down, which wakes the listener wherever it is, and it closes itself.
 *
 * Invariants: a listener's state changes under server->lock; ARMED or NAPPING ones always come back
 * to accept_ready(), PAUSED ones only by nbds_listen_resume(). */
#include "server/internal.h"

#include "util/error.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG    SOMAXCONN
#define ACCEPT_MAX 16    /* connections taken before others get their turn */
#define NAP_US     50000 /* without descriptors */

typedef enum { ARMED, PAUSED, NAPPING } State;

struct NbdsListener {
    BlkSource source;
    BlkWork nap;
    NbdServer *server;
    NbdsListener *next;
    State state;
    bool stopping;
    bool inet;
    char *path; /* unix: to unlink, if it is still ours */
    dev_t dev;
    ino_t ino;
};

/* ---- accepting */

static void configure(const NbdsListener *l, int fd)
{
    int on = 1;

    if (l->inet) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
        setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    }
}

/* Under the lock. */
static bool full(const NbdServer *server)
{
    return server->max_sessions && server->n_sessions >= server->max_sessions;
}

/* Takes what is waiting; false if there are no descriptors to do so. */
static bool accept_some(NbdsListener *l)
{
    for (int i = 0; i < ACCEPT_MAX; i++) {
        bool room;
        int fd;

        pthread_mutex_lock(&l->server->lock);
        room = !l->stopping && !full(l->server);
        pthread_mutex_unlock(&l->server->lock);
        if (!room)
            return true;
        fd = accept4(l->source.fd, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0)
            return errno != EMFILE && errno != ENFILE && errno != ENOBUFS && errno != ENOMEM;
        configure(l, fd);
        nbds_session_new(l->server, fd);
    }
    return true;
}

static void listener_free(NbdsListener *l)
{
    if (l->source.fd >= 0)
        close(l->source.fd);
    g_free(l->path);
    g_free(l);
}

/* Under the lock: takes itself out of the list. */
static void remove_self(NbdsListener *l)
{
    NbdsListener **at = &l->server->listeners;

    while (*at != l)
        at = &(*at)->next;
    *at = l->next;
}

static void unlink_own(const NbdsListener *l)
{
    struct stat st;

    if (l->path && !lstat(l->path, &st) && st.st_dev == l->dev && st.st_ino == l->ino)
        unlink(l->path);
}

static void finish(NbdsListener *l)
{
    NbdServer *server = l->server;

    blk_engine_remove(server->engine, &l->source);
    unlink_own(l);
    pthread_mutex_lock(&server->lock);
    remove_self(l);
    listener_free(l);
    pthread_cond_broadcast(&server->changed);
    pthread_mutex_unlock(&server->lock);
}

static void nap(BlkWork *work)
{
    NbdsListener *l = (NbdsListener *)((char *)work - offsetof(NbdsListener, nap));
    NbdServer *server = l->server;

    g_usleep(NAP_US);
    pthread_mutex_lock(&server->lock);
    l->state = ARMED;
    blk_engine_arm(server->engine, &l->source, EPOLLIN);
    pthread_mutex_unlock(&server->lock);
}

static void accept_ready(BlkSource *source, uint32_t events)
{
    NbdsListener *l = (NbdsListener *)source;
    NbdServer *server = l->server;
    bool starved = !accept_some(l), stopping;

    pthread_mutex_lock(&server->lock);
    stopping = l->stopping;
    if (stopping)
        l->state = PAUSED; /* ours alone now */
    else if (starved)
        l->state = NAPPING;
    else if (full(server))
        l->state = PAUSED;
    else
        blk_engine_arm(server->engine, source, EPOLLIN);
    starved = l->state == NAPPING;
    pthread_mutex_unlock(&server->lock);
    if (stopping)
        finish(l);
    else if (starved)
        blk_engine_work(server->engine, &l->nap);
}

void nbds_listen_resume(NbdServer *server)
{
    if (full(server))
        return;
    for (NbdsListener *l = server->listeners; l; l = l->next) {
        if (l->state == PAUSED && !l->stopping) {
            l->state = ARMED;
            blk_engine_arm(server->engine, &l->source, EPOLLIN);
        }
    }
}

void nbds_listen_stop(NbdServer *server)
{
    pthread_mutex_lock(&server->lock);
    for (NbdsListener *l = server->listeners; l; l = l->next) {
        l->stopping = true;
        shutdown(l->source.fd, SHUT_RDWR);
        if (l->state == PAUSED) {
            l->state = ARMED;
            blk_engine_arm(server->engine, &l->source, EPOLLIN);
        }
    }
    while (server->listeners)
        pthread_cond_wait(&server->changed, &server->lock);
    pthread_mutex_unlock(&server->lock);
}

/* ---- opening */

static NbdsListener *listener_new(NbdServer *server, int fd)
{
    NbdsListener *l = g_new0(NbdsListener, 1);

    l->source = (BlkSource){ .fd = fd, .ready = accept_ready };
    l->nap.run = nap;
    l->server = server;
    return l;
}

/* Whether a server accepts there. */
static bool in_use(const struct sockaddr_un *address)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bool used;

    if (fd < 0)
        return false;
    used = connect(fd, (const struct sockaddr *)address, sizeof(*address)) == 0 || errno == EAGAIN;
    close(fd);
    return used;
}

/* A socket that nobody listens on any more is in the way of its successor. */
static void remove_stale(const struct sockaddr_un *address)
{
    struct stat st;

    if (!lstat(address->sun_path, &st) && S_ISSOCK(st.st_mode) && !in_use(address))
        unlink(address->sun_path);
}

static NbdsListener *listen_unix(NbdServer *server, const char *path, GError **error)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    NbdsListener *l;
    struct stat st;
    int fd;

    if (strlen(path) >= sizeof(address.sun_path)) {
        tm_error_set(error,
                     "UNIX socket path '%s' is too long: it has %zu bytes, at most %zu are allowed",
                     path, strlen(path), sizeof(address.sun_path) - 1);
        return NULL;
    }
    strcpy(address.sun_path, path);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        tm_error_set_errno(error, errno, "Failed to create Unix socket");
        return NULL;
    }
    remove_stale(&address);
    /* The socket's own mode is what the file gets: no window in which others could connect. */
    if (fchmod(fd, 0600) < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
        tm_error_set_errno(error, errno, "Failed to bind socket to %s", path);
        close(fd);
        return NULL;
    }
    if (listen(fd, BACKLOG) < 0 || lstat(path, &st) < 0) {
        tm_error_set_errno(error, errno, "Failed to listen on socket %s", path);
        unlink(path);
        close(fd);
        return NULL;
    }
    l = listener_new(server, fd);
    l->path = g_canonicalize_filename(path, NULL); /* --daemonize changes directory */
    l->dev = st.st_dev;
    l->ino = st.st_ino;
    return l;
}

/* -1 and errno on failure. */
static int listen_address(const struct addrinfo *ai)
{
    int on = 1, err;
    int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, ai->ai_protocol);

    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (ai->ai_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on)); /* IPv4 has its own socket */
    if (!bind(fd, ai->ai_addr, ai->ai_addrlen) && !listen(fd, BACKLOG))
        return fd;
    err = errno;
    close(fd);
    errno = err;
    return -1;
}

static int family_of(const BlkServerOptions *o)
{
    bool four = o->has_ipv4 ? o->ipv4 : !(o->has_ipv6 && o->ipv6);
    bool six = o->has_ipv6 ? o->ipv6 : !(o->has_ipv4 && o->ipv4);

    return four == six ? AF_UNSPEC : four ? AF_INET : AF_INET6;
}

static bool port_in_range(const char *port)
{
    guint64 number;

    return g_ascii_string_to_unsigned(port, 10, 0, UINT16_MAX, &number, NULL);
}

static NbdsListener *listen_inet(NbdServer *server, const BlkServerOptions *o, GError **error)
{
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE }, *all = NULL;
    const char *host = o->host && *o->host ? o->host : NULL;
    NbdsListener *list = NULL;
    int err, saved = 0;

    if (o->has_ipv4 && o->has_ipv6 && !o->ipv4 && !o->ipv6) {
        tm_error_set(error, "Cannot disable IPv4 and IPv6 at same time");
        return NULL;
    }
    if (g_ascii_isdigit(o->port[0]) && !port_in_range(o->port)) {
        /* The resolver would take it modulo 65536. */
        tm_error_set(error, "Parameter 'port' is '%s', expected 0 to 65535", o->port);
        return NULL;
    }
    hints.ai_family = family_of(o);
    err = getaddrinfo(host, o->port, &hints, &all);
    if (err) {
        tm_error_set(error, "address resolution failed for %s:%s: %s", o->host ? o->host : "",
                     o->port, gai_strerror(err));
        return NULL;
    }
    for (struct addrinfo *ai = all; ai; ai = ai->ai_next) {
        int fd = listen_address(ai);
        NbdsListener *l;

        if (fd < 0) {
            saved = errno;
            /* A family that the system lacks is no obstacle if another one works. */
            if (saved == EAFNOSUPPORT || saved == EADDRNOTAVAIL)
                continue;
            break;
        }
        l = listener_new(server, fd);
        l->inet = true;
        l->next = list;
        list = l;
        saved = 0;
    }
    freeaddrinfo(all);
    if (list && (saved == 0 || saved == EAFNOSUPPORT || saved == EADDRNOTAVAIL))
        return list;
    while (list) {
        NbdsListener *l = list;

        list = l->next;
        listener_free(l);
    }
    tm_error_set_errno(error, saved, "Failed to bind socket to %s:%s", o->host ? o->host : "",
                       o->port);
    return NULL;
}

bool nbds_listen(NbdServer *server, const BlkServerOptions *options, GError **error)
{
    NbdsListener *list = options->type == BLK_ADDRESS_UNIX
                             ? listen_unix(server, options->path, error)
                             : listen_inet(server, options, error);
    int err = 0;

    if (!list)
        return false;
    pthread_mutex_lock(&server->lock);
    while (list && !err) {
        NbdsListener *l = list;

        err = blk_engine_add(server->engine, &l->source, EPOLLIN);
        if (err)
            break;
        list = l->next;
        l->next = server->listeners;
        server->listeners = l;
    }
    pthread_mutex_unlock(&server->lock);
    if (!err)
        return true;
    while (list) {
        NbdsListener *l = list;

        list = l->next;
        unlink_own(l);
        listener_free(l);
    }
    nbds_listen_stop(server);
    return tm_error_set_errno(error, -err, "cannot wait for connections");
}
