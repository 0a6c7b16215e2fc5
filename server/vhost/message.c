/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/vhost/message.c: the messages of a client.
 *
 * A message that changes something waits until the queues are paused and what is in flight has
 * completed; until then no other is read. What is not understood, or wrong, is refused: in the
 * reply, if one is wanted, else the connection ends. */
#include "server/vhost/vhost_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <glib-unix.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define BIT(n) (UINT64_C(1) << (n))

static const uint64_t protocol_features = BIT(VHOST_PROTOCOL_MQ) | BIT(VHOST_PROTOCOL_REPLY_ACK) |
                                          BIT(VHOST_PROTOCOL_REQ) | BIT(VHOST_PROTOCOL_CONFIG) |
                                          BIT(VHOST_PROTOCOL_INFLIGHT_SHMFD);

/* ---- sending */

/* A reply fits into an empty socket; a client that reads none of several is disconnected. @fd: to
 * send along, or -1. */
static bool send_message(int socket, uint32_t request, uint32_t flags, const void *payload,
                         uint32_t size, int fd)
{
    VhostHead head = { request, VHOST_VERSION | flags, size };
    struct iovec iov[] = { { &head, sizeof(head) }, { (void *)payload, size } };
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control = { 0 };
    struct msghdr m = { .msg_iov = iov, .msg_iovlen = 2 };

    if (fd >= 0) {
        m.msg_control = &control;
        m.msg_controllen = sizeof(control.space);
        control.header = (struct cmsghdr){ CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS };
        memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
    }
    return sendmsg(socket, &m, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)(sizeof(head) + size);
}

static bool reply(VhostSession *s, const void *payload, uint32_t size)
{
    return send_message(s->fd, s->head.request, VHOST_REPLY, payload, size, -1);
}

static bool reply_u64(VhostSession *s, uint64_t value)
{
    return reply(s, &value, sizeof(value));
}

static int take_fd(VhostSession *s)
{
    return s->n_fds ? s->fds[--s->n_fds] : -1;
}

static VhostQueue *queue_at(VhostSession *s, uint64_t index)
{
    return index < s->n_queues ? &s->queues[index] : NULL;
}

/* ---- the device */

static bool get_features(VhostSession *s)
{
    return reply_u64(s, vhost_config_features(s));
}

static bool set_features(VhostSession *s)
{
    if (s->payload.u64 & ~vhost_config_features(s))
        return false;
    s->features = s->payload.u64;
    for (unsigned i = 0; i < s->n_queues && !VHOST_HAS(s, VHOST_F_PROTOCOL_FEATURES); i++)
        s->queues[i].enabled = true;
    return true;
}

static bool get_protocol_features(VhostSession *s)
{
    return reply_u64(s, protocol_features);
}

static bool set_protocol_features(VhostSession *s)
{
    s->protocol = s->payload.u64;
    return !(s->payload.u64 & ~protocol_features);
}

static bool nothing(VhostSession *s)
{
    return true;
}

static bool get_queue_num(VhostSession *s)
{
    return reply_u64(s, s->n_queues);
}

/* An answer without data is that of an error. */
static bool get_config(VhostSession *s)
{
    VhostConfig config = s->payload.config;
    uint8_t space[VHOST_CONFIG_SIZE] = { 0 };
    uint32_t head = offsetof(VhostConfig, data);

    vhost_config_fill(s, space);
    if (config.offset > sizeof(space) || config.size > sizeof(space) - config.offset)
        return reply(s, NULL, 0);
    memcpy(config.data, space + config.offset, config.size);
    return reply(s, &config, head + config.size);
}

static bool refuse(VhostSession *s)
{
    return false;
}

static bool set_req_fd(VhostSession *s)
{
    if (s->req_fd >= 0)
        close(s->req_fd);
    s->req_fd = take_fd(s);
    return s->req_fd >= 0;
}

/* ---- memory */

/* Where the parts of a queue are now: what is no longer in memory is nowhere. */
static void locate(VhostQueue *q)
{
    const VhostMemory *memory = &q->session->memory;
    const VhostRingAddresses *a = &q->addresses;
    uint64_t n = q->size;

    q->desc = vhost_memory_user(memory, a->desc, n * sizeof(VhostDesc), 16);
    q->avail = vhost_memory_user(memory, a->avail, 6 + 2 * n, 2);
    q->used = vhost_memory_user(memory, a->used, 6 + 8 * n, 4);
}

static bool set_mem_table(VhostSession *s)
{
    uint32_t n = s->payload.memory.n;
    bool ok =
        n <= VHOST_REGIONS && n == s->n_fds && s->head.size >= 8 + n * sizeof(VhostRegionInfo);

    vhost_memory_clear(&s->memory);
    for (uint32_t i = 0; ok && i < n; i++)
        ok = vhost_memory_add(&s->memory, &s->payload.memory.region[i], s->fds[i]) == 0;
    for (unsigned i = 0; i < s->n_queues; i++)
        locate(&s->queues[i]);
    return ok;
}

