/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* util/unix_socket.h: the file of a unix socket that a server listens on, and descriptors that are
 * sent.
 *
 * A socket on which a process listens is never taken away from it; one that nobody listens on any
 * more is in the way of its successor and is replaced; anything else at the path is left alone. Of
 * programs that go by this header, two that begin at once don't take a socket from each other: they
 * look, remove and bind under a lock (flock) of the directory, as long as the file system has such
 * locks and nobody sits on it.
 *
 * Threads: any. */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/un.h>

typedef struct TmSocketFile {
    char *path; /* absolute; NULL: none */
    dev_t dev;
    ino_t ino;
} TmSocketFile;

/* Who may connect to a socket: the rights of its file. Zeroed: the usual ones. */
typedef struct TmSocketRights {
    mode_t mode; /* 0: TM_SOCKET_MODE */
    bool has_owner, has_group;
    uid_t owner; /* instead of who makes it */
    gid_t group;
} TmSocketRights;
#define TM_SOCKET_MODE 0600

/* A non-blocking descriptor that listens at @path, which has @rights (NULL: the usual ones)
 * before anybody can connect; or -1. Fills @file. */
int tm_unix_listen(const char *path, const TmSocketRights *rights, int backlog, TmSocketFile *file,
                   GError **error);
/* The same for an abstract name, which is no file, and of which no rights can be asked: anybody in
 * the same network namespace can connect. */
int tm_unix_listen_abstract(const char *name, bool padded, int backlog, GError **error);
/* Fills @address; its length, or 0 if the path or name does not fit. */
socklen_t tm_unix_address(struct sockaddr_un *address, const char *path, bool abstract, bool padded,
                          GError **error);
/* Removes the file unless another is there by now. Before the socket ceases to listen: from then on
 * it is anybody's to replace. */
void tm_socket_file_remove(TmSocketFile *file);

/* As sendmsg(2), with the descriptor @fd along with the first byte; -1: with none. SIGPIPE is not
 * raised. */
ssize_t tm_unix_send(int socket, const struct iovec *iov, size_t n, int fd, int flags);
