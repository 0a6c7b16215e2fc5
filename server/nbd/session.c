/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/nbd/session.c: the life of a connection, and its input.
 *
 * See server_internal.h for who owns what. */
#include "server/nbd/nbd_internal.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#define LINGER_US 4000 /* how long a session waits for more before it goes back to epoll */
#define TURNS     64u  /* batches after which it goes there all the same, after the others */

static void session_ready(BlkSource *source, uint32_t events);
static void work_run(BlkWork *work);

static void session_free(NbdsSession *s)
{
    NbdsServers *servers = s->servers;
    NbdsServer *server = s->server;

    nbds_sessions_remove(servers, s);
    nbds_sessions_closed(s); /* now that no query shows it */
    nbds_tls_end(s);
    g_free(s->identity);
    blk_engine_remove(servers->engine, &s->source);
    if (s->writer.fd >= 0) {
        blk_engine_remove(servers->engine, &s->writer);
        close(s->writer.fd);
    }
    close(s->source.fd);
    nbds_status_free(s);
    nbds_chunk_put(servers, s->rx);
    g_free(s->request);
    nbds_meta_clear(s);
    if (s->began)
        blk_export_session_end(s->export_);
    blk_export_unref(s->export_);
    pthread_mutex_destroy(&s->lock);
    g_free(s->peer);
    g_free(s);
    nbds_server_leave(server, true);
}

void nbds_session_new(NbdsServer *server, int fd)
{
    NbdsServers *servers = server->servers;
    NbdsSession *s = g_new0(NbdsSession, 1);
    struct timeval wait = { .tv_usec = LINGER_US };

    s->source = (BlkSource){ .fd = fd, .ready = session_ready };
    s->writer = (BlkSource){ .fd = -1, .ready = nbds_output_ready };
    s->servers = servers;
    s->server = server;
    s->refs = 2;
    s->free = session_free;
    s->tail = &s->queue;
    s->align = 64; /* of data read: a cache line */
    s->peer = tm_address_peer(fd);
    s->identity = tm_address_peer_uid(fd);
    s->payload_max = nbds_limits(server)->request_size;
    s->born = s->moved_at = g_get_monotonic_time();
    pthread_mutex_init(&s->lock, NULL);
    /* The descriptor blocks; whatever must not says so (MSG_DONTWAIT). */
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait));
    nbds_sessions_add(servers, s);
    /* An empty socket is writable: ready() greets, as the owner. */
    if (blk_engine_add(servers->engine, &s->source, EPOLLIN | EPOLLOUT) < 0)
        nbds_session_unref(s, 2);
}

/* ---- input */

/* Makes room in the receive chunk for the rest of the next message, and more. */
static bool make_room(NbdsSession *s)
{
    size_t have = nbds_session_available(s), min = MAX(s->need, s->large ? NBDS_CHUNK_LARGE : 1);
    NbdsChunk *old = s->rx;

    if (old && have == 0 && !nbds_chunk_shared(old))
        s->begin = s->end = 0;
    if (old && old->cap - s->begin >= MAX(s->need, 4096) && old->cap - s->end >= 4096)
        return true;
    if (old && old->cap >= min && !nbds_chunk_shared(old)) {
        memmove(old->data, old->data + s->begin, have);
    } else {
        s->rx = nbds_chunk_get(s->servers, min);
        if (s->rx && have)
            memcpy(s->rx->data, old->data + s->begin, have);
        nbds_chunk_put(s->servers, old);
        if (!s->rx)
            return false;
        if (s->stashed) {
            memcpy(s->rx->data, s->stash, s->stashed);
            have = s->stashed;
            s->stashed = 0;
        }
    }
    s->begin = 0;
    s->end = have;
    return true;
}

/* 1: something came; 0: nothing for now; -1: the end of the stream or an error. @wait: for up to
 * LINGER_US, for all of a large payload. */
static int receive(NbdsSession *s, bool wait, bool *drained)
{
    int flags = wait ? 0 : MSG_DONTWAIT;
    size_t room, have;
    ssize_t n;

    if (!make_room(s))
        return -1;
    have = nbds_session_available(s);
    room = s->rx->cap - s->end;
    /* What follows a large payload is better received into a fresh chunk than moved there. */
    if (s->need > have + NBDS_CHUNK / 8) {
        room = MIN(room, s->need - have);
        flags = wait ? MSG_WAITALL : MSG_DONTWAIT;
    }
    if (wait && s->nonblocking) {
        struct pollfd p = { .fd = s->source.fd, .events = POLLIN };

        if (poll(&p, 1, LINGER_US / 1000) == 0)
            return 0;
    }
    n = s->tls ? nbds_tls_recv(s, s->rx->data + s->end, room, flags)
               : recv(s->source.fd, s->rx->data + s->end, room, flags);
    *drained = n < (ssize_t)room;
    if (n > 0) {
        nbds_count(&s->received, (uint64_t)n);
        s->end += (size_t)n;
        return 1;
    }
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
        return 0;
    if (n < 0)
        nbds_session_note(s, NBDS_REASON_LOST);
    return -1;
}

