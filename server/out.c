/* server/out.c: the output of a session: a queue that one thread at a time sends.
 *
 * Whoever appends and finds nobody sending sends, everything that is queued with as few calls as
 * possible; what others append meanwhile goes with the next call. When the socket is full, a second
 * descriptor of it (the writer) waits for room: the source itself belongs to the reader (N1). */
#include "server/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define IOV_BATCH 1024 /* the kernel's UIO_MAXIOV */

static void drop_first(NbdsSession *s, NbdsOut **list)
{
    NbdsOut *out = *list;

    *list = out->next;
    out->release(s, out);
}

/* Takes @sent bytes off the front of the list. */
static void consume(NbdsSession *s, NbdsOut **list, size_t sent)
{
    while (*list) {
        NbdsOut *out = *list;

        while (out->n && sent >= out->iov->iov_len) {
            sent -= out->iov->iov_len;
            out->iov++;
            out->n--;
        }
        if (out->n) {
            out->iov->iov_base = (char *)out->iov->iov_base + sent;
            out->iov->iov_len -= sent;
            return;
        }
        drop_first(s, list);
    }
}

static ssize_t send_some(NbdsSession *s, NbdsOut *list)
{
    struct iovec iov[IOV_BATCH];
    struct msghdr msg = { .msg_iov = iov };

    if (s->tls)
        return nbds_tls_send(s, list);
    for (NbdsOut *out = list; out && msg.msg_iovlen < IOV_BATCH; out = out->next) {
        size_t n = MIN(out->n, IOV_BATCH - msg.msg_iovlen);

        memcpy(iov + msg.msg_iovlen, out->iov, n * sizeof(*iov));
        msg.msg_iovlen += n;
    }
    return sendmsg(s->source.fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* Sends the list as far as the socket takes it; whether all of it is gone. */
static bool send_list(NbdsSession *s, NbdsOut **list)
{
    while (*list) {
        bool dead = __atomic_load_n(&s->dead, __ATOMIC_ACQUIRE);
        ssize_t sent = dead ? -1 : send_some(s, *list);

        if (sent >= 0) {
            nbds_count(&s->sent, (uint64_t)sent);
            consume(s, list, (size_t)sent);
        } else if (!dead && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            return false;
        } else if (dead || errno != EINTR) {
            if (!dead)
                nbds_session_cut(s, NBDS_REASON_LOST); /* the reader sees it */
            while (*list)
                drop_first(s, list);
        }
    }
    return true;
}

/* Has the writer wait for room; false if there is no descriptor or no memory for that. */
static bool arm_writer(NbdsSession *s)
{
    BlkEngine *engine = s->server->engine;

    if (s->writer.fd >= 0)
        return !blk_engine_arm(engine, &s->writer, EPOLLOUT);
    s->writer.fd = fcntl(s->source.fd, F_DUPFD_CLOEXEC, 0);
    if (s->writer.fd < 0)
        return false;
    if (!blk_engine_add(engine, &s->writer, EPOLLOUT))
        return true;
    close(s->writer.fd);
    s->writer.fd = -1;
    return false;
}

/* The unsent rest goes back to the front and the writer waits for room, or, if it can't, the clock
 * tries again. Takes over the reference of who is sending. */
static void wait_for_room(NbdsSession *s, NbdsOut *list)
{
    NbdsOut **end = &list;

    pthread_mutex_lock(&s->lock);
    while (*end)
        end = &(*end)->next;
    *end = s->queue;
    if (!s->queue)
        s->tail = end;
    s->queue = list;
    __atomic_store_n(&s->blocked, true, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&s->lock);
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
    blk_engine_arm(s->server->engine, &s->source, EPOLLIN | EPOLLOUT);
}

/* The caller has set sending and gives up a reference. */
static void send_all(NbdsSession *s)
{
    for (;;) {
        NbdsOut *list;

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
        if (send_list(s, &list))
            continue;
        wait_for_room(s, list);
        return;
    }
    nbds_session_unref(s, 1);
}

void nbds_out_push(NbdsSession *s, NbdsOut *out)
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

void nbds_out_ready(BlkSource *writer, uint32_t events)
{
    NbdsSession *s = (NbdsSession *)((char *)writer - offsetof(NbdsSession, writer));

    pthread_mutex_lock(&s->lock);
    __atomic_store_n(&s->blocked, false, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&s->lock);
    send_all(s);
}
