/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/io/request.h: a request on its way through the block layer: the two lanes.
 *
 * blk_submit() tries the fast lane: it maps the range down to a descriptor and does the page-cache
 * I/O on the caller's thread. What would wait goes to io_uring or to the workers and completes
 * later.
 *
 * A request that spans a large part of a disk is done in pieces (block/io/long_requests.h).
 *
 * Every request counts on its node as in flight from submission to completion, by guest range:
 * reads and writes shared, discards and zeroing exclusive where they overlap. */
#pragma once
#include "block/engine/engine.h"
#include "block/io/throttle.h"
#include "block/node.h"
#include "block/users.h"
#include "util/trace.h"
#include <errno.h>

typedef enum {
    BLK_OP_READ,
    BLK_OP_WRITE,
    BLK_OP_FLUSH, /* offset and length are ignored */
    BLK_OP_DISCARD,
    BLK_OP_WRITE_ZEROES,
    BLK_OP_CACHE,
    BLK_OP_SEND, /* blk_send()'s own */
} BlkOp;

/* A request that passes more nodes than this takes the blocking lane. */
#define BLK_HOPS 4

typedef struct BlkRequest BlkRequest;
struct BlkRequest {
    BlkOp op;
    uint32_t flags; /* TIDEMARK_FUA, TIDEMARK_MAY_UNMAP, TIDEMARK_FAST_ZERO */
    uint64_t offset, length;
    void *buf; /* READ: filled; WRITE: read. Borrowed until completion; not written on failure's
                  behalf. NULL: the parts of iov, which are as long together */
    const struct iovec *iov; /* borrowed as buf is; others may write there meanwhile */
    unsigned n_iov;          /* at most IOV_MAX */
    /* Called once, on any engine thread, if and only if blk_submit() returned -EINPROGRESS; it may
     * run before blk_submit() returns. 0 or -errno. */
    void (*done)(BlkRequest *request, int result);
    /* Atomic, or NULL: once it is true, a request that waits for a worker, or is done in pieces,
     * ends with -ESHUTDOWN. */
    const bool *cancel;

    /* Once it has completed: what it took. Of one that completed at once, nothing or what it and
     * some others took (block/counters.h). */
    BlkTook took;

    /* the block layer's own */
    BlkUser *user; /* or NULL */
    struct {
        BlkNode *node;
        uint64_t offset; /* in that node */
        uint64_t epoch;  /* of its bitmaps */
    } hop[BLK_HOPS];     /* from the node submitted to down to the one that has the descriptor */
    unsigned n_hops;
    BlkNode *node;
    BlkThrottle *passed[BLK_HOPS + 1]; /* throttles, borrowed; ends with NULL */
    BlkWaiter waiter;                  /* at one */
    int socket;                        /* SEND: -1: only whether it would do */
    size_t sent;                       /* SEND */
    uint64_t began;                    /* 0: it is not timed */
    bool sampled;       /* if it completes at once, it stands for others (block/counters.h) */
    bool at_once;       /* or not at all */
    bool zeroes;        /* WRITE: the bytes are, as the fast lane has seen */
    struct iovec whole; /* buf as the only part */
    struct {
        uint64_t done, size; /* bytes so far; of the next piece */
        BlkRequest *next;
    } pieces;
    BlkWork work;
    union { /* how it waits */
        BlkAio aio;
        struct tidemark_transfer transfer;
    };
};

/* Starts @request on @node (the caller keeps a reference to @node until completion). Returns 0 or
 * -errno if it has completed, in which case done() is not called, else -EINPROGRESS.
 * Errors: as the blocking calls of block/node.h. Any thread. Call blk_engine_kick() after a
 * batch. */
int blk_submit(BlkNode *node, BlkRequest *request);

/* A transfer that a driver's start() began has ended (host->complete()). Any thread. */
void blk_transfer_done(struct tidemark_transfer *transfer, int result);

/* Reads or writes at once, from or to the page cache, or not at all: 0 or -EAGAIN, and then some of
 * it may have been done. Any thread. */
int blk_try(BlkNode *node, BlkOp op, void *buf, uint64_t offset, uint64_t length);

/* Sends of a range as much as @socket takes, from the page cache to the socket. Never waits for the
 * medium; for the socket only if that blocks. Returns bytes, more than none, or
 * -EAGAIN   the socket is full; -EINTR; -EPIPE, -ECONNRESET: it is lost;
 * -ENOTSUP  not that way: read it and send it.
 * Any thread. */
ssize_t blk_send(BlkNode *node, int socket, uint64_t offset, uint64_t length);
/* Whether that can be expected to work now. Any thread. */
bool blk_can_send(BlkNode *node, uint64_t offset, uint64_t length);

/* ---- the same for a user that follows its node (block/users.h), on the node that it has when the
 * request begins, which may be later. It is not released before the request completes. */
int blk_user_submit(BlkUser *user, BlkRequest *request);
ssize_t blk_user_send(BlkUser *user, int socket, uint64_t offset, uint64_t length);
bool blk_user_can_send(BlkUser *user, uint64_t offset, uint64_t length);
/* While @work runs, and until it calls worked, the user keeps its node (blk_user_node()). */
void blk_user_work(BlkUser *user, BlkWork *work);
void blk_user_worked(BlkUser *user);

/* Ends a request that has begun. For block/io. */
static inline void blk_request_done(BlkRequest *request, int result)
{
    request->took = (BlkTook){ tm_now_ns() - request->began, 1 };
    TM_TRACE(io_end, request, -result);
    if (request->user) /* with done() the user may go */
        blk_user_done(request->user);
    request->done(request, result);
}

/* Other work that may wait for the disk: queues it, within the node's quota of workers. Its run()
 * calls blk_node_worked() once when it is done with @node. Any thread. */
void blk_node_work(BlkNode *node, BlkWork *work);
void blk_node_worked(BlkNode *node);