static bool get_inflight_fd(VhostSession *s)
{
    VhostInflightInfo info = s->payload.inflight;
    bool ok;
    int fd;

    if (!info.queues || info.queues > s->n_queues || !info.queue_size ||
        info.queue_size > VHOST_QUEUE_MAX)
        return false;
    info.offset = 0;
    info.size = info.queues * vhost_inflight_stride(info.queue_size);
    fd = memfd_create("tidemark-inflight", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return false;
    ok = ftruncate(fd, (off_t)info.size) == 0 &&
         fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0 &&
         send_message(s->fd, s->head.request, VHOST_REPLY, &info, sizeof(info), fd);
    close(fd);
    return ok;
}

/* A queue whose rings, area or kick are others begins anew when it resumes, in whatever order the
 * messages come. */
static void begin_anew(VhostQueue *q)
{
    q->state = NULL;
    q->begun = false;
}

static bool set_inflight_fd(VhostSession *s)
{
    const VhostInflightInfo *info = &s->payload.inflight;
    uint64_t size = info->queues * vhost_inflight_stride(info->queue_size);
    int fd = take_fd(s);
    bool ok;

    for (unsigned i = 0; i < s->n_queues; i++)
        begin_anew(&s->queues[i]);
    tm_mapping_close(&s->inflight);
    s->inflight_at = NULL;
    ok = fd >= 0 && info->queue_size && info->queue_size <= VHOST_QUEUE_MAX && size <= info->size &&
         !(info->offset % 8) && !vhost_map(&s->inflight, fd, info->offset, size, &s->inflight_at);
    if (fd >= 0)
        close(fd);
    s->inflight_queues = info->queues;
    s->inflight_size = info->queue_size;
    return ok;
}

/* ---- queues */

static void free_requests(VhostQueue *q)
{
    for (unsigned i = 0; q->requests && i < q->size; i++) {
        if (q->requests[i].parts != q->requests[i].few)
            g_free(q->requests[i].parts);
    }
    g_clear_pointer(&q->requests, g_free);
    q->size = 0;
}

static bool set_vring_num(VhostSession *s)
{
    VhostQueue *q = queue_at(s, s->payload.state.index);
    uint32_t n = s->payload.state.num;

    if (!q || !n || n > VHOST_QUEUE_MAX || n & (n - 1))
        return false;
    begin_anew(q);
    free_requests(q);
    q->requests = g_try_new0(VhostRequest, n);
    if (!q->requests)
        return false;
    q->size = (uint16_t)n;
    q->desc = NULL; /* until it is said where */
    return true;
}

static bool set_vring_addr(VhostSession *s)
{
    VhostQueue *q = queue_at(s, s->payload.addresses.index);

    if (!q || !q->size)
        return false;
    q->addresses = s->payload.addresses;
    locate(q);
    if (!q->desc || !q->avail || !q->used)
        return false;
    q->used_idx = vhost_load16(&q->used->idx);
    begin_anew(q);
    return true;
}

static bool set_vring_base(VhostSession *s)
{
    VhostQueue *q = queue_at(s, s->payload.state.index);

    if (!q)
        return false;
    q->last_avail = (uint16_t)s->payload.state.num;
    begin_anew(q);
    return true;
}

/* Stops it. */
static bool get_vring_base(VhostSession *s)
{
    VhostQueue *q = queue_at(s, s->payload.state.index);
    VhostRingState state = s->payload.state;

    if (!q)
        return false;
    state.num = q->last_avail;
    vhost_queue_set_kick(q, -1);
    return reply(s, &state, sizeof(state));
}

static bool set_vring_kick(VhostSession *s)
{
    VhostQueue *q = queue_at(s, s->payload.u64 & 0xff);
    int fd = q && !(s->payload.u64 & VHOST_NO_FD) ? take_fd(s) : -1;

    return fd >= 0 && vhost_queue_set_kick(q, fd);
}

static bool set_event(VhostSession *s, VhostEvent **event)
{
    bool none = s->payload.u64 & VHOST_NO_FD;
    int fd = none ? -1 : take_fd(s);

    vhost_event_free(*event);
    *event = fd < 0 ? NULL : vhost_event_new(s->engine, fd);
    return none || *event;
}

static bool set_vring_call(VhostSession *s)
{
    VhostQueue *q = queue_at(s, s->payload.u64 & 0xff);

    if (!q || !set_event(s, &q->call))
        return false;
    if (q->call) /* a daemon may have ended between a used request and its call */
        vhost_event_signal(q->call);
    return true;
}

static bool set_vring_err(VhostSession *s)
{
    VhostQueue *q = queue_at(s, s->payload.u64 & 0xff);

    return q && set_event(s, &q->err);
}

static bool set_vring_enable(VhostSession *s)
{
    VhostQueue *q = queue_at(s, s->payload.state.index);

    if (!q || s->payload.state.num > 1)
        return false;
    q->enabled = s->payload.state.num;
    return true;
}

/* ---- one message */

#define STATE_SIZE ((uint32_t)sizeof(VhostRingState))

static const struct {
    uint32_t request;
    uint32_t size; /* of the payload, at least */
    bool asks;     /* it has a reply, and changes nothing */
    bool replies;  /* it changes something, and has a reply */
    bool (*run)(VhostSession *s);
} handlers[] = {
    { VHOST_GET_FEATURES, 0, true, false, get_features },
    { VHOST_SET_FEATURES, 8, false, false, set_features },
    { VHOST_SET_OWNER, 0, false, false, nothing },
    { VHOST_RESET_OWNER, 0, false, false, nothing },
    { VHOST_SET_MEM_TABLE, 8, false, false, set_mem_table },
    { VHOST_SET_VRING_NUM, STATE_SIZE, false, false, set_vring_num },
    { VHOST_SET_VRING_ADDR, sizeof(VhostRingAddresses), false, false, set_vring_addr },
    { VHOST_SET_VRING_BASE, STATE_SIZE, false, false, set_vring_base },
    { VHOST_GET_VRING_BASE, STATE_SIZE, false, true, get_vring_base },
    { VHOST_SET_VRING_KICK, 8, false, false, set_vring_kick },
    { VHOST_SET_VRING_CALL, 8, false, false, set_vring_call },
    { VHOST_SET_VRING_ERR, 8, false, false, set_vring_err },
    { VHOST_GET_PROTOCOL_FEATURES, 0, true, false, get_protocol_features },
    { VHOST_SET_PROTOCOL_FEATURES, 8, false, false, set_protocol_features },
    { VHOST_GET_QUEUE_NUM, 0, true, false, get_queue_num },
    { VHOST_SET_VRING_ENABLE, STATE_SIZE, false, false, set_vring_enable },
    { VHOST_SET_REQ_FD, 0, false, false, set_req_fd },
    { VHOST_GET_CONFIG, offsetof(VhostConfig, data), true, false, get_config },
    { VHOST_SET_CONFIG, 0, false, false, refuse },
    { VHOST_GET_INFLIGHT_FD, VHOST_INFLIGHT_SIZE, true, false, get_inflight_fd },
    { VHOST_SET_INFLIGHT_FD, VHOST_INFLIGHT_SIZE, false, false, set_inflight_fd },
};

static int find_handler(uint32_t request)
{
    for (size_t i = 0; i < G_N_ELEMENTS(handlers); i++) {
        if (handlers[i].request == request)
            return (int)i;
    }
    return -1;
}

/* The message is whole, and may be handled. */
static void handle(VhostSession *s)
{
    int which = find_handler(s->head.request);
    bool ok = which >= 0 && s->head.size >= handlers[which].size && handlers[which].run(s);
    bool replied = which >= 0 && (handlers[which].asks || handlers[which].replies);
    bool wanted = (s->protocol & BIT(VHOST_PROTOCOL_REPLY_ACK)) &&
                  (s->head.flags & VHOST_NEED_REPLY) && !replied;

    while (s->n_fds)
        close(s->fds[--s->n_fds]);
    s->got = 0;
    if (wanted)
        ok = reply_u64(s, ok ? 0 : 1);
    if (!ok)
        vhost_session_fail(s, "message %u of %u bytes is refused", s->head.request, s->head.size);
}

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
    handle(s);
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
                close(fd);
        }
    }
}

/* Up to @size bytes of the head or the payload; false: the client has gone. */
static bool receive(VhostSession *s, void *to, size_t size)
{
    struct iovec iov = { to, size };
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(VHOST_FDS * sizeof(int))];
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
    int which;

    if (!receive_some(s) || __atomic_load_n(&s->cut, __ATOMIC_ACQUIRE)) {
        s->watch = 0;
        vhost_session_end(s);
        return G_SOURCE_REMOVE;
    }
    if (s->got < sizeof(s->head) || s->got < sizeof(s->head) + s->head.size)
        return G_SOURCE_CONTINUE;
    which = find_handler(s->head.request);
    if (which >= 0 && handlers[which].asks) {
        handle(s);
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
    watch(s);
}

void vhost_session_end(VhostSession *s)
{
    s->over = true;
    __atomic_store_n(&s->cut, true, __ATOMIC_RELEASE);
    if (s->watch)
        g_source_remove(s->watch);
    s->watch = 0;
    shutdown(s->fd, SHUT_RDWR);
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

    if (size == s->last_size || s->req_fd < 0)
        return;
    s->last_size = size;
    send_message(s->req_fd, VHOST_REQ_CONFIG_CHANGE, 0, NULL, 0, -1);
}
