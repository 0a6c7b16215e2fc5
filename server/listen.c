/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/listen.c: listening sockets, accepting, and the places that there are for connections.
 *
 * A connection takes a place of its server before it is accepted, so that there are never more
 * than max-connections. Descriptors: a session may need two (its socket, and a second one to wait
 * for room in it), and images and monitors need some too. No more connections are taken than leave
 * enough for that.
 *
 * A listener is a source of the engine. It is not armed while its server is full or the process is
 * short of descriptors; a session that ends, or the clock (limits.c), arms it again. To end, the
 * socket is shut down, which wakes the listener wherever it is, and it closes itself. A socket that
 * others have too must not be shut down: such a listener is woken through an epoll set of its own,
 * which holds the socket and an event.
 *
 * Invariant: a listener's state changes under servers->lock; an ARMED one always comes back to
 * accept_ready(), a PAUSED one only by nbds_listen_resume() or nbds_listen_stop(). */
#include "server/server_internal.h"

#include "util/error.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define ACCEPT_MAX       16 /* connections taken before others get their turn */
#define DESCRIPTORS_KEPT 8  /* an eighth of them is for others */
#define CROWDED_SECONDS  60 /* between two notes that there are none */

typedef enum { ARMED, PAUSED } State;

struct NbdsListener {
    BlkSource source; /* of the socket, or of the set */
    NbdsServer *server;
    NbdsListener *next;
    State state;
    bool stopping;
    TmSocket socket;
    int wake; /* shared: the event, else -1 */
};

/* ---- places */

/* How many there are for connections. */
static rlim_t descriptors(void)
{
    struct rlimit limit;

    return getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur == RLIM_INFINITY
               ? RLIM_INFINITY
               : limit.rlim_cur - limit.rlim_cur / DESCRIPTORS_KEPT;
}

/* Under the lock. */
static bool crowded(const NbdsServers *servers)
{
    return 2 * ((rlim_t)servers->n_sessions + 1) > descriptors();
}

/* New ones are the lowest that are free. */
bool nbds_descriptor_spare(int fd)
{
    return (rlim_t)fd < descriptors();
}

NbdsPlace nbds_server_enter(NbdsServer *server)
{
    TM_GUARD(&server->servers->lock);

    if (nbds_server_full(server))
        return NBDS_FULL;
    if (crowded(server->servers))
        return NBDS_CROWDED;
    server->n_sessions++;
    server->servers->n_sessions++;
    return NBDS_PLACE;
}

bool nbds_server_room(const NbdsServer *server)
{
    return !nbds_server_full(server) && !crowded(server->servers);
}

void nbds_server_unref(NbdsServer *server)
{
    if (--server->refs)
        return;
    g_free(server->id);
    json_object_put(server->given);
    g_ptr_array_unref(server->all_limits);
    g_free(server);
}

/* ---- accepting */

/* Whether the next descriptor leaves enough to others. */
static bool descriptor_to_spare(const NbdsListener *l)
{
    int fd = fcntl(l->socket.fd, F_DUPFD_CLOEXEC, 0);
    bool spare = fd >= 0 && nbds_descriptor_spare(fd);

    if (fd >= 0)
        close(fd);
    return spare;
}

/* Takes what is waiting: NBDS_PLACE if that is all, else what is lacking. */
static NbdsPlace accept_some(NbdsListener *l)
{
    for (int i = 0; i < ACCEPT_MAX; i++) {
        NbdsPlace place = descriptor_to_spare(l) ? nbds_server_enter(l->server) : NBDS_CROWDED;
        int fd;

        if (place != NBDS_PLACE)
            return place;
        fd = accept4(l->socket.fd, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0) {
            int err = errno;

            nbds_server_leave(l->server, false);
            return tm_accept_crowded(err) ? NBDS_CROWDED : NBDS_PLACE;
        }
        tm_address_configure(fd, l->server->keepalive);
        l->server->accepted(l->server, fd);
    }
    return NBDS_PLACE;
}

static void listener_free(NbdsListener *l)
{
    if (l->wake >= 0) {
        close(l->wake);
        close(l->source.fd);
    }
    tm_socket_close(&l->socket);
    g_free(l);
}

static void finish(NbdsListener *l)
{
    NbdsServer *server = l->server;
    NbdsServers *servers = server->servers;
    NbdsListener **at = &server->listeners;

    blk_engine_remove(servers->engine, &l->source);
    pthread_mutex_lock(&servers->lock);
    while (*at != l)
        at = &(*at)->next;
    *at = l->next;
    listener_free(l);
    pthread_cond_broadcast(&servers->changed);
    pthread_mutex_unlock(&servers->lock);
}

/* Now and then, while clients wait for want of descriptors. */
static void note_crowded(const NbdsServer *server)
{
    NbdsServers *servers = server->servers;
    int64_t now = g_get_monotonic_time(),
            last = __atomic_load_n(&servers->crowded_at, __ATOMIC_RELAXED);
    TmLogFacts facts = { .area = TM_LOG_NBD, .level = TM_LOG_WARNING };

    if ((last && now - last < CROWDED_SECONDS * G_USEC_PER_SEC) ||
        !__atomic_compare_exchange_n(&servers->crowded_at, &last, now, false, __ATOMIC_RELAXED,
                                     __ATOMIC_RELAXED))
        return;
    tm_log_note(blk_graph_log(blk_exports_graph(servers->exports)), &facts,
                "NBD server '%s': clients wait, as there are descriptors for no more: raise the "
                "limit of the process, LimitNOFILE= of its unit",
                server->id);
}

