/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* util/address.c: see the header. */
#include "util/address.h"

#include "util/address_internal.h"
#include "util/error.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#ifndef SO_PASSRIGHTS
#define SO_PASSRIGHTS 83 /* asm-generic/socket.h's */
#endif

#define BACKLOG SOMAXCONN

static void append(GArray *sockets, int fd)
{
    TmSocket s = { .fd = fd };

    g_array_append_val(sockets, s);
}

void tm_socket_close(TmSocket *s)
{
    tm_socket_file_remove(&s->file);
    close(s->fd);
}

static void each_string(TmAddress *a, void (*fn)(const char **string))
{
    const char **const strings[] = { &a->path, &a->host, &a->port, &a->cid, &a->fd };

    for (size_t i = 0; i < G_N_ELEMENTS(strings); i++)
        fn(strings[i]);
}

static void copy_string(const char **string)
{
    *string = g_strdup(*string);
}

static void free_string(const char **string)
{
    g_free((char *)*string);
}

TmAddress *tm_address_copy(const TmAddress *a)
{
    TmAddress *copy = g_memdup2(a, sizeof(*a));

    each_string(copy, copy_string);
    return copy;
}

void tm_address_free(TmAddress *copy)
{
    if (!copy)
        return;
    each_string(copy, free_string);
    g_free(copy);
}

static bool in_range(const char *number, uint32_t max)
{
    guint64 value;

    return g_ascii_string_to_unsigned(number, 10, 0, max, &value, NULL);
}

/* ---- unix */

static bool listen_unix(const TmAddress *a, GArray *sockets, GError **error)
{
    TmSocket s = { 0 };

    s.fd = a->abstract ? tm_unix_listen_abstract(a->path, a->padded, BACKLOG, error)
                       : tm_unix_listen(a->path, &a->rights, BACKLOG, &s.file, error);
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

static int family_of(const TmAddress *a)
{
    bool four = a->has_ipv4 ? a->ipv4 : !(a->has_ipv6 && a->ipv6);
    bool six = a->has_ipv6 ? a->ipv6 : !(a->has_ipv4 && a->ipv4);

    return four == six ? AF_UNSPEC : four ? AF_INET : AF_INET6;
}

/* @flags: AI_PASSIVE, to listen; or 0. */
static struct addrinfo *resolve(const TmAddress *a, int flags, GError **error)
{
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = flags }, *all = NULL;
    int err;

    if (a->has_ipv4 && a->has_ipv6 && !a->ipv4 && !a->ipv6) {
        tm_error_set(error, "Cannot disable IPv4 and IPv6 at same time");
        return NULL;
    }
    if (g_ascii_isdigit(a->port[0]) && !in_range(a->port, UINT16_MAX)) {
        /* The resolver would take it modulo 65536. */
        tm_error_set(error, "Parameter 'port' is '%s', expected 0 to 65535", a->port);
        return NULL;
    }
    hints.ai_family = family_of(a);
    if (a->numeric)
        hints.ai_flags |= AI_NUMERICHOST | AI_NUMERICSERV;
    err = getaddrinfo(a->host && *a->host ? a->host : NULL, a->port, &hints, &all);
    if (err)
        tm_error_set(error, "address resolution failed for %s:%s: %s", a->host ? a->host : "",
                     a->port, gai_strerror(err));
    return all;
}

/* "::" means every address of the machine, IPv4 ones too, but where one family is asked for; or
 * where IPv4 has its own socket already, as it has with an empty host. */
