/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/vhost/message.c: the messages of a client. What is not understood, or wrong, is refused:
 * in the reply, if one is wanted, else the connection ends. */
#include "server/vhost/vhost_internal.h"

#include "util/unix_socket.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define BIT(n) (UINT64_C(1) << (n))

static const uint64_t protocol_features =
    BIT(VHOST_PROTOCOL_MQ) | BIT(VHOST_PROTOCOL_REPLY_ACK) | BIT(VHOST_PROTOCOL_REQ) |
    BIT(VHOST_PROTOCOL_CONFIG) | BIT(VHOST_PROTOCOL_INFLIGHT_SHMFD) |
    BIT(VHOST_PROTOCOL_RESET_DEVICE) | BIT(VHOST_PROTOCOL_CONFIGURE_MEM_SLOTS);

/* ---- sending */

/* A reply fits into an empty socket; a client that reads none of several is disconnected. @fd: to
 * send along, or -1. */
static bool send_message(int socket, uint32_t request, uint32_t flags, const void *payload,
                         uint32_t size, int fd)
{
    VhostHead head = { request, VHOST_VERSION | flags, size };
    struct iovec iov[] = { { &head, sizeof(head) }, { (void *)payload, size } };

    return tm_unix_send(socket, iov, 2, fd, MSG_DONTWAIT) == (ssize_t)(sizeof(head) + size);
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
    vhost_close(s->req_fd);
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

static void locate_all(VhostSession *s)
{
    for (unsigned i = 0; i < s->n_queues; i++)
        locate(&s->queues[i]);
}

static bool set_mem_table(VhostSession *s)
{
    uint32_t n = s->payload.memory.n;
    bool ok = n <= VHOST_TABLE_REGIONS && n == s->n_fds &&
              s->head.size >= 8 + n * sizeof(VhostRegionInfo);

    vhost_memory_clear(&s->memory);
    for (uint32_t i = 0; ok && i < n; i++)
        ok = vhost_memory_add(&s->memory, &s->payload.memory.region[i], s->fds[i]) == 0;
    locate_all(s);
    return ok;
}

static bool get_max_mem_slots(VhostSession *s)
{
    return reply_u64(s, VHOST_REGIONS);
}

static bool add_mem_reg(VhostSession *s)
{
    bool ok = s->n_fds == 1 && !vhost_memory_add(&s->memory, &s->payload.slot.region, s->fds[0]);

    locate_all(s);
    return ok;
}

/* A queue that is in there stops. */
static bool rem_mem_reg(VhostSession *s)
{
    bool ok = vhost_memory_remove(&s->memory, &s->payload.slot.region);

    locate_all(s);
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
    vhost_close(fd);
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
    for (uint16_t i = 0; i < n; i++) {
        q->requests[i].queue = q;
        q->requests[i].head = i;
    }
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

/* What was negotiated stays. */
static bool reset_device(VhostSession *s)
{
    for (unsigned i = 0; i < s->n_queues; i++) {
        vhost_queue_set_kick(&s->queues[i], -1);
        s->queues[i].enabled = false;
        s->queues[i].last_avail = 0;
    }
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
    { VHOST_RESET_DEVICE, 0, false, false, reset_device },
    { VHOST_GET_MAX_MEM_SLOTS, 0, true, false, get_max_mem_slots },
    { VHOST_ADD_MEM_REG, VHOST_SLOT_SIZE, false, false, add_mem_reg },
    { VHOST_REM_MEM_REG, VHOST_SLOT_SIZE, false, false, rem_mem_reg },
};

static int find_handler(uint32_t request)
{
    for (size_t i = 0; i < G_N_ELEMENTS(handlers); i++) {
        if (handlers[i].request == request)
            return (int)i;
    }
    return -1;
}

bool vhost_message_asks(const VhostSession *s)
{
    int which = find_handler(s->head.request);

    return which >= 0 && handlers[which].asks;
}

void vhost_message_handle(VhostSession *s)
{
    int which = find_handler(s->head.request);
    bool ok = which >= 0 && s->head.size >= handlers[which].size && handlers[which].run(s);
    bool replied = which >= 0 && (handlers[which].asks || handlers[which].replies);
    bool wanted = (s->protocol & BIT(VHOST_PROTOCOL_REPLY_ACK)) &&
                  (s->head.flags & VHOST_NEED_REPLY) && !replied;

    while (s->n_fds)
        vhost_close(s->fds[--s->n_fds]);
    s->got = 0;
    if (wanted)
        ok = reply_u64(s, ok ? 0 : 1);
    if (!ok)
        vhost_session_fail(s, "message %u of %u bytes is refused", s->head.request, s->head.size);
}

bool vhost_message_config_change(VhostSession *s)
{
    return s->req_fd < 0 || send_message(s->req_fd, VHOST_REQ_CONFIG_CHANGE, 0, NULL, 0, -1);
}