static NbdsVerdict use_input(NbdsSession *s)
{
    NbdsVerdict verdict = NBDS_MORE;

    s->need = 1;
    if (s->skip && s->rx) {
        size_t n = MIN(s->skip, nbds_session_available(s));

        s->begin += n;
        s->skip -= n;
    }
    if (s->skip || !s->rx)
        return NBDS_MORE;
    if (s->phase != NBDS_TRANSMISSION)
        verdict = nbds_handshake_input(s);
    if (verdict == NBDS_MORE && s->phase == NBDS_TRANSMISSION)
        verdict = nbds_transmission_input(s);
    return verdict;
}

/* Takes what has arrived until it is used up. @drained: all of that is in the buffer already. */
static NbdsVerdict run(NbdsSession *s, bool drained)
{
    NbdsVerdict verdict = use_input(s);

    while (verdict == NBDS_MORE && !drained) {
        int got = receive(s, false, &drained);

        if (got < 0)
            return NBDS_END;
        if (got)
            verdict = use_input(s);
        /* More of a large payload is likely there by now. (For small ones this measured no
         * gain.) */
        if (got && verdict == NBDS_MORE && s->need > NBDS_CHUNK / 8)
            drained = false;
    }
    return verdict;
}

/* An idle session keeps no buffer. */
static void park(NbdsSession *s)
{
    size_t have = s->rx ? nbds_session_available(s) : 0;

    if (!s->rx)
        return;
    if (have > NBDS_STASH) { /* and the client may take its time */
        nbds_chunk_hold(s->rx, s);
        return;
    }
    memcpy(s->stash, s->rx->data + s->begin, have);
    s->stashed = (unsigned)have;
    nbds_chunk_put(s->servers, g_steal_pointer(&s->rx));
    s->begin = s->end = 0;
}

/* Gives the source back; from then on another thread may run, and @s may be gone. @unused: there
 * may be whole messages in the buffer, for which a writable socket wakes it. */
static void leave(NbdsSession *s, bool unused)
{
    BlkEngine *engine = s->servers->engine;
    bool over;

    __atomic_store_n(&s->active, false, __ATOMIC_RELAXED);
    pthread_mutex_lock(&s->lock);
    over = nbds_session_over(s);
    s->paused = over; /* who sends next, or sends now, will resume */
    pthread_mutex_unlock(&s->lock);
    if (!over &&
        blk_engine_arm(engine, &s->source, EPOLLIN | (unused ? (uint32_t)EPOLLOUT : 0)) < 0)
        nbds_session_unref(s, 2);
}

/* Answers what has arrived, with one call if the socket takes it. */
static NbdsVerdict take_turn(NbdsSession *s, bool drained)
{
    NbdsServers *servers = s->servers;
    NbdsVerdict verdict = NBDS_CUT;

    s->batch = nbds_batch_get(servers);
    if (s->batch) {
        if (s->phase == NBDS_FLAGS && !s->options)
            nbds_handshake_greet(s);
        verdict = run(s, drained);
    }
    blk_engine_kick(servers->engine);
    if (s->batch) {
        if (s->batch->output.n)
            nbds_output_push(s, &s->batch->output);
        else
            nbds_batch_put(servers, s->batch);
        s->batch = NULL;
    }
    return verdict;
}

/* A busy client's next requests are a moment away. To wait for them here, where the kernel hands
 * them over at once, costs one call instead of the three of arming, being woken and receiving, and
 * keeps the session on its thread. Whether there is another turn to take (the end of the stream is
 * one). */
static bool linger(NbdsSession *s, bool *drained)
{
    BlkEngine *engine = s->servers->engine;
    int got;

    if (s->phase != NBDS_TRANSMISSION || nbds_session_over(s) ||
        __atomic_load_n(&s->dead, __ATOMIC_ACQUIRE) || !blk_engine_linger(engine, &s->source))
        return false;
    got = receive(s, true, drained);
    blk_engine_linger_end(engine);
    if (got < 0)
        *drained = false; /* the turn meets the end itself */
    return got != 0;
}

/* The owner lets go of the session, or hands it to a worker. */
static void end_turns(NbdsSession *s, NbdsVerdict verdict)
{
    if (verdict == NBDS_WORK) {
        s->work.run = work_run;
        blk_user_work(s->disk, &s->work);
        return;
    }
    if (verdict == NBDS_MORE || verdict == NBDS_PAUSE) {
        if (verdict == NBDS_MORE)
            park(s);
        leave(s, verdict == NBDS_PAUSE);
        return;
    }
    if (verdict == NBDS_CUT)
        nbds_session_cut(s, NBDS_REASON_ERROR);
    __atomic_store_n(&s->active, false, __ATOMIC_RELAXED);
    __atomic_store_n(&s->ended, true, __ATOMIC_RELAXED);
    nbds_session_unref(s, 2);
}

/* As the owner still, but for one turn, and without a loop. */
static void work_run(BlkWork *work)
{
    NbdsSession *s = (NbdsSession *)((char *)work - offsetof(NbdsSession, work));
    NbdsVerdict verdict;

    s->may_wait = true;
    verdict = take_turn(s, false);
    s->may_wait = false;
    blk_user_worked(s->disk);
    end_turns(s, verdict);
}

static void session_ready(BlkSource *source, uint32_t events)
{
    NbdsSession *s = (NbdsSession *)source;
    NbdsVerdict verdict;
    unsigned turns = 0;
    bool drained = false;

    __atomic_store_n(&s->active, true, __ATOMIC_RELAXED);
    do
        verdict = take_turn(s, drained);
    while (verdict == NBDS_MORE && ++turns < TURNS && linger(s, &drained));
    end_turns(s, verdict);
}
