/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* util/peer.c: what a socket is bound to, and who is at the other end; see address.h. */
#include "util/address.h"

#include <linux/vm_sockets.h>
#include <netdb.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

typedef union Address {
    struct sockaddr any;
    struct sockaddr_un un;
    struct sockaddr_vm vm;
    struct sockaddr_storage room;
} Address;

static bool get_address(int fd, bool peer, Address *address, socklen_t *length)
{
    *address = (Address){ 0 };
    *length = sizeof(*address);
    return !(peer ? getpeername : getsockname)(fd, &address->any, length);
}

char *tm_address_path(int fd, bool *abstract, bool *padded)
{
    Address address;
    socklen_t length;
    size_t n;
    g_autofree char *raw = NULL;

    if (!get_address(fd, false, &address, &length) || address.any.sa_family != AF_UNIX)
        return NULL;
    n = length > offsetof(struct sockaddr_un, sun_path)
            ? length - offsetof(struct sockaddr_un, sun_path)
            : 0;
    *abstract = n && !address.un.sun_path[0];
    raw = g_strndup(address.un.sun_path + *abstract, n - *abstract);
    *padded = *abstract && strlen(raw) < n - 1;
    return g_utf8_make_valid(raw, -1);
}

bool tm_address_numbers(int fd, bool peer, char **host, char **port)
{
    Address address;
    socklen_t length;
    char h[NI_MAXHOST], p[NI_MAXSERV];

    if (!get_address(fd, peer, &address, &length))
        return false;
    if (address.any.sa_family == AF_VSOCK) {
        *host = g_strdup_printf("%u", address.vm.svm_cid);
        *port = g_strdup_printf("%u", address.vm.svm_port);
        return true;
    }
    if (getnameinfo(&address.any, length, h, sizeof(h), p, sizeof(p),
                    NI_NUMERICHOST | NI_NUMERICSERV))
        return false;
    *host = g_strdup(h);
    *port = g_strdup(p);
    return address.any.sa_family != AF_UNIX;
}

static bool credentials(int fd, struct ucred *peer)
{
    socklen_t length = sizeof(*peer);

    return !getsockopt(fd, SOL_SOCKET, SO_PEERCRED, peer, &length) && peer->uid != (uid_t)-1;
}

char *tm_address_peer_uid(int fd)
{
    struct ucred peer;

    return credentials(fd, &peer) ? g_strdup_printf("uid=%u", peer.uid) : NULL;
}

char *tm_address_peer(int fd)
{
    g_autofree char *host = NULL, *port = NULL;
    struct ucred peer;
    Address address;
    socklen_t length;

    if (!get_address(fd, true, &address, &length))
        return g_strdup("unknown"); /* it has gone already */
    if (address.any.sa_family == AF_UNIX)
        return credentials(fd, &peer)
                   ? g_strdup_printf("unix:pid=%d,uid=%u", (int)peer.pid, peer.uid)
                   : g_strdup("unix");
    if (!tm_address_numbers(fd, true, &host, &port))
        return g_strdup("unknown");
    return g_strdup_printf(address.any.sa_family == AF_VSOCK   ? "vsock:%s:%s"
                           : address.any.sa_family == AF_INET6 ? "[%s]:%s"
                                                               : "%s:%s",
                           host, port);
}
