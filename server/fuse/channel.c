/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/fuse/channel.c: takes requests from the kernel on the loop threads.
 *
 * The engine watches an epoll set with two descriptors, the kernel's and one by which any thread
 * ends the channel: only its owner may take a source out. */
#define FUSE_USE_VERSION 34
#include "server/fuse/fuse_internal.h"

#include "util/error.h"

#include <errno.h>
#include <poll.h>
#include <sys/epoll.h>

#define BATCH     64u /* requests before others have their turn */
#define LINGER_MS 4   /* how long a busy channel waits for more before it goes back to epoll */
#define TURNS     64u /* batches after which it goes there all the same */

typedef enum { MORE, NOTHING, END } Verdict;

static void end(FexpChannel *channel)
{
    FexpExport *x = channel->x;

    blk_engine_remove(x->engine, &channel->source);
    fexp_cut(x); /* nobody answers any more */
    fexp_unref(x);
}

/* One request. */
static Verdict take(FexpChannel *channel)
{
    FexpExport *x = channel->x;
    int n;

    if (fexp_is_cut(x))
        return END;
    __atomic_store_n(&channel->busy, true, __ATOMIC_RELEASE);
    n = fuse_session_receive_buf(x->fuse, &channel->buf);
    if (n > 0)
        fuse_session_process_buf(x->fuse, &channel->buf);
    __atomic_store_n(&channel->busy, false, __ATOMIC_RELEASE);
    if (n == -EINTR)
        return MORE;
    if (n <= 0) /* 0: it is unmounted */
        return n == -EAGAIN ? NOTHING : END;
    return fuse_session_exited(x->fuse) ? END : MORE;
}

/* A busy client's next request is a moment away. */
static bool linger(FexpChannel *channel)
{
    struct pollfd p = { .fd = channel->source.fd, .events = POLLIN };
    int n;

    if (!blk_engine_linger(channel->x->engine, &channel->source))
        return false;
    n = poll(&p, 1, LINGER_MS);
    blk_engine_linger_end(channel->x->engine);
    return n > 0;
}

static void ready(BlkSource *source, uint32_t events)
{
    FexpChannel *channel = (FexpChannel *)source;
    FexpExport *x = channel->x;
    BlkEngine *engine = x->engine;
    Verdict verdict = MORE;
    unsigned turns = 0;

    if (blk_export_background(x->blk))
        blk_engine_move_to_background(engine, source);
    fexp_set_channel(channel);
    do {
        for (unsigned n = 0; n < BATCH && verdict == MORE; n++) {
            if (!fexp_may_take(x)) { /* who makes room arms it */
                fexp_set_channel(NULL);
                blk_engine_kick(engine);
                return;
            }
            verdict = take(channel);
        }
        blk_engine_kick(engine);
        if (verdict == NOTHING)
            verdict = linger(channel) ? MORE : NOTHING;
    } while (verdict == MORE && ++turns < TURNS);
    fexp_set_channel(NULL);
    if (verdict == END || blk_engine_arm(engine, source, EPOLLIN) < 0)
        end(channel);
}

bool fexp_channel_start(FexpExport *x, GError **error)
{
    struct epoll_event event = { .events = EPOLLIN };
    FexpChannel *channel = &x->channel;
    int err = 0;

    channel->x = x;
    channel->source = (BlkSource){ .fd = x->set, .ready = ready };
    fexp_ref(x);
    if (epoll_ctl(x->set, EPOLL_CTL_ADD, fuse_session_fd(x->fuse), &event) < 0)
        err = errno;
    if (!err)
        err = -blk_engine_add(x->engine, &channel->source, EPOLLIN);
    if (!err)
        return true;
    x->refs--;
    return tm_error_set_errno(error, err, "FUSE requests can't be waited for");
}
