/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/vhost/vhost_internal.h: what the files of this room share.
 *
 * The messages of a client are handled on the main thread (message.c), its queues on the loops of
 * the engine (queue.c): the thread that a kick wakes has the queue for a turn. Whatever a message
 * changes, it changes while the queues are paused and nothing of theirs is in flight, so a turn and
 * the requests read it without a lock.
 *
 * Memory that the client shares can change at any time, and be lost (util/mapping.h). Each field is
 * read once, by vhost_load16() and the like, and checked before it is used.
 *
 * A session lives as long as something of it does: its socket, a kick that is armed, a request. */
#pragma once
#include "block/io/request.h"
#include "block/users.h"
#include "server/vhost/proto.h"
#include "server/vhost/vhost.h"
#include "util/mapping.h"

#include <pthread.h>

#define VHOST_QUEUE_MAX  1024u       /* descriptors */
#define VHOST_PARTS_MAX  1024u       /* of a request in memory */
#define VHOST_DATA_MAX   (32u << 20) /* bytes of a request */
#define VHOST_SEGMENTS   126u        /* that clients are asked to keep to */
#define VHOST_QUEUES_MAX 256u        /* the protocol's: 8 bits say which */

/* A client that has seen a request used puts its memory into another one, in another queue, too.
 * The thread sanitizer can't see that order: the request is used before it, and the other one taken
 * after it. */
#ifdef __has_feature
#if __has_feature(thread_sanitizer)
#include <sanitizer/tsan_interface.h>
#define VHOST_USED(s)  __tsan_release(s)
#define VHOST_TAKEN(s) __tsan_acquire(s)
#endif
#endif
#ifndef VHOST_USED
#define VHOST_USED(s)  ((void)(s))
#define VHOST_TAKEN(s) ((void)(s))
#endif

/* What a client may have negotiated, or not. */
#define VHOST_HAS(s, feature) (((s)->features >> (feature)) & 1)

typedef struct VhostExport VhostExport;
typedef struct VhostSession VhostSession;
typedef struct VhostQueue VhostQueue;
typedef struct VhostEvent VhostEvent;

/* ---- memory.c */

typedef struct VhostRegion {
    VhostRegionInfo info;
    uint8_t *host; /* of info.guest */
    TmMapping mapping;
} VhostRegion;

typedef struct VhostMemory {
    unsigned n;
    VhostRegion region[VHOST_REGIONS]; /* in the order of the guest's addresses */
} VhostMemory;

/* Maps @fd, which stays the caller's: 0 or -errno, -EINVAL if the region overlaps another one, is
 * none, or lies beyond the file. */
int vhost_memory_add(VhostMemory *memory, const VhostRegionInfo *info, int fd);
/* false: it has no such region. */
bool vhost_memory_remove(VhostMemory *memory, const VhostRegionInfo *info);
void vhost_memory_clear(VhostMemory *memory);
/* What is at a guest's address, and in *length (at least 1) how much of it in one piece; NULL: no
 * memory is there. */
uint8_t *vhost_memory_at(const VhostMemory *memory, uint64_t address, uint64_t *length);
/* What is at an address of the client, @length bytes aligned to @align; or NULL. */
void *vhost_memory_user(const VhostMemory *memory, uint64_t address, uint64_t length, size_t align);
/* Whether some of it was lost. */
bool vhost_memory_broken(const VhostMemory *memory);
/* Maps a shared file from @offset on: 0 or -errno, -EINVAL if it is shorter. */
int vhost_map(TmMapping *mapping, int fd, uint64_t offset, uint64_t length, uint8_t **at);

static inline uint16_t vhost_load16(const void *p)
{
    return __atomic_load_n((const uint16_t *)p, __ATOMIC_RELAXED);
}

static inline void vhost_store16(void *p, uint16_t v)
{
    __atomic_store_n((uint16_t *)p, v, __ATOMIC_RELAXED);
}

/* ---- descriptor.c */

bool vhost_is_eventfd(int fd);
/* Closes what came from a client; -1 is fine. */
void vhost_close(int fd);

/* ---- event.c */

