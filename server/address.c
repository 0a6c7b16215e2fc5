/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/address.c: addresses: opening the sockets that a server listens on, and telling which they
 * are and who is at their other end.
 *
 * Sockets that the process was started with, by systemd or another supervisor, are found before any
 * other is opened, so that a number never means one of the daemon's own. Their names are as
 * sd_listen_fds_with_names(3) has them. They stay open for a server that is started anew. */
#include "server/server_internal.h"

#include "util/error.h"
#include "util/json.h"
#include "util/unix_socket.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG         SOMAXCONN
#define INHERITED_FIRST 3 /* SD_LISTEN_FDS_START */
#define INHERITED_END   256

static void append(GArray *sockets, int fd)
{
    NbdsSocket s = { .fd = fd };

    g_array_append_val(sockets, s);
}

void nbds_socket_close(NbdsSocket *s)
{
    tm_socket_file_remove(&s->file);
    close(s->fd);
}

static bool in_range(const char *number, uint32_t max)
{
    guint64 value;

    return g_ascii_string_to_unsigned(number, 10, 0, max, &value, NULL);
}

/* ---- unix */

static bool listen_unix(const char *path, GArray *sockets, GError **error)
{
    NbdsSocket s = { 0 };

    s.fd = tm_unix_listen(path, BACKLOG, &s.file, error);
    if (s.fd < 0)
        return false;
    g_array_append_val(sockets, s);
    return true;
}

/* ---- TCP */

/* @six_only: an IPv6 socket takes no IPv4. -1 and errno on failure. */
static int listen_address(int family, int protocol, const void *address, socklen_t length,
                          int six_only)
{
    int on = 1, err;
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, protocol);

    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &six_only, sizeof(six_only));
    if (!bind(fd, address, length) && !listen(fd, BACKLOG))
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

static struct addrinfo *resolve(const BlkServerOptions *o, GError **error)
{
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE }, *all = NULL;
    int err;

    if (o->has_ipv4 && o->has_ipv6 && !o->ipv4 && !o->ipv6) {
        tm_error_set(error, "Cannot disable IPv4 and IPv6 at same time");
        return NULL;
    }
    if (g_ascii_isdigit(o->port[0]) && !in_range(o->port, UINT16_MAX)) {
        /* The resolver would take it modulo 65536. */
        tm_error_set(error, "Parameter 'port' is '%s', expected 0 to 65535", o->port);
        return NULL;
    }
    hints.ai_family = family_of(o);
    err = getaddrinfo(o->host && *o->host ? o->host : NULL, o->port, &hints, &all);
    if (err)
        tm_error_set(error, "address resolution failed for %s:%s: %s", o->host ? o->host : "",
                     o->port, gai_strerror(err));
    return all;
}

/* "::" means every address of the machine, IPv4 ones too, but where one family is asked for; or
 * where IPv4 has its own socket already, as it has with an empty host. */
static int listen_resolved(const BlkServerOptions *o, const struct addrinfo *ai)
{
    bool one = (o->has_ipv4 || o->has_ipv6) && !(o->ipv4 && o->ipv6);
    int fd = listen_address(ai->ai_family, ai->ai_protocol, ai->ai_addr, ai->ai_addrlen, one);

    if (fd < 0 && errno == EADDRINUSE && ai->ai_family == AF_INET6 && !one)
        fd = listen_address(ai->ai_family, ai->ai_protocol, ai->ai_addr, ai->ai_addrlen, true);
    return fd;
}

static bool is_lacking(int err)
{
    return err == EAFNOSUPPORT || err == EADDRNOTAVAIL;
}

/* All of the addresses, or as many as the system has: a family that it lacks is no obstacle if
 * another one works. 0 or an errno, and nothing is appended. */
static int listen_all(const BlkServerOptions *o, const struct addrinfo *all, GArray *sockets)
{
    int err = 0;

    for (const struct addrinfo *ai = all; ai && (!err || is_lacking(err)); ai = ai->ai_next) {
        int fd = listen_resolved(o, ai);

        if (fd >= 0)
            append(sockets, fd);
        else
            err = errno;
    }
    if (sockets->len && (!err || is_lacking(err)))
        return 0;
    for (guint i = 0; i < sockets->len; i++)
        nbds_socket_close(&g_array_index(sockets, NbdsSocket, i));
    g_array_set_size(sockets, 0);
    return err;
}

static void set_port(struct addrinfo *all, uint16_t port)
{
    for (struct addrinfo *ai = all; ai; ai = ai->ai_next) {
        if (ai->ai_family == AF_INET)
            ((struct sockaddr_in *)ai->ai_addr)->sin_port = htons(port);
        else if (ai->ai_family == AF_INET6)
            ((struct sockaddr_in6 *)ai->ai_addr)->sin6_port = htons(port);
    }
}

