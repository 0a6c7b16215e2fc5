/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/nbd/output_queue.c: the output of a session: a queue that one thread at a time sends.
 *
 * Whoever appends and finds nobody sending sends, everything that is queued with as few calls as
 * possible; what others append meanwhile goes with the next call. When the socket is full, a second
 * descriptor of it (the writer) waits for room: the source itself belongs to the reader (N1). */
#include "server/nbd/nbd_internal.h"

#include "util/sync.h"

#include "block/engine/worker_quota.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define SEND_TURN (16u << 20) /* bytes of one session before others have their turn */
#define IOV_BATCH 1024        /* the kernel's UIO_MAXIOV */
/* Bytes of a file that are sent or read at a time. */
#define SENDFILE_PIECE NBDS_CHUNK_LARGE

static void drop_first(NbdsSession *s, NbdsOutput **list)
{
    NbdsOutput *out = *list;

    *list = out->next;
    out->release(s, out);
}

/* Takes @sent bytes off the front of the list. */
static void consume(NbdsSession *s, NbdsOutput **list, size_t sent)
{
    while (*list) {
        NbdsOutput *out = *list;

        while (out->n && sent >= out->iov->iov_len) {
            sent -= out->iov->iov_len;
            out->iov++;
            out->n--;
        }
        if (out->n) {
            out->iov->iov_base = (char *)out->iov->iov_base + sent;
            out->iov->iov_len -= sent;
        }
        if (out->n || out->sendfile_length)
            return;
        drop_first(s, list);
    }
}

/* Sends what the first item has in a file. -1 and errno; ENOTSUP: it must be read. */
static ssize_t send_from_file(NbdsSession *s, NbdsOutput **list)
{
    NbdsOutput *out = *list;
    ssize_t n = blk_user_send(s->disk, s->source.fd, out->sendfile_offset,
                              MIN(out->sendfile_length, SENDFILE_PIECE));

    if (n < 0) {
        errno = (int)-n;
        return -1;
    }
    out->sendfile_offset += (uint64_t)n;
    out->sendfile_length -= (uint64_t)n;
    if (!out->sendfile_length)
        drop_first(s, list);
    return n;
}

static ssize_t send_some(NbdsSession *s, NbdsOutput *list)
{
    struct iovec iov[IOV_BATCH];
    struct msghdr msg = { .msg_iov = iov };
    bool more = false;

    if (s->encrypts)
        return nbds_tls_send(s, list);
    for (NbdsOutput *out = list; out && !more && msg.msg_iovlen < IOV_BATCH; out = out->next) {
        size_t n = MIN(out->n, IOV_BATCH - msg.msg_iovlen);

        memcpy(iov + msg.msg_iovlen, out->iov, n * sizeof(*iov));
        msg.msg_iovlen += n;
        more = out->sendfile_length;
    }
    return sendmsg(s->source.fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT | (more ? MSG_MORE : 0));
}

/* Sends the list as far as the socket takes it. 0: all of it is gone; EAGAIN: the socket is full,
 * or with *turn bytes it is others' turn (a client may take as fast as it is given); ENOTSUP: what
 * the first item has in a file must be read. */
static int send_list(NbdsSession *s, NbdsOutput **list, uint64_t *turn)
{
    while (*list) {
        bool dead = __atomic_load_n(&s->dead, __ATOMIC_ACQUIRE);
        bool from_file = !(*list)->n && (*list)->sendfile_length;
        ssize_t sent = dead ? -1 : from_file ? send_from_file(s, list) : send_some(s, *list);

        if (sent >= 0) {
            nbds_count(&s->sent, (uint64_t)sent);
            if (!from_file)
                consume(s, list, (size_t)sent);
            *turn += (uint64_t)sent;
            if (*list && *turn > SEND_TURN)
                return EAGAIN;
        } else if (!dead && (errno == EAGAIN || (from_file && errno == ENOTSUP))) {
            return errno;
        } else if (dead || errno != EINTR) {
            if (!dead)
                nbds_session_cut(s, NBDS_REASON_LOST); /* the reader sees it */
            while (*list)
                drop_first(s, list);
        }
    }
    return 0;
}

/* Has the writer wait for room; false if there is no descriptor or no memory for that. */
static bool arm_writer(NbdsSession *s)
{
    BlkEngine *engine = s->servers->engine;

    if (s->writer.fd >= 0)
        return !blk_engine_arm(engine, &s->writer, EPOLLOUT);
    s->writer.background = s->source.background;
    s->writer.fd = fcntl(s->source.fd, F_DUPFD_CLOEXEC, 0);
    if (s->writer.fd < 0)
        return false;
    if (nbds_descriptor_spare(s->writer.fd) && !blk_engine_add(engine, &s->writer, EPOLLOUT))
        return true;
    close(s->writer.fd);
    s->writer.fd = -1;
    return false;
}