static void accept_ready(BlkSource *source, uint32_t events)
{
    NbdsListener *l = (NbdsListener *)source;
    NbdsServers *servers = l->server->servers;
    NbdsPlace place = accept_some(l);
    bool stopping;

    if (place == NBDS_CROWDED)
        note_crowded(l->server);
    pthread_mutex_lock(&servers->lock);
    stopping = l->stopping;
    if (place == NBDS_CROWDED || nbds_server_full(l->server))
        l->state = PAUSED;
    else if (!stopping)
        blk_engine_arm(servers->engine, source, EPOLLIN);
    pthread_mutex_unlock(&servers->lock);
    if (stopping)
        finish(l);
}

void nbds_listen_resume(NbdsServers *servers)
{
    for (NbdsServer *server = servers->list; server; server = server->next) {
        if (nbds_server_full(server))
            continue;
        for (NbdsListener *l = server->listeners; l; l = l->next) {
            if (l->state != PAUSED || l->stopping)
                continue;
            l->state = ARMED;
            blk_engine_arm(servers->engine, &l->source, EPOLLIN);
        }
    }
}

void nbds_server_leave(NbdsServer *server, bool session)
{
    NbdsServers *servers = server->servers;
    TM_GUARD(&servers->lock);

    server->n_sessions--;
    servers->n_sessions--;
    if (session) {
        nbds_listen_resume(servers);
        nbds_server_unref(server);
    }
    pthread_cond_broadcast(&servers->changed);
}

/* Under the lock. */
static void wake(NbdsListener *l)
{
    if (l->wake >= 0)
        eventfd_write(l->wake, 1);
    else
        shutdown(l->socket.fd, SHUT_RDWR);
    if (l->state == PAUSED) {
        l->state = ARMED;
        blk_engine_arm(l->server->servers->engine, &l->source, EPOLLIN);
    }
}

void nbds_listen_stop(NbdsServer *server)
{
    NbdsServers *servers = server->servers;

    pthread_mutex_lock(&servers->lock);
    for (NbdsListener *l = server->listeners; l; l = l->next) {
        tm_socket_file_remove(&l->socket.file);
        l->stopping = true;
        wake(l);
    }
    while (server->listeners)
        pthread_cond_wait(&servers->changed, &servers->lock);
    pthread_mutex_unlock(&servers->lock);
}

/* ---- beginning */

/* Puts the socket and an event into a set, and that into the source. 0 or -errno. */
static int make_set(NbdsListener *l)
{
    struct epoll_event event = { .events = EPOLLIN };
    int err;

    l->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    l->source.fd = epoll_create1(EPOLL_CLOEXEC);
    if (l->wake >= 0 && l->source.fd >= 0 &&
        !epoll_ctl(l->source.fd, EPOLL_CTL_ADD, l->socket.fd, &event) &&
        !epoll_ctl(l->source.fd, EPOLL_CTL_ADD, l->wake, &event))
        return 0;
    err = -errno;
    if (l->source.fd >= 0)
        close(l->source.fd);
    if (l->wake >= 0)
        close(l->wake);
    l->wake = -1;
    return err;
}

/* Takes @socket if it succeeds. 0 or -errno. */
static int listener_add(NbdsServer *server, const TmSocket *socket)
{
    NbdsListener *l = g_new0(NbdsListener, 1);
    int err = 0;

    l->source = (BlkSource){ .fd = socket->fd, .ready = accept_ready };
    l->server = server;
    l->socket = *socket;
    l->wake = -1;
    if (socket->shared)
        err = make_set(l);
    if (!err) {
        TM_GUARD(&server->servers->lock);

        err = blk_engine_add(server->servers->engine, &l->source, EPOLLIN);
        if (!err) {
            l->next = server->listeners;
            server->listeners = l;
            return 0;
        }
    }
    if (l->wake >= 0) {
        close(l->wake);
        close(l->source.fd);
    }
    g_free(l);
    return err;
}

bool nbds_listen(NbdsServer *server, const BlkServerOptions *options, NbdsAcceptedFn accepted,
                 GError **error)
{
    g_autoptr(GArray) sockets = g_array_new(FALSE, FALSE, sizeof(TmSocket));
    int err = 0;
    guint i;

    server->accepted = accepted;
    server->keepalive = !options->address.no_keepalive;
    if (!tm_address_listen(&options->address, server->servers->inherited, sockets, error))
        return false;
    tm_address_refuse_descriptors(sockets);
    for (i = 0; i < sockets->len; i++) {
        err = listener_add(server, &g_array_index(sockets, TmSocket, i));
        if (err)
            break;
    }
    if (!err)
        return true;
    for (; i < sockets->len; i++)
        tm_socket_close(&g_array_index(sockets, TmSocket, i));
    nbds_listen_stop(server);
    return tm_error_set_errno(error, -err, "cannot wait for connections");
}

json_object *nbds_listen_addresses(const NbdsServer *server)
{
    json_object *all = json_object_new_array();

    for (NbdsListener *l = server->listeners; l; l = l->next)
        json_object_array_add(all, tm_address_bound(l->socket.fd));
    return all;
}

void nbds_listen_uris(const NbdsServer *server, const char *export_, json_object *uris)
{
    for (NbdsListener *l = server->listeners; l; l = l->next) {
        json_object *address = tm_address_bound(l->socket.fd);
        g_autofree char *uri =
            nbds_uri(address, l->socket.file.path, server->tls_required, export_);

        json_object_put(address);
        if (uri)
            json_object_array_add(uris, json_object_new_string(uri));
    }
}
