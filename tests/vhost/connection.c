/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/vhost/connection.c: what a virtual machine says to the server for its guest.
 *
 * Source: QEMU, docs/interop/vhost-user.rst. */
#include "server/vhost/proto.h"
#include "tests/vhost/client.h"

#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define BIT(n) (UINT64_C(1) << (n))
#define USER   BIT(40) /* where the guest's memory is, for the server */

typedef union Control {
    struct cmsghdr header;
    char space[CMSG_SPACE(sizeof(int))];
} Control;

static bool send_message(VcGuest *guest, uint32_t request, uint32_t flags, const void *payload,
                         uint32_t size, int fd)
{
    VhostHead head = { request, VHOST_VERSION | flags, size };
    struct iovec iov[2] = { { &head, sizeof(head) }, { (void *)payload, size } };
    Control control = { 0 };
    struct msghdr m = { .msg_iov = iov, .msg_iovlen = 2 };

    if (fd >= 0) {
        m.msg_control = &control;
        m.msg_controllen = sizeof(control.space);
        control.header = (struct cmsghdr){ CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS };
        memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
    }
    return sendmsg(guest->socket, &m, MSG_NOSIGNAL) == (ssize_t)(sizeof(head) + size);
}

/* A reply of exactly @size bytes, with a descriptor in *fd or without. */
static bool receive(VcGuest *guest, uint32_t request, void *payload, uint32_t size, int *fd)
{
    VhostHead head;
    struct iovec iov = { &head, sizeof(head) };
    Control control = { 0 };
    struct msghdr m = { .msg_iov = &iov,
                        .msg_iovlen = 1,
                        .msg_control = &control,
                        .msg_controllen = sizeof(control.space) };

    if (recvmsg(guest->socket, &m, MSG_WAITALL | MSG_CMSG_CLOEXEC) != sizeof(head))
        return false;
    if (m.msg_controllen && CMSG_FIRSTHDR(&m)) {
        int got;

        memcpy(&got, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof(got));
        if (fd)
            *fd = got;
        else
            close(got);
    }
    return head.request == request && head.size == size &&
           recv(guest->socket, payload, size, MSG_WAITALL) == (ssize_t)size;
}

static bool ask(VcGuest *guest, uint32_t request, uint64_t *answer)
{
    return send_message(guest, request, 0, NULL, 0, -1) &&
           receive(guest, request, answer, sizeof(*answer), NULL);
}

/* Sends what has no reply of its own, and waits until it is done. */
static bool set(VcGuest *guest, uint32_t request, const void *payload, uint32_t size, int fd)
{
    bool acked = guest->protocol & BIT(VHOST_PROTOCOL_REPLY_ACK);
    uint64_t failed = 0;

    return send_message(guest, request, acked ? VHOST_NEED_REPLY : 0, payload, size, fd) &&
           (!acked || (receive(guest, request, &failed, sizeof(failed), NULL) && !failed));
}

static bool set_u64(VcGuest *guest, uint32_t request, uint64_t value, int fd)
{
    return set(guest, request, &value, sizeof(value), fd);
}

/* ---- the device */

static bool negotiate(VcGuest *guest)
{
    uint64_t known = BIT(VHOST_PROTOCOL_MQ) | BIT(VHOST_PROTOCOL_REPLY_ACK) |
                     BIT(VHOST_PROTOCOL_CONFIG) | BIT(VHOST_PROTOCOL_INFLIGHT_SHMFD);
    uint64_t wanted = BIT(VIRTIO_F_VERSION_1) | BIT(VHOST_F_PROTOCOL_FEATURES) |
                      BIT(VIRTIO_BLK_F_FLUSH) | BIT(VIRTIO_BLK_F_MQ) | BIT(VIRTIO_BLK_F_DISCARD) |
                      BIT(VIRTIO_BLK_F_WRITE_ZEROES);
    uint64_t offered, protocol;

    if (guest->options.event_idx)
        wanted |= BIT(VIRTIO_RING_F_EVENT_IDX);
    if (guest->options.indirect)
        wanted |= BIT(VIRTIO_RING_F_INDIRECT_DESC);
    guest->protocol = 0;
    if (!set(guest, VHOST_SET_OWNER, NULL, 0, -1) || !ask(guest, VHOST_GET_FEATURES, &offered) ||
        !(offered & BIT(VHOST_F_PROTOCOL_FEATURES)) ||
        !ask(guest, VHOST_GET_PROTOCOL_FEATURES, &protocol) ||
        !set_u64(guest, VHOST_SET_PROTOCOL_FEATURES, protocol & known, -1))
        return false;
    guest->protocol = protocol & known;
    __atomic_store_n(&guest->event_idx, (wanted & offered & BIT(VIRTIO_RING_F_EVENT_IDX)) != 0,
                     __ATOMIC_RELAXED);
    return (offered & BIT(VIRTIO_RING_F_INDIRECT_DESC) || !guest->options.indirect) &&
           set_u64(guest, VHOST_SET_FEATURES, wanted & offered, -1);
}