/* @fd: taken; NULL if it is no eventfd, or the kernel refuses. Main thread. */
VhostEvent *vhost_event_new(BlkEngine *engine, int fd);
/* Never waits, whatever the client does with the eventfd. false: the kernel refused. Any thread. */
bool vhost_event_signal(VhostEvent *event);
void vhost_event_free(VhostEvent *event);

/* ---- requests */

typedef struct VhostRequest {
    BlkRequest blk;
    VhostQueue *queue;
    uint16_t head;
    bool busy;
    uint8_t type;        /* the block device's */
    uint8_t *status;     /* the last byte that the device writes */
    uint32_t written;    /* bytes that are the device's */
    uint8_t result;      /* VIRTIO_BLK_S_... */
    unsigned n_out, n;   /* parts that are read, then all of them */
    unsigned cap;        /* that parts has room for */
    struct iovec *parts; /* or of few[] */
    struct iovec few[4];
} VhostRequest;

/* ---- a queue */

/* The client can read its eventfd as well, and take a wake-up away: so to end a kick there is one
 * of our own. */
typedef struct VhostKick {
    BlkSource source; /* of a set of both */
    int fd, wake;     /* eventfds: the client's, and ours */
    VhostQueue *queue;
    bool poked;                 /* atomic: a turn is wanted, without a kick */
    bool armed, owned, closing; /* under the queue's lock */
} VhostKick;

struct VhostQueue {
    VhostSession *session;
    unsigned index;

    /* While the queue is paused the main thread's, else constant. */
    uint16_t size;
    VhostRingAddresses addresses; /* all zeroes: none were given */
    VhostDesc *desc;              /* the three: or NULL */
    VhostAvail *avail;
    VhostUsed *used;
    bool enabled, started;
    bool begun;             /* where it goes on, and what was in flight, is known */
    VhostEvent *call, *err; /* or NULL */
    VhostKick *kick;
    VhostRequest *requests; /* one for each descriptor that a chain may begin with */
    VhostQueueState *state; /* in the memory of what is in flight; or NULL */

    /* Of the turn. */
    uint16_t last_avail;
    uint64_t counter;
    uint16_t *again; /* heads that were in flight when a daemon ended; a pause waits for them */
    unsigned n_again;
    int64_t left;     /* monotonic ns: the end of the last turn */
    uint64_t poll_ns; /* how long the next one waits for more */

    pthread_mutex_t lock; /* guards the rest; a leaf */
    bool paused, running, broken;
    bool ended; /* nobody waits for it to be idle any more */
    unsigned in_flight;
    uint16_t used_idx, signalled;
    bool signal_known;
};

/* ---- a session */

struct VhostSession {
    int refs; /* atomic */
    VhostExport *export_;
    BlkEngine *engine;
    BlkUser *disk;
    uint64_t id;
    char *peer;
    int fd;
    bool cut; /* atomic */
    /* On the main thread, soon: a queue that is paused has nothing in flight any more. */
    GSourceFunc settled;

    /* The main thread's. */
    guint watch;
    bool over, waits;
    int req_fd; /* a socket, or -1 */
    uint64_t last_size;
    VhostHead head;
    size_t got; /* bytes of head and payload */
    VhostPayload payload;
    int fds[VHOST_FDS];
    unsigned n_fds;

    /* As of a queue: changed while all are paused. */
    uint64_t features, protocol;
    VhostMemory memory;
    TmMapping inflight;
    uint8_t *inflight_at; /* or NULL */
    uint16_t inflight_queues, inflight_size;
    unsigned n_queues;
    VhostQueue queues[];
};

/* ---- an export */

struct VhostExport {
    int refs;          /* atomic: the export and its session */
    BlkExport *blk;    /* valid as long as either of them */
    BlkEngine *engine; /* borrowed */
    TmLog *log;        /* borrowed; or NULL */
    GArray *sockets;   /* of TmSocket */
    guint watch;
    bool closed;                   /* main thread */
    bool crowded;                  /* main thread: it was said that a client waits */
    VhostSession *session;         /* main thread's; or NULL */
    int vacant;                    /* atomic: nothing of a session is left */
    void (*ended)(VhostExport *x); /* main thread: its session does */
    uint32_t block_size;
    unsigned n_queues;
    uint64_t next_id;
};