/* The unsent rest goes back to the front. */
static void put_back(NbdsSession *s, NbdsOutput *list, bool blocked)
{
    NbdsOutput **end = &list;
    TM_GUARD(&s->lock);

    while (*end)
        end = &(*end)->next;
    *end = s->queue;
    if (!s->queue)
        s->tail = end;
    s->queue = list;
    __atomic_store_n(&s->blocked, blocked, __ATOMIC_RELAXED);
}

/* The writer waits for room, or, if it can't, the clock tries again. Takes over the reference of
 * who is sending. */
static void wait_for_room(NbdsSession *s, NbdsOutput *list)
{
    put_back(s, list, true);
    if (!arm_writer(s))
        __atomic_store_n(&s->retry, true, __ATOMIC_RELEASE);
}

/* Under the lock: lets the reader go on if the bounds allow it. */
static void resume(NbdsSession *s)
{
    if (!s->paused || (nbds_session_over(s) && !__atomic_load_n(&s->dead, __ATOMIC_ACQUIRE)))
        return;
    s->paused = false;
    /* There may be whole requests in its buffer: a writable socket wakes it for those. */
    blk_engine_arm(s->servers->engine, &s->source, EPOLLIN | EPOLLOUT);
}

static void send_all(NbdsSession *s);

/* Reads the next piece of what @r has in a file. 0 or -errno. */
static int fetch_piece(NbdsSession *s, NbdsRequest *r)
{
    uint64_t length = MIN(r->output.sendfile_length, SENDFILE_PIECE);
    NbdsChunk *chunk = nbds_chunk_get(s->servers, length);
    int ret = -ENOMEM;

    if (chunk) {
        ret = __atomic_load_n(&s->dead, __ATOMIC_RELAXED)
                  ? -ESHUTDOWN
                  : blk_node_pread(blk_user_node(s->disk), chunk->data, r->output.sendfile_offset,
                                   length);
    }
    if (ret < 0) {
        nbds_chunk_put(s->servers, chunk);
        return ret;
    }
    if (r->chunk) /* the piece before, which is sent */
        nbds_chunk_unref(s->servers, r->chunk);
    nbds_chunk_hold(chunk, s);
    nbds_chunk_unref(s->servers, chunk); /* the spare one */
    r->chunk = chunk;
    r->iov[0] = (struct iovec){ chunk->data, length };
    r->output.iov = r->iov;
    r->output.n = 1;
    r->output.sendfile_length -= length;
    r->output.sendfile_offset += length;
    return 0;
}

/* On a worker, which is who sends from here on: its request is the first in the queue. */
static void fetch_run(BlkWork *work)
{
    NbdsRequest *r = (NbdsRequest *)((char *)work - offsetof(NbdsRequest, blk.work));
    NbdsSession *s = r->session;
    int ret = fetch_piece(s, r);

    blk_user_worked(s->disk);
    if (ret < 0) { /* the reply has begun: it can't become an error */
        nbds_count_error(s, nbds_request_error(s, &r->h, -ret));
        nbds_count_disk(s, &r->h, ret, (BlkTook){ 0 });
        nbds_session_cut(s, NBDS_REASON_LOST);
    }
    send_all(s);
}

/* What was to be sent from the page cache is not there any more. Takes over the reference, as
 * above. */
static void fetch(NbdsSession *s, NbdsOutput *list)
{
    NbdsRequest *r = (NbdsRequest *)list;

    put_back(s, list, false);
    r->blk.work.run = fetch_run;
    blk_user_work(s->disk, &r->blk.work);
}

/* The caller has set sending and gives up a reference. */
static void send_all(NbdsSession *s)
{
    uint64_t turn = 0;

    for (;;) {
        NbdsOutput *list;
        int err;

        pthread_mutex_lock(&s->lock);
        list = g_steal_pointer(&s->queue);
        s->tail = &s->queue;
        if (!list) {
            s->sending = false;
            resume(s);
        }
        pthread_mutex_unlock(&s->lock);
        if (!list)
            break;
        err = send_list(s, &list, &turn);
        if (!err)
            continue;
        if (err == EAGAIN)
            wait_for_room(s, list);
        else
            fetch(s, list);
        return;
    }
    nbds_session_unref(s, 1);
}

void nbds_output_push(NbdsSession *s, NbdsOutput *out)
{
    bool mine;

    out->next = NULL;
    pthread_mutex_lock(&s->lock);
    *s->tail = out;
    s->tail = &out->next;
    mine = !s->sending;
    s->sending = true;
    pthread_mutex_unlock(&s->lock);
    if (mine) {
        __atomic_add_fetch(&s->refs, 1, __ATOMIC_RELAXED);
        send_all(s);
    }
}

void nbds_output_ready(BlkSource *writer, uint32_t events)
{
    NbdsSession *s = (NbdsSession *)((char *)writer - offsetof(NbdsSession, writer));

    pthread_mutex_lock(&s->lock);
    __atomic_store_n(&s->blocked, false, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&s->lock);
    send_all(s);
}
