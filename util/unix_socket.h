/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* util/unix_socket.h: the file of a unix socket that a server listens on.
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
#include <sys/types.h>

typedef struct TmSocketFile {
    char *path; /* absolute; NULL: none */
    dev_t dev;
    ino_t ino;
} TmSocketFile;

/* A non-blocking descriptor that listens at @path, which has mode 0600 from the first moment; or
 * -1. Fills @file. */
int tm_unix_listen(const char *path, int backlog, TmSocketFile *file, GError **error);
/* Removes the file unless another is there by now. Before the socket ceases to listen: from then on
 * it is anybody's to replace. */
void tm_socket_file_remove(TmSocketFile *file);