void vhost_export_unref(VhostExport *x);
/* Logs what is wrong with the client of @s, and disconnects it. Any thread. */
void vhost_session_fail(VhostSession *s, const char *format, ...) G_GNUC_PRINTF(2, 3);
/* Events, and lines in the log. Main thread. */
void vhost_session_opened(const VhostSession *s);
void vhost_session_closed(const VhostSession *s, const char *reason);
VhostSession *vhost_session_ref(VhostSession *s);
/* With the last one it is over, and the next client may come. Any thread. */
void vhost_session_unref(VhostSession *s);

/* Under the lock. */
static inline bool vhost_queue_idle_locked(const VhostQueue *q)
{
    return !q->running && !q->n_again && !__atomic_load_n(&q->in_flight, __ATOMIC_RELAXED);
}

/* Under the lock: if it is paused and idle, says so to the main thread. */
static inline void vhost_queue_settle(VhostQueue *q)
{
    if (q->paused && !q->ended && vhost_queue_idle_locked(q))
        g_idle_add(q->session->settled, vhost_session_ref(q->session));
}

/* ---- inflight.c: the memory of what is in flight, shared so that it outlives the daemon */

uint64_t vhost_inflight_stride(uint16_t queue_size); /* bytes of a queue */
/* Makes the queue begin there: what was in flight when a daemon ended is in again, in order. */
void vhost_inflight_begin(VhostQueue *q);
/* A request is taken from the queue. */
void vhost_inflight_enter(VhostQueue *q, uint16_t head);
/* Requests are used: before and after the index of the ring says so. Under the lock. */
void vhost_inflight_leaving(VhostQueue *q, uint16_t head);
void vhost_inflight_left(VhostQueue *q, VhostRequest *const *r, unsigned n);

/* ---- ring.c: the descriptors of a queue */

/* Takes the next request, filling its parts: NULL if there is none, or the queue is *broken. */
VhostRequest *vhost_ring_pop(VhostQueue *q, bool *broken);
/* The same for the chain at @head. */
VhostRequest *vhost_ring_take(VhostQueue *q, uint16_t head, bool *broken);
bool vhost_ring_any(const VhostQueue *q); /* whether there is one */
/* Requests have ended; notifies the client. Any thread. */
void vhost_ring_push(VhostQueue *q, VhostRequest *const *r, unsigned n);
/* Whether the client is to kick. */
void vhost_ring_kicks(VhostQueue *q, bool wanted);

/* ---- request.c: requests of the block device */

/* Starts @r; whether it has completed already, and then it is to be pushed. */
bool vhost_request_start(VhostRequest *r);

/* ---- queue.c: turns */

bool vhost_queue_set_kick(VhostQueue *q, int fd); /* taken; -1: none. false: it is no eventfd */
void vhost_queue_pause(VhostQueue *q);
bool vhost_queue_idle(VhostQueue *q); /* paused, and nothing in flight */
void vhost_queue_end(VhostQueue *q);  /* for good */
void vhost_queue_resume(VhostQueue *q);
void vhost_queue_init(VhostQueue *q, VhostSession *s, unsigned index);

/* ---- config.c */

/* The configuration space of the device; its size. */
size_t vhost_config_fill(const VhostSession *s, uint8_t *space);
uint64_t vhost_config_features(const VhostSession *s);

/* ---- message.c: of the main thread */

/* Whether the message that is there changes nothing. */
bool vhost_message_asks(const VhostSession *s);
/* The message is whole; the queues are paused, unless it changes nothing. */
void vhost_message_handle(VhostSession *s);
/* Whether it is sent, or nobody wants it. */
bool vhost_message_config_change(VhostSession *s);

/* ---- connection.c: of the main thread */

void vhost_session_begin(VhostExport *x, int fd);            /* taken */
void vhost_session_end(VhostSession *s, const char *reason); /* once; a VhostDisconnectReason */
/* The size of the disk may be another one. */
void vhost_session_tick(VhostSession *s);
