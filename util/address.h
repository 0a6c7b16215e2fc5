/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* util/address.h: the addresses of stream sockets: listening there, connecting to them, and showing
 * who is at the other end.
 *
 * Sockets that the process was started with, by systemd or another program, are found before any
 * other is opened, so that a number never means one of the daemon's own. Their names are as
 * sd_listen_fds_with_names(3) has them. Listening ones stay open, for a server that is started
 * anew; a connected one can be taken once.
 *
 * Threads: any; a TmInherited is used by one thread at a time. */
#pragma once
#include "util/unix_socket.h"

#include <stdint.h>

typedef struct TmInherited TmInherited;

typedef enum {
    TM_ADDRESS_UNIX,
    TM_ADDRESS_INET,
    TM_ADDRESS_VSOCK,
    TM_ADDRESS_FD, /* a socket that this process was started with */
} TmAddressType;

/* Strings are borrowed. */
typedef struct TmAddress {
    TmAddressType type;
    const char *path;        /* unix */
    bool abstract;           /* unix: a name in the kernel's list, not a file */
    bool padded;             /* abstract: NULs follow the name up to the full length */
    TmSocketRights rights;   /* unix, of a file: to listen */
    const char *host, *port; /* inet; vsock: port */
    bool has_ipv4, ipv4, has_ipv6, ipv6;
    bool numeric; /* inet: no name is resolved */
    bool has_to;
    uint16_t to;       /* inet: the first port from @port to this one that is free */
    bool no_keepalive; /* inet: connections are not probed */
    const char *cid;   /* vsock */
    const char *fd;    /* fd: its number, or its name */
} TmAddress;

/* With strings of its own; returned (tm_address_free). */
TmAddress *tm_address_copy(const TmAddress *address);
void tm_address_free(TmAddress *copy); /* NULL is fine */

/* A listening socket. */
typedef struct TmSocket {
    int fd;
    bool shared;       /* others have it too: it is not to be shut down */
    TmSocketFile file; /* unix */
} TmSocket;

void tm_socket_close(TmSocket *socket);

/* Appends the sockets that listen at @address to @sockets (of TmSocket), at least one; or none and
 * fails. They don't block. @inherited (borrowed) may be NULL: there are none. */
bool tm_address_listen(const TmAddress *address, TmInherited *inherited, GArray *sockets,
                       GError **error);
/* A socket that is connected to @address; or -1. It doesn't block, except an inherited one, whose
 * flags stay as they are. Waits for @timeout_ms at most, and for names to be resolved. */
int tm_address_connect(const TmAddress *address, TmInherited *inherited, int timeout_ms,
                       GError **error);
/* What a connection should have: no delays, and, with @keepalive, probes. On anything but TCP it
 * fails, to no harm. */
void tm_address_configure(int fd, bool keepalive);
/* Has the kernel refuse descriptors that are sent to @sockets (of TmSocket) or to whom they accept,
 * if it can (Linux 6.16): it would close them in a thread of ours, and closing can wait for as long
 * as the sender likes. */
void tm_address_refuse_descriptors(const GArray *sockets);
/* Whether accept(2) failed with @err for want of descriptors or memory: the client waits, and the
 * socket stays readable. */
bool tm_accept_crowded(int err);

/* Numbers of the address of an inet or vsock socket (of the other end, with @peer); false: it is of
 * another kind, or not connected. Returned strings. */
bool tm_address_numbers(int fd, bool peer, char **host, char **port);
/* The path of a unix socket, or the name of one that is *abstract, and *padded if NULs follow it:
 * returned, or NULL: it is of another kind. */
char *tm_address_path(int fd, bool *abstract, bool *padded);
/* What a listening socket is bound to, a SocketAddress of QMP; returned. */
struct json_object *tm_address_bound(int fd);
/* Who is at the other end, for people; returned. */
char *tm_address_peer(int fd);
/* "uid=N" of the process at the other end of a unix socket, returned, or NULL. */
char *tm_address_peer_uid(int fd);

/* The stream sockets that this process was started with. */
TmInherited *tm_inherited_new(void);
void tm_inherited_free(TmInherited *inherited); /* NULL is fine */
