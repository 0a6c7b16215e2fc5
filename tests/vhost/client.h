/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/vhost/client.h: a client of vhost-user-blk, as small and fast as it can be: the memory of a
 * guest and its driver of the block device (guest.c), and the connection that a virtual machine
 * has for it (connection.c).
 *
 * A guest outlives its connections: with a new one its queues go on where they are. Each queue
 * belongs to one thread, which submits requests, publishes them and takes back those that are done.
 * The connection belongs to one thread, which may be another one. */
#pragma once
#include <linux/virtio_ring.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define VC_SECTOR 512u

typedef struct VcGuest VcGuest;
typedef struct VcQueue VcQueue;
typedef struct VcRequest VcRequest;

typedef struct VcOptions {
    unsigned queues;
    unsigned depth;   /* requests of a queue */
    uint32_t block;   /* bytes of a request's data, at most; a multiple of 4096 */
    uint32_t segment; /* bytes of a descriptor, at most */
    bool indirect;    /* chains are in tables of their own */
    bool event_idx;   /* VIRTIO_RING_F_EVENT_IDX, if the server has it */
} VcOptions;

/* One of the requests of a queue. Its descriptors and memory are its own. */
struct VcRequest {
    VcRequest *next; /* that is free */
    uint16_t head;
    uint32_t type, length;
    uint64_t offset;
    uint8_t *header, *status, *data; /* in the guest's memory */
    struct vring_desc *chain;        /* in the queue, or a table of its own */
    uint16_t first;                  /* of the chain: its place in there */
    uint64_t began;                  /* for the owner of the queue, as the next */
    uint64_t block;
};

struct VcQueue {
    VcGuest *guest;
    unsigned index;
    uint16_t size; /* descriptors */
    struct vring_desc *desc;
    struct vring_avail *avail;
    struct vring_used *used;
    int kick, call;                  /* eventfds */
    uint16_t added, published, seen; /* indices: of avail, of avail, of used */
    VcRequest *requests, *free;
    VcRequest **in_flight; /* by head; or NULL */
    uint64_t kicks, waits; /* how many */
};

struct VcGuest {
    VcOptions options;
    int memory, inflight;    /* shared files; -1: none yet */
    uint8_t *host;           /* memory */
    uint64_t size, reserved; /* bytes of it */
    uint64_t inflight_size;
    bool event_idx;    /* negotiated; atomic */
    int socket;        /* -1: not connected */
    int server;        /* the process that listens */
    uint64_t protocol; /* features of it, negotiated */
    uint64_t capacity; /* bytes of the disk */
    VcQueue queues[];
};

/* ---- guest.c */

/* Ends the program if that fails. */
VcGuest *vc_guest_new(const VcOptions *options);
void vc_guest_free(VcGuest *guest);

/* A request that is free, or NULL. */
VcRequest *vc_take(VcQueue *q);
/* Adds it to the queue, as VIRTIO_BLK_T_IN, _OUT or _FLUSH (@length 0). */
void vc_submit(VcQueue *q, VcRequest *r, uint32_t type, uint64_t offset, uint32_t length);
/* As VIRTIO_BLK_T_DISCARD or _WRITE_ZEROES of that range. */
void vc_submit_range(VcQueue *q, VcRequest *r, uint32_t type, uint64_t offset, uint32_t length);
/* Shows the server what was added, and kicks it if it wants to be. */
void vc_publish(VcQueue *q);
/* The next request that is done, or NULL. vc_release() makes it free. */
VcRequest *vc_reap(VcQueue *q);
void vc_release(VcQueue *q, VcRequest *r);
/* Waits until the server calls, unless some are done already. @ms: at most. */
void vc_wait(VcQueue *q, int ms);

/* ---- connection.c: each returns NULL, or what failed */

/* Connects to the server at @path, negotiates and starts the queues. */
const char *vc_connect(VcGuest *guest, const char *path);
/* Says again that a queue is enabled: a server may let all of them pause for it. */
const char *vc_pause(VcGuest *guest);
/* Stops the queues: then the server has nothing in flight any more. */
const char *vc_stop(VcGuest *guest);
void vc_disconnect(VcGuest *guest);