static bool get_capacity(VcGuest *guest)
{
    VhostConfig config = { .size = sizeof(uint64_t) }; /* what the space begins with */
    uint32_t size = offsetof(VhostConfig, data) + config.size;
    uint64_t sectors;

    if (!send_message(guest, VHOST_GET_CONFIG, 0, &config, size, -1) ||
        !receive(guest, VHOST_GET_CONFIG, &config, size, NULL))
        return false;
    memcpy(&sectors, config.data, sizeof(sectors));
    guest->capacity = sectors * VC_SECTOR;
    return true;
}

static bool set_inflight(VcGuest *guest)
{
    VhostInflightInfo info = { .queues = (uint16_t)guest->options.queues,
                               .queue_size = guest->queues[0].size };

    if (!(guest->protocol & BIT(VHOST_PROTOCOL_INFLIGHT_SHMFD)))
        return true;
    if (guest->inflight < 0) {
        if (!send_message(guest, VHOST_GET_INFLIGHT_FD, 0, &info, sizeof(info), -1) ||
            !receive(guest, VHOST_GET_INFLIGHT_FD, &info, sizeof(info), &guest->inflight))
            return false;
        guest->inflight_size = info.size;
    }
    info.size = guest->inflight_size;
    return set(guest, VHOST_SET_INFLIGHT_FD, &info, sizeof(info), guest->inflight);
}

static bool set_memory(VcGuest *guest)
{
    VhostPayload payload = { .memory = { .n = 1 } };

    payload.memory.region[0] = (VhostRegionInfo){ .size = guest->size, .user = USER };
    return set(guest, VHOST_SET_MEM_TABLE, &payload, 8 + sizeof(VhostRegionInfo), guest->memory);
}

/* ---- the queues */

static uint64_t user(const VcGuest *guest, const void *at)
{
    return USER + (uint64_t)((const uint8_t *)at - guest->host);
}

static bool start_queue(VcGuest *guest, VcQueue *q)
{
    uint16_t used = __atomic_load_n(&q->used->idx, __ATOMIC_ACQUIRE);
    VhostRingState size = { q->index, q->size }, base = { q->index, used }, on = { q->index, 1 };
    VhostRingAddresses at = { .index = q->index,
                              .desc = user(guest, q->desc),
                              .avail = user(guest, q->avail),
                              .used = user(guest, q->used) };

    return set(guest, VHOST_SET_VRING_NUM, &size, sizeof(size), -1) &&
           set(guest, VHOST_SET_VRING_BASE, &base, sizeof(base), -1) &&
           set(guest, VHOST_SET_VRING_ADDR, &at, sizeof(at), -1) &&
           set_u64(guest, VHOST_SET_VRING_CALL, q->index, q->call) &&
           set_u64(guest, VHOST_SET_VRING_KICK, q->index, q->kick) &&
           set(guest, VHOST_SET_VRING_ENABLE, &on, sizeof(on), -1);
}

static bool stop_queue(VcGuest *guest, const VcQueue *q)
{
    VhostRingState state = { q->index, 0 };

    return send_message(guest, VHOST_GET_VRING_BASE, 0, &state, sizeof(state), -1) &&
           receive(guest, VHOST_GET_VRING_BASE, &state, sizeof(state), NULL) &&
           state.num == q->published;
}

/* ---- the connection */

static bool open_socket(VcGuest *guest, const char *path)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    struct ucred server;
    socklen_t length = sizeof(server);

    if (strlen(path) >= sizeof(address.sun_path))
        return false;
    memcpy(address.sun_path, path, strlen(path) + 1);
    guest->socket = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (guest->socket < 0 ||
        connect(guest->socket, (struct sockaddr *)&address, sizeof(address)) < 0 ||
        getsockopt(guest->socket, SOL_SOCKET, SO_PEERCRED, &server, &length) < 0)
        return false;
    guest->server = server.pid;
    return true;
}

static const char *start(VcGuest *guest, const char *path)
{
    if (!open_socket(guest, path))
        return "no server is there";
    if (!negotiate(guest))
        return "the features cannot be negotiated";
    if (!get_capacity(guest))
        return "the configuration of the disk cannot be read";
    if (!set_inflight(guest))
        return "the memory of what is in flight is refused";
    if (!set_memory(guest))
        return "the memory is refused";
    for (unsigned i = 0; i < guest->options.queues; i++) {
        if (!start_queue(guest, &guest->queues[i]))
            return "a queue cannot be started";
    }
    return NULL;
}

const char *vc_connect(VcGuest *guest, const char *path)
{
    const char *failed;

    vc_disconnect(guest);
    failed = start(guest, path);
    if (failed)
        vc_disconnect(guest);
    return failed;
}

const char *vc_stop(VcGuest *guest)
{
    for (unsigned i = 0; i < guest->options.queues; i++) {
        if (!stop_queue(guest, &guest->queues[i]))
            return "a queue cannot be stopped";
    }
    return NULL;
}

const char *vc_pause(VcGuest *guest)
{
    VhostRingState on = { 0, 1 };

    return set(guest, VHOST_SET_VRING_ENABLE, &on, sizeof(on), -1) ? NULL : "the server has gone";
}

void vc_disconnect(VcGuest *guest)
{
    if (guest->socket >= 0)
        close(guest->socket);
    guest->socket = -1;
}
