/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/vhost/descriptor.c: descriptors that a client has sent, which may be any.
 *
 * The last one of a connection waits, when it is closed, for as long as the client has asked for,
 * until what was sent has been received: none waits if there is no connection any more. */
#include "server/vhost/vhost_internal.h"

#include <sys/socket.h>
#include <unistd.h>

bool vhost_is_eventfd(int fd)
{
    g_autofree char *link = g_strdup_printf("/proc/self/fd/%d", fd);
    g_autofree char *target = g_file_read_link(link, NULL);

    return g_strcmp0(target, "anon_inode:[eventfd]") == 0;
}

void vhost_close(int fd)
{
    static const struct linger none = { 0 };
    static const struct sockaddr nobody = { .sa_family = AF_UNSPEC };

    if (fd < 0)
        return;
    if (setsockopt(fd, SOL_SOCKET, SO_LINGER, &none, sizeof(none)) == 0)
        connect(fd, &nobody, sizeof(nobody));
    close(fd);
}