/* IPv4's port is where IPv6's is. */
static uint16_t get_port(const struct addrinfo *ai)
{
    return ntohs(((const struct sockaddr_in *)ai->ai_addr)->sin_port);
}

static bool listen_inet(const BlkServerOptions *o, GArray *sockets, GError **error)
{
    struct addrinfo *all = resolve(o, error);
    unsigned port, last;
    int err;

    if (!all)
        return false;
    port = get_port(all);
    last = o->has_to ? o->to : port;
    err = last < port ? EINVAL : 0;
    for (unsigned p = port; p <= last; p++) {
        set_port(all, (uint16_t)p);
        err = listen_all(o, all, sockets);
        if (err != EADDRINUSE)
            break;
    }
    freeaddrinfo(all);
    if (!err)
        return true;
    if (last < port)
        return tm_error_set(error, "Parameter 'to' is %u, expected at least the port, %u", last,
                            port);
    return o->has_to
               ? tm_error_set_errno(error, err, "Failed to find an available port of %s:%u to %u",
                                    o->host ? o->host : "", port, last)
               : tm_error_set_errno(error, err, "Failed to bind socket to %s:%s",
                                    o->host ? o->host : "", o->port);
}

/* ---- vsock: a virtual machine and its host */

static bool listen_vsock(const BlkServerOptions *o, GArray *sockets, GError **error)
{
    struct sockaddr_vm address = { .svm_family = AF_VSOCK };
    int fd;

    if (!in_range(o->cid, UINT32_MAX))
        return tm_error_set(error, "Parameter 'cid' is '%s', expected 0 to 4294967295 (any)",
                            o->cid);
    if (!in_range(o->port, UINT32_MAX))
        return tm_error_set(error, "Parameter 'port' is '%s', expected 0 to 4294967295 (any)",
                            o->port);
    address.svm_cid = (unsigned)strtoul(o->cid, NULL, 10);
    address.svm_port = (unsigned)strtoul(o->port, NULL, 10);
    fd = listen_address(AF_VSOCK, 0, &address, sizeof(address), false);
    if (fd < 0 && errno == EAFNOSUPPORT)
        return tm_error_set_errno(error, errno, "This system has no vsock");
    if (fd < 0)
        return tm_error_set_errno(error, errno, "Failed to bind socket to vsock:%s:%s", o->cid,
                                  o->port);
    append(sockets, fd);
    return true;
}

/* ---- sockets that the process was started with */

typedef struct NbdsInherited {
    int fd;
    char *name; /* or NULL */
} NbdsInherited;

static void inherited_clear(void *opaque)
{
    g_free(((NbdsInherited *)opaque)->name);
}

static bool listens(int fd)
{
    int on = 0, type = 0;
    socklen_t length = sizeof(on), type_length = sizeof(type);

    return !getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &on, &length) && on &&
           !getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &type_length) && type == SOCK_STREAM;
}

/* The names are for this process only if the variables say so. NULL: none. */
static char **names(void)
{
    const char *pid = g_getenv("LISTEN_PID"), *list = g_getenv("LISTEN_FDNAMES");
    guint64 number;

    return pid && list && g_ascii_string_to_unsigned(pid, 10, 1, G_MAXINT, &number, NULL) &&
                   (pid_t)number == getpid()
               ? g_strsplit(list, ":", -1)
               : NULL;
}

GArray *nbds_inherited_new(void)
{
    GArray *all = g_array_new(FALSE, FALSE, sizeof(NbdsInherited));
    g_auto(GStrv) given = names();
    guint n = given ? g_strv_length(given) : 0;

    g_array_set_clear_func(all, inherited_clear);
    for (int fd = INHERITED_FIRST; fd < INHERITED_END; fd++) {
        NbdsInherited entry = { .fd = fd };
        guint index = (guint)(fd - INHERITED_FIRST);

        if (!listens(fd))
            continue;
        fcntl(fd, F_SETFD, FD_CLOEXEC);
        entry.name = index < n ? g_strdup(given[index]) : NULL;
        g_array_append_val(all, entry);
    }
    return all;
}

static bool listen_fd(const NbdsServers *servers, const char *which, GArray *sockets,
                      GError **error)
{
    for (guint i = 0; i < servers->inherited->len; i++) {
        const NbdsInherited *x = &g_array_index(servers->inherited, NbdsInherited, i);
        g_autofree char *number = g_strdup_printf("%d", x->fd);
        NbdsSocket s = { .shared = true };

        if (!g_str_equal(which, number) && g_strcmp0(which, x->name))
            continue;
        s.fd = fcntl(x->fd, F_DUPFD_CLOEXEC, 0);
        if (s.fd < 0 || fcntl(s.fd, F_SETFL, O_NONBLOCK) < 0) {
            tm_error_set_errno(error, errno, "Failed to use socket '%s'", which);
            if (s.fd >= 0)
                close(s.fd);
            return false;
        }
        g_array_append_val(sockets, s);
        return true;
    }
    return tm_error_set(error,
                        "This process was not started with a listening socket '%s' (expected a "
                        "descriptor's number, or a name of LISTEN_FDNAMES)",
                        which);
}

