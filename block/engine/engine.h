/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/engine/engine.h: the threads that do I/O.
 *
 * Threads are of two classes. Those of the background have a lower priority: they run what others
 * are not to feel, such as the clients of backups, as fast as processors are free.
 *
 * The loop threads of a class share one epoll set. A source is armed one-shot: whichever thread
 * wakes owns the source until it arms it again, so a source's handler never runs twice at once. A
 * handler may do page-cache I/O but must not wait for another request, nor, except by
 * blk_engine_linger(), for a client. The workers of a class are a bounded pool for blocking,
 * thread-safe code: the blocking lane. What would wait for the medium goes to io_uring where the
 * kernel allows it, else to the workers. */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

typedef struct BlkEngine BlkEngine;

typedef enum { BLK_IO_AUTO, BLK_IO_URING, BLK_IO_THREADS, BLK_IO_ENGINES } BlkIoEngine;

typedef struct BlkEngineOptions {
    BlkIoEngine io;   /* AUTO: io_uring if the kernel allows it, else threads */
    unsigned loops;   /* loop threads, but for the background's; 0: chosen from the processors */
    unsigned workers; /* the most worker threads of a class; 0: 64 */
} BlkEngineOptions;

/* Starts the loop threads. Errors: io_uring demanded and not available, no threads. Main thread. */
BlkEngine *blk_engine_new(const BlkEngineOptions *options, GError **error);
/* Stops and joins the threads. No source may be armed and no work queued. Main thread. */
void blk_engine_free(BlkEngine *engine);
/* "io_uring" or "threads" */
const char *blk_engine_io_name(const BlkEngine *engine);

/* ---- sources: embed one in what owns the descriptor */
typedef struct BlkSource BlkSource;
struct BlkSource {
    int fd;
    void (*ready)(BlkSource *source, uint32_t events); /* on a loop thread; EPOLL* bits */
    /* the engine's */
    bool background, moves;
    int sync_point; /* what one owner did happens before the next one's ready() */
};

/* Adds the source to the epoll set, armed for @events (EPOLLIN, EPOLLOUT). 0 or -errno. Any
 * thread. */
int blk_engine_add(BlkEngine *engine, BlkSource *source, uint32_t events);
/* Arms it again: from then on another thread may run ready(). 0 or -errno. */
int blk_engine_arm(BlkEngine *engine, BlkSource *source, uint32_t events);
/* Takes it out. Only by its present owner (in ready(), or before add). Close the descriptor
 * after. */
void blk_engine_remove(BlkEngine *engine, BlkSource *source);

/* From its next arming on the background's loops own it. Only by its present owner. */
void blk_engine_move_to_background(BlkEngine *engine, BlkSource *source);

/* For a ready() that would rather wait a moment for its own descriptor than arm it, which saves the
 * way through epoll: whether enough other loops are left to take events meanwhile; the
 * background has none to spare. If so, call blk_engine_linger_end() after the wait. Loop threads
 * only. */
bool blk_engine_linger(BlkEngine *engine, const BlkSource *source);
void blk_engine_linger_end(BlkEngine *engine);
/* The same for a wait that keeps a processor busy: half of them are left to others. */
bool blk_engine_spin(BlkEngine *engine, const BlkSource *source);
void blk_engine_spin_end(BlkEngine *engine);

/* ---- the blocking lane */
typedef struct BlkWork BlkWork;
struct BlkWork {
    void (*run)(BlkWork *work); /* on a worker thread; may block */
    bool background;            /* on one of that class */
    BlkWork *next;              /* the engine's */
};
/* Queues @work (borrowed until run() begins). Any thread. */
void blk_engine_work(BlkEngine *engine, BlkWork *work);

/* The workers of a class, and what they have to do. Any thread. */
typedef struct BlkPoolCounts {
    unsigned threads, max;
    unsigned busy;   /* threads that run work */
    unsigned queued; /* work that waits for a thread */
} BlkPoolCounts;
void blk_engine_count_pool(BlkEngine *engine, bool background, BlkPoolCounts *counts);

/* ---- the medium: descriptor I/O that completes later */
typedef enum { BLK_AIO_READ, BLK_AIO_WRITE } BlkAioOp;
typedef struct BlkAio BlkAio;
struct BlkAio {
    BlkAioOp op;
    int fd;
    void *buf; /* NULL: iov; io_uring alone takes that */
    const struct iovec *iov;
    unsigned n_iov;
    uint64_t offset, length;
    void (*done)(BlkAio *aio, int64_t result); /* bytes or -errno; on any engine thread */
};
/* Starts it through io_uring; false if there is none or it is full, and then nothing was started
 * and the caller uses the workers. The submission may be held back until blk_engine_kick(). Any
 * thread. */
bool blk_engine_aio(BlkEngine *engine, BlkAio *aio);
/* Submits what this engine holds back: call it at the end of a batch. Cheap if there is nothing. */
void blk_engine_kick(BlkEngine *engine);
