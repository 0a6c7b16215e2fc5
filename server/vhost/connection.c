/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/vhost/connection.c: the socket of a client: receives messages, and has each handled
 * (message.c).
 *
 * A message that changes something waits until the queues are paused and what is in flight has
 * completed; until then no other is read. */
#include "server/vhost/vhost_internal.h"

#include <errno.h>
#include <glib-unix.h>
#include <sys/socket.h>

#define FDS_MOST 253 /* descriptors that come at once: SCM_MAX_FD of Linux */

/* ---- receiving */

static gboolean readable(gint fd, GIOCondition condition, gpointer opaque);

static void watch(VhostSession *s)
{
    s->watch = g_unix_fd_add(s->fd, G_IO_IN, readable, s);
}

/* Whether all are. */
static bool pause_all(VhostSession *s)
{
    bool idle = true;

    for (unsigned i = 0; i < s->n_queues; i++)
        vhost_queue_pause(&s->queues[i]);
    for (unsigned i = 0; i < s->n_queues; i++)
        idle = vhost_queue_idle(&s->queues[i]) && idle;
    return idle;
}

/* The message that waits, if it needn't any more. */
static void handle_paused(VhostSession *s)
{
    s->waits = !pause_all(s);
    if (s->waits)
        return;
    vhost_message_handle(s);
    for (unsigned i = 0; i < s->n_queues; i++)
        vhost_queue_resume(&s->queues[i]);
}

static gboolean settled(gpointer opaque)
{
    VhostSession *s = opaque;

    if (s->waits && !s->over) {
        handle_paused(s);
        if (!s->waits)
            watch(s);
    }
    vhost_session_unref(s);
    return G_SOURCE_REMOVE;
}

static void keep_fds(VhostSession *s, struct msghdr *m)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
        size_t n = c->cmsg_type == SCM_RIGHTS ? (c->cmsg_len - CMSG_LEN(0)) / sizeof(int) : 0;

        for (size_t i = 0; i < n; i++) {
            int fd;

            memcpy(&fd, CMSG_DATA(c) + i * sizeof(fd), sizeof(fd));
            if (s->n_fds < VHOST_FDS)
                s->fds[s->n_fds++] = fd;
            else
                vhost_close(fd);
        }
    }
}

/* Up to @size bytes of the head or the payload; false: the client has gone. */
static bool receive(VhostSession *s, void *to, size_t size)
{
    struct iovec iov = { to, size };
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(FDS_MOST * sizeof(int))];
    } control;
    struct msghdr m = { .msg_iov = &iov,
                        .msg_iovlen = 1,
                        .msg_control = &control,
                        .msg_controllen = sizeof(control.space) };
    ssize_t n = recvmsg(s->fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

    if (n <= 0)
        return n < 0 && (errno == EAGAIN || errno == EINTR);
    keep_fds(s, &m);
    s->got += (size_t)n;
    return true;
}

/* Some more of a message; false: the session is over. */
static bool receive_some(VhostSession *s)
{
    const size_t head = sizeof(s->head);

    if (s->got < head) {
        if (!receive(s, (char *)&s->head + s->got, head - s->got))
            return false;
        if (s->got < head)
            return true;
        memset(&s->payload, 0, sizeof(s->payload));
        if ((s->head.flags & VHOST_VERSIONS) != VHOST_VERSION ||
            s->head.size > sizeof(s->payload)) {
            vhost_session_fail(s, "it sends no messages of vhost-user");
            return false;
        }
    }
    return s->got == head + s->head.size ||
           receive(s, (char *)&s->payload + (s->got - head), head + s->head.size - s->got);
}

static gboolean readable(gint fd, GIOCondition condition, gpointer opaque)
{
    VhostSession *s = opaque;

    if (!receive_some(s) || __atomic_load_n(&s->cut, __ATOMIC_ACQUIRE)) {
        s->watch = 0;
        vhost_session_end(s, __atomic_load_n(&s->cut, __ATOMIC_ACQUIRE) ? "error" : "closed");
        return G_SOURCE_REMOVE;
    }
    if (s->got < sizeof(s->head) || s->got < sizeof(s->head) + s->head.size)
        return G_SOURCE_CONTINUE;
    if (vhost_message_asks(s)) {
        vhost_message_handle(s);
        return G_SOURCE_CONTINUE;
    }
    handle_paused(s);
    if (!s->waits)
        return G_SOURCE_CONTINUE;
    s->watch = 0; /* settled() goes on */
    return G_SOURCE_REMOVE;
}

/* ---- the session */

void vhost_session_begin(VhostExport *x, int fd)
{
    VhostSession *s = g_malloc0(sizeof(*s) + x->n_queues * sizeof(s->queues[0]));

    s->refs = 1;
    s->export_ = x;
    s->engine = x->engine;
    s->disk = blk_export_user(x->blk);
    s->id = ++x->next_id;
    s->peer = tm_address_peer(fd);
    s->fd = fd;
    s->req_fd = -1;
    s->settled = settled;
    s->last_size = blk_node_size(blk_export_node(x->blk));
    s->n_queues = x->n_queues;
    for (unsigned i = 0; i < s->n_queues; i++)
        vhost_queue_init(&s->queues[i], s, i);
    __atomic_add_fetch(&x->refs, 1, __ATOMIC_RELAXED);
    blk_export_ref(x->blk);
    __atomic_store_n(&x->vacant, 0, __ATOMIC_RELAXED);
    x->session = s;
    vhost_session_opened(s);
    watch(s);
}

/* Else the kernel closes, with the socket, the descriptors that are in there. */
static void discard_rest(VhostSession *s)
{
    char rest[4096];
    size_t before;

    do
        before = s->got;
    while (receive(s, rest, sizeof(rest)) && s->got > before);
}

void vhost_session_end(VhostSession *s, const char *reason)
{
    s->over = true;
    vhost_session_closed(s, reason);
    __atomic_store_n(&s->cut, true, __ATOMIC_RELEASE);
    if (s->watch)
        g_source_remove(s->watch);
    s->watch = 0;
    shutdown(s->fd, SHUT_RDWR);
    discard_rest(s);
    for (unsigned i = 0; i < s->n_queues; i++)
        vhost_queue_end(&s->queues[i]);
    while (g_idle_remove_by_data(s)) /* the main loop may have ended */
        vhost_session_unref(s);
    s->export_->ended(s->export_);
    vhost_session_unref(s);
}

void vhost_session_tick(VhostSession *s)
{
    uint64_t size = blk_node_size(blk_export_node(s->export_->blk));

    if (size != s->last_size && vhost_message_config_change(s))
        s->last_size = size;
}
