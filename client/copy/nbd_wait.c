/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/copy/nbd_wait.c: see nbd_wait.h. */
#include "client/copy/nbd_wait.h"
#include <glib.h>
#include <poll.h>

/* A server that has everything may take as long to end the connection. */
enum { GOODBYE_MS = 2000 };

bool tc_nbd_turn(struct nbd_handle *nbd, int stop_fd, int timeout_ms)
{
    unsigned direction = nbd_aio_get_direction(nbd);
    struct pollfd fds[] = { { .fd = nbd_aio_get_fd(nbd) }, { .fd = stop_fd, .events = POLLIN } };

    if (direction & LIBNBD_AIO_DIRECTION_READ)
        fds[0].events |= POLLIN;
    if (direction & LIBNBD_AIO_DIRECTION_WRITE)
        fds[0].events |= POLLOUT;
    if (poll(fds, G_N_ELEMENTS(fds), timeout_ms) < 0)
        return true;
    if (fds[1].revents)
        return false;
    if (direction & LIBNBD_AIO_DIRECTION_READ && fds[0].revents & (POLLIN | POLLHUP | POLLERR))
        nbd_aio_notify_read(nbd);
    else if (direction & LIBNBD_AIO_DIRECTION_WRITE && fds[0].revents & (POLLOUT | POLLERR))
        nbd_aio_notify_write(nbd);
    return true;
}

bool tc_nbd_settle(struct nbd_handle *nbd, int stop_fd)
{
    while (nbd_aio_is_connecting(nbd) == 1)
        if (!tc_nbd_turn(nbd, stop_fd, -1))
            return false;
    return true;
}

int tc_nbd_complete(struct nbd_handle *nbd, int64_t cookie, int stop_fd)
{
    int done = cookie == -1 ? -1 : 0;

    while (!done && !(done = nbd_aio_command_completed(nbd, (uint64_t)cookie)))
        if (!tc_nbd_turn(nbd, stop_fd, -1))
            return 0;
    return done;
}

void tc_nbd_close(struct nbd_handle *nbd, int stop_fd)
{
    gint64 end = g_get_monotonic_time() + 1000 * (gint64)GOODBYE_MS;
    bool said = false;

    if (!nbd)
        return;
    /* a server that has gone is no news here */
    if (nbd_aio_is_negotiating(nbd) == 1)
        said = nbd_aio_opt_abort(nbd) == 0;
    else if (nbd_aio_is_ready(nbd) == 1 && nbd_aio_in_flight(nbd) <= 0)
        said = nbd_aio_disconnect(nbd, 0) == 0;
    while (said && nbd_aio_is_dead(nbd) != 1 && nbd_aio_is_closed(nbd) != 1 &&
           g_get_monotonic_time() < end)
        if (!tc_nbd_turn(nbd, stop_fd, GOODBYE_MS))
            break;
    nbd_close(nbd);
}