static int listen_resolved(const TmAddress *a, const struct addrinfo *ai)
{
    bool one = (a->has_ipv4 || a->has_ipv6) && !(a->ipv4 && a->ipv6);
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
static int listen_all(const TmAddress *a, const struct addrinfo *all, GArray *sockets)
{
    int err = 0;

    for (const struct addrinfo *ai = all; ai && (!err || is_lacking(err)); ai = ai->ai_next) {
        int fd = listen_resolved(a, ai);

        if (fd >= 0)
            append(sockets, fd);
        else
            err = errno;
    }
    if (sockets->len && (!err || is_lacking(err)))
        return 0;
    for (guint i = 0; i < sockets->len; i++)
        tm_socket_close(&g_array_index(sockets, TmSocket, i));
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

static bool listen_inet(const TmAddress *a, GArray *sockets, GError **error)
{
    struct addrinfo *all = resolve(a, AI_PASSIVE, error);
    unsigned port, last;
    int err;

    if (!all)
        return false;
    port = get_port(all);
    last = a->has_to ? a->to : port;
    err = last < port ? EINVAL : 0;
    for (unsigned p = port; p <= last; p++) {
        set_port(all, (uint16_t)p);
        err = listen_all(a, all, sockets);
        if (err != EADDRINUSE)
            break;
    }
    freeaddrinfo(all);
    if (!err)
        return true;
    if (last < port)
        return tm_error_set(error, "Parameter 'to' is %u, expected at least the port, %u", last,
                            port);
    return a->has_to
               ? tm_error_set_errno(error, err, "Failed to find an available port of %s:%u to %u",
                                    a->host ? a->host : "", port, last)
               : tm_error_set_errno(error, err, "Failed to bind socket to %s:%s",
                                    a->host ? a->host : "", a->port);
}

/* ---- vsock: a virtual machine and its host */

static bool vsock_address(const TmAddress *a, struct sockaddr_vm *address, GError **error)
{
    if (!in_range(a->cid, UINT32_MAX))
        return tm_error_set(error, "Parameter 'cid' is '%s', expected 0 to 4294967295 (any)",
                            a->cid);
    if (!in_range(a->port, UINT32_MAX))
        return tm_error_set(error, "Parameter 'port' is '%s', expected 0 to 4294967295 (any)",
                            a->port);
    *address = (struct sockaddr_vm){ .svm_family = AF_VSOCK };
    address->svm_cid = (unsigned)strtoul(a->cid, NULL, 10);
    address->svm_port = (unsigned)strtoul(a->port, NULL, 10);
    return true;
}

static bool listen_vsock(const TmAddress *a, GArray *sockets, GError **error)
{
    struct sockaddr_vm address;
    int fd;

    if (!vsock_address(a, &address, error))
        return false;
    fd = listen_address(AF_VSOCK, 0, &address, sizeof(address), false);
    if (fd < 0 && errno == EAFNOSUPPORT)
        return tm_error_set_errno(error, errno, "This system has no vsock");
    if (fd < 0)
        return tm_error_set_errno(error, errno, "Failed to bind socket to vsock:%s:%s", a->cid,
                                  a->port);
    append(sockets, fd);
    return true;
}

/* ---- all */

bool tm_address_listen(const TmAddress *a, TmInherited *inherited, GArray *sockets, GError **error)
{
    bool ok = false;

    switch (a->type) {
    case TM_ADDRESS_UNIX:
        ok = listen_unix(a, sockets, error);
        break;
    case TM_ADDRESS_INET:
        ok = listen_inet(a, sockets, error);
        break;
    case TM_ADDRESS_VSOCK:
        ok = listen_vsock(a, sockets, error);
        break;
    case TM_ADDRESS_FD:
        ok = tm_inherited_listen(inherited, a->fd, sockets, error);
        break;
    }
    for (guint i = 0; !ok && i < sockets->len; i++)
        tm_socket_close(&g_array_index(sockets, TmSocket, i));
    if (!ok)
        g_array_set_size(sockets, 0);
    return ok;
}

/* ---- connecting */

/* 0 or an errno. */
static int await_connection(int fd, int timeout_ms)
{
    struct pollfd p = { fd, POLLOUT, 0 };
    int err = 0, r;
    socklen_t length = sizeof(err);

    do
        r = poll(&p, 1, timeout_ms);
    while (r < 0 && errno == EINTR);
    if (r <= 0)
        return r ? errno : ETIMEDOUT;
    return getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &length) < 0 ? errno : err;
}

/* -1 and errno on failure. */
static int connect_address(int family, int protocol, const void *address, socklen_t length,
                           int timeout_ms)
{
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, protocol), err = 0;

    if (fd < 0)
        return -1;
    if (connect(fd, address, length) < 0)
        err = errno == EINPROGRESS ? await_connection(fd, timeout_ms) : errno;
    if (!err)
        return fd;
    close(fd);
    errno = err;
    return -1;
}

static int connect_unix(const TmAddress *a, GError **error)
{
    struct sockaddr_un address;
    socklen_t length = tm_unix_address(&address, a->path, a->abstract, a->padded, error);
    int fd = length ? connect_address(AF_UNIX, 0, &address, length, 0) : -1;

    if (length && fd < 0)
        tm_error_set_errno(error, errno, "Failed to connect to '%s'", a->path);
    return fd;
}

static int connect_inet(const TmAddress *a, int timeout_ms, GError **error)
{
    struct addrinfo *all = resolve(a, 0, error);
    int fd = -1;

    if (!all)
        return -1;
    for (const struct addrinfo *ai = all; ai && fd < 0; ai = ai->ai_next)
        fd = connect_address(ai->ai_family, ai->ai_protocol, ai->ai_addr, ai->ai_addrlen,
                             timeout_ms);
    if (fd < 0)
        tm_error_set_errno(error, errno, "Failed to connect to '%s:%s'", a->host, a->port);
    freeaddrinfo(all);
    return fd;
}

static int connect_vsock(const TmAddress *a, int timeout_ms, GError **error)
{
    struct sockaddr_vm address;
    int fd;

    if (!vsock_address(a, &address, error))
        return -1;
    fd = connect_address(AF_VSOCK, 0, &address, sizeof(address), timeout_ms);
    if (fd < 0)
        tm_error_set_errno(error, errno, "Failed to connect to 'vsock:%s:%s'", a->cid, a->port);
    return fd;
}

int tm_address_connect(const TmAddress *a, TmInherited *inherited, int timeout_ms, GError **error)
{
    int fd = -1;

    switch (a->type) {
    case TM_ADDRESS_UNIX:
        return connect_unix(a, error);
    case TM_ADDRESS_INET:
        fd = connect_inet(a, timeout_ms, error);
        break;
    case TM_ADDRESS_VSOCK:
        return connect_vsock(a, timeout_ms, error);
    case TM_ADDRESS_FD:
        return tm_inherited_take(inherited, a->fd, error);
    }
    if (fd >= 0)
        tm_address_configure(fd, !a->no_keepalive);
    return fd;
}

void tm_address_refuse_descriptors(const GArray *sockets)
{
    for (guint i = 0; i < sockets->len; i++)
        setsockopt(g_array_index(sockets, TmSocket, i).fd, SOL_SOCKET, SO_PASSRIGHTS, &(int){ 0 },
                   sizeof(int));
}

bool tm_accept_crowded(int err)
{
    return err == EMFILE || err == ENFILE || err == ENOBUFS || err == ENOMEM;
}

void tm_address_configure(int fd, bool keepalive)
{
    int on = 1, probe = keepalive;

    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &probe, sizeof(probe));
}