/* ---- all */

bool nbds_address_listen(NbdsServers *servers, const BlkServerOptions *o, GArray *sockets,
                         GError **error)
{
    bool ok = false;

    switch (o->type) {
    case BLK_ADDRESS_UNIX:
        ok = listen_unix(o->path, sockets, error);
        break;
    case BLK_ADDRESS_INET:
        ok = listen_inet(o, sockets, error);
        break;
    case BLK_ADDRESS_VSOCK:
        ok = listen_vsock(o, sockets, error);
        break;
    case BLK_ADDRESS_FD:
        ok = listen_fd(servers, o->fd, sockets, error);
        break;
    }
    for (guint i = 0; !ok && i < sockets->len; i++)
        nbds_socket_close(&g_array_index(sockets, NbdsSocket, i));
    if (!ok)
        g_array_set_size(sockets, 0);
    return ok;
}

/* ---- telling */

typedef union Address {
    struct sockaddr any;
    struct sockaddr_un un;
    struct sockaddr_vm vm;
    struct sockaddr_storage room;
} Address;

/* A unix socket's own path, "@" before an abstract one; returned. */
static char *path_of(const struct sockaddr_un *address, socklen_t length)
{
    size_t n = length > offsetof(struct sockaddr_un, sun_path)
                   ? length - offsetof(struct sockaddr_un, sun_path)
                   : 0;
    bool abstract = n && !address->sun_path[0];
    g_autofree char *raw = abstract ? g_strdup_printf("@%.*s", (int)n - 1, address->sun_path + 1)
                                    : g_strndup(address->sun_path, n);

    return g_utf8_make_valid(raw, -1);
}

static bool host_and_port(const Address *address, socklen_t length, char host[static NI_MAXHOST],
                          char port[static NI_MAXSERV])
{
    return !getnameinfo(&address->any, length, host, NI_MAXHOST, port, NI_MAXSERV,
                        NI_NUMERICHOST | NI_NUMERICSERV);
}

json_object *nbds_address_bound(int fd)
{
    json_object *info = json_object_new_object();
    char host[NI_MAXHOST] = "", port[NI_MAXSERV] = "";
    Address address = { 0 };
    socklen_t length = sizeof(address);

    getsockname(fd, &address.any, &length);
    if (address.any.sa_family == AF_UNIX) {
        g_autofree char *path = path_of(&address.un, length);

        tm_json_add_string(info, "type", "unix");
        tm_json_add_string(info, "path", path);
    } else if (address.any.sa_family == AF_VSOCK) {
        snprintf(host, sizeof(host), "%u", address.vm.svm_cid);
        snprintf(port, sizeof(port), "%u", address.vm.svm_port);
        tm_json_add_string(info, "type", "vsock");
        tm_json_add_string(info, "cid", host);
        tm_json_add_string(info, "port", port);
    } else {
        host_and_port(&address, length, host, port);
        tm_json_add_string(info, "type", "inet");
        tm_json_add_string(info, "host", host);
        tm_json_add_string(info, "port", port);
    }
    return info;
}

/* Of a unix socket. */
static bool credentials(int fd, struct ucred *peer)
{
    socklen_t length = sizeof(*peer);

    return !getsockopt(fd, SOL_SOCKET, SO_PEERCRED, peer, &length) && peer->uid != (uid_t)-1;
}

char *nbds_address_uid(int fd)
{
    struct ucred peer;

    return credentials(fd, &peer) ? g_strdup_printf("uid=%u", peer.uid) : NULL;
}

char *nbds_address_peer(int fd)
{
    char host[NI_MAXHOST], port[NI_MAXSERV];
    struct ucred peer;
    Address address = { 0 };
    socklen_t length = sizeof(address);

    if (getpeername(fd, &address.any, &length) < 0)
        return g_strdup("unknown"); /* it has gone already */
    if (address.any.sa_family == AF_UNIX)
        return credentials(fd, &peer)
                   ? g_strdup_printf("unix:pid=%d,uid=%u", (int)peer.pid, peer.uid)
                   : g_strdup("unix");
    if (address.any.sa_family == AF_VSOCK)
        return g_strdup_printf("vsock:%u:%u", address.vm.svm_cid, address.vm.svm_port);
    if (!host_and_port(&address, length, host, port))
        return g_strdup("unknown");
    return g_strdup_printf(address.any.sa_family == AF_INET6 ? "[%s]:%s" : "%s:%s", host, port);
}
