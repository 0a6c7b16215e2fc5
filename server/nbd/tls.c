/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/nbd/tls.c: TLS below a session: its transport from NBD_OPT_STARTTLS on.
 *
 * The library never sees the socket. The owner receives as much as there is into a buffer that the
 * library then takes records from; what the library has to send gathers in another, which goes with
 * one call. Both are chunks of the pool and are held only while there is something in them.
 *
 * Sending is in terms of the plaintext: nbds_tls_send() says what the socket has taken, which is
 * what of the list may be dropped. What has been encrypted and not taken yet is not said, and is
 * the beginning of the same list at the next call.
 *
 * The handshake is part of receiving: what comes before its end is its own.
 *
 * tls->lock makes the library's calls one at a time: receiving may have to send (an alert, new
 * keys). A leaf, and sending under it does not block. Source: the NBD specification, "TLS
 * support". */
#include "server/nbd/nbd_internal.h"

#include "object/tls_creds.h"
#include "util/sync.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#define RECORD      16384u /* bytes of plaintext in a record at most */
#define RECORD_ROOM (RECORD + 2048u)

struct NbdsTls {
    TmTlsSession session;
    NbdsSession *s;
    const char *denied; /* why the handshake has failed, static; or NULL */
    bool ready;         /* the handshake is over; the owner's, written under the lock */
    bool kernel;        /* the kernel encrypts, and the library sends nothing; as above */
    pthread_mutex_t lock;
    /* received, encrypted: the owner's */
    NbdsChunk *in;
    size_t in_begin, in_end;
    /* to be sent, encrypted */
    NbdsChunk *out;
    size_t out_begin, out_end;
    size_t plain; /* bytes of the list that are in there */
};

/* ---- what the library calls, under the lock */

static ssize_t pull(gnutls_transport_ptr_t opaque, void *data, size_t length)
{
    NbdsTls *tls = opaque;
    size_t n = MIN(length, tls->in_end - tls->in_begin);

    if (!n) {
        gnutls_transport_set_errno(tls->session.handle, EAGAIN);
        return -1;
    }
    memcpy(data, tls->in->data + tls->in_begin, n);
    tls->in_begin += n;
    return (ssize_t)n;
}

static ssize_t push(gnutls_transport_ptr_t opaque, const void *data, size_t length)
{
    NbdsTls *tls = opaque;

    if (tls->kernel) /* an alert in answer to one, which says nothing that the end doesn't */
        return (ssize_t)length;
    if (!tls->out)
        tls->out = nbds_chunk_get(tls->s->servers, NBDS_CHUNK);
    if (!tls->out || tls->out->cap - tls->out_end < length) {
        gnutls_transport_set_errno(tls->session.handle, tls->out ? EAGAIN : ENOMEM);
        return -1;
    }
    memcpy(tls->out->data + tls->out_end, data, length);
    tls->out_end += length;
    return (ssize_t)length;
}

/* A client that changes its keys may ask us to do the same, which the kernel can't. */
static int check_key_update(gnutls_session_t handle, unsigned type, unsigned when,
                            unsigned incoming, const gnutls_datum_t *message)
{
    const NbdsTls *tls = gnutls_transport_get_ptr(handle);
    bool asks = incoming && message->size && message->data[message->size - 1];

    (void)type;
    (void)when;
    return tls->kernel && asks ? GNUTLS_E_UNIMPLEMENTED_FEATURE : 0;
}

/* ---- sending */

/* Under the lock: 0: all that is encrypted is sent; or -errno. */
static int flush(NbdsTls *tls)
{
    while (tls->out_begin < tls->out_end) {
        ssize_t n = send(tls->s->source.fd, tls->out->data + tls->out_begin,
                         tls->out_end - tls->out_begin, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        tls->out_begin += (size_t)n;
    }
    nbds_chunk_put(tls->s->servers, g_steal_pointer(&tls->out));
    tls->out_begin = tls->out_end = 0;
    return 0;
}

/* Under the lock. */
static bool encrypt(NbdsTls *tls, const void *data, size_t length)
{
    while (length) { /* the client may want smaller records */
        ssize_t n = gnutls_record_send(tls->session.handle, data, length);

        if (n <= 0)
            return false;
        tls->plain += (size_t)n;
        data = (const char *)data + n;
        length -= (size_t)n;
    }
    return true;
}

/* Under the lock: fills the buffer with records of the list's bytes. Small pieces are gathered. */
static bool encrypt_list(NbdsTls *tls, const NbdsOutput *list)
{
    uint8_t gathered[RECORD];
    size_t n = 0;

    for (const NbdsOutput *out = list; out; out = out->next) {
        for (unsigned i = 0; i < out->n; i++) {
            const uint8_t *at = out->iov[i].iov_base;
            size_t left = out->iov[i].iov_len;

            while (left) {
                bool direct = !n && left >= RECORD;
                size_t part = MIN(left, RECORD - n);

                if (tls->out && tls->out->cap - tls->out_end < 2 * RECORD_ROOM)
                    return !n || encrypt(tls, gathered, n);
                if (!direct)
                    memcpy(gathered + n, at, part);
                if (!direct && (n += part) == RECORD) {
                    if (!encrypt(tls, gathered, n))
                        return false;
                    n = 0;
                }
                if (direct && !encrypt(tls, at, part))
                    return false;
                at += part;
                left -= part;
            }
        }
    }
    return !n || encrypt(tls, gathered, n);
}

ssize_t nbds_tls_send(NbdsSession *s, const NbdsOutput *list)
{
    NbdsTls *tls = s->tls;
    size_t taken;
    int ret;
    TM_GUARD(&tls->lock);

    if (!tls->plain && !encrypt_list(tls, list)) {
        errno = EIO;
        return -1;
    }
    ret = flush(tls);
    if (ret < 0) {
        errno = -ret;
        return -1;
    }
    taken = tls->plain;
    tls->plain = 0;
    return (ssize_t)taken;
}

/* ---- receiving */

/* A reference to one of the server's objects, or NULL. */
static TmObject *get(NbdsSession *s, TmObject *const *which)
{
    TM_GUARD(&s->servers->lock);

    return *which ? tm_object_ref(*which) : NULL;
}

static void set_identity(NbdsSession *s, char *identity)
{
    TM_GUARD(&s->servers->lock);

    g_free(s->identity);
    s->identity = identity;
}

/* Under the lock: a step. 0, GNUTLS_E_AGAIN or another error. What it has to say fits the socket,
 * in which nothing was left. */
static int shake_hands(NbdsTls *tls)
{
    g_autoptr(TmObject) authz = get(tls->s, &tls->s->server->tls_authz);
    char *identity = NULL;
    int ret = tm_tls_session_handshake(&tls->session, authz, &identity, &tls->denied);

    if (identity)
        set_identity(tls->s, identity);
    tls->ready = ret == 0;
    if (flush(tls) < 0)
        return GNUTLS_E_PUSH_ERROR;
    if (tls->ready && nbds_tls_kernel_begin(tls->session.handle, tls->s->source.fd)) {
        tls->kernel = true;
        tls->s->encrypts = false;
    }
    return ret;
}

/* Bytes of plaintext, or an error of the library. */
static ssize_t decrypt(NbdsTls *tls, void *data, size_t length)
{
    ssize_t n;
    int ret;
    TM_GUARD(&tls->lock);

    if (!tls->ready && (ret = shake_hands(tls)) < 0)
        return ret;
    n = gnutls_record_recv(tls->session.handle, data, length);
    if (tls->out && !tls->plain)
        flush(tls); /* or it goes with the next reply */
    return n == GNUTLS_E_INTERRUPTED ? GNUTLS_E_AGAIN : n;
}

/* As recv(). */
static ssize_t receive_more(NbdsTls *tls, int flags)
{
    ssize_t n;

    if (!tls->in)
        tls->in = nbds_chunk_get(tls->s->servers, NBDS_CHUNK);
    if (!tls->in) {
        errno = ENOMEM;
        return -1;
    }
    n = recv(tls->s->source.fd, tls->in->data, tls->in->cap, flags);
    tls->in_begin = 0;
    tls->in_end = n > 0 ? (size_t)n : 0;
    return n;
}

/* It has nothing in it whenever the library wants more. */
static void release_in(NbdsTls *tls)
{
    if (tls->in_begin == tls->in_end)
        nbds_chunk_put(tls->s->servers, g_steal_pointer(&tls->in));
}

ssize_t nbds_tls_recv(NbdsSession *s, void *data, size_t length, int flags)
{
    NbdsTls *tls = s->tls;
    size_t got = 0;
    bool dry = false;
    ssize_t n = 1;
    int err = 0;

    while (got < length && n > 0) {
        size_t unused = tls->in_end - tls->in_begin;

        n = decrypt(tls, (char *)data + got, length - got);
        if (n > 0) {
            got += (size_t)n;
        } else if (n == GNUTLS_E_AGAIN && tls->in_end - tls->in_begin < unused) {
            n = 1; /* that was a record of its own */
        } else if (n == GNUTLS_E_AGAIN && !dry && !unused) {
            n = receive_more(tls, got ? MSG_DONTWAIT : flags & ~MSG_WAITALL);
            err = errno;
            dry = n < (ssize_t)NBDS_CHUNK;
        } else {
            err = n == GNUTLS_E_AGAIN && !unused ? EAGAIN : EPROTO;
        }
    }
    release_in(tls);
    if (tls->denied)
        nbds_note_refused(s, NBDS_REFUSED_TLS, "TLS: %s", g_steal_pointer(&tls->denied));
    errno = err;
    return got ? (ssize_t)got : n < 0 ? -1 : n;
}

/* ---- life */

bool nbds_tls_begin(NbdsSession *s)
{
    g_autoptr(TmObject) creds = get(s, &s->server->tls_creds);
    NbdsTls *tls = g_new0(NbdsTls, 1);
    bool clear;

    if (!creds || !tm_tls_session_init(&tls->session, creds, NULL, NULL)) {
        g_free(tls);
        return false;
    }
    tls->s = s;
    pthread_mutex_init(&tls->lock, NULL);
    gnutls_transport_set_ptr(tls->session.handle, tls);
    gnutls_transport_set_push_function(tls->session.handle, push);
    gnutls_transport_set_pull_function(tls->session.handle, pull);
    gnutls_handshake_set_timeout(tls->session.handle, GNUTLS_INDEFINITE_TIMEOUT);
    gnutls_handshake_set_hook_function(tls->session.handle, GNUTLS_HANDSHAKE_KEY_UPDATE,
                                       GNUTLS_HOOK_PRE, check_key_update);
    pthread_mutex_lock(&s->lock);
    clear = !s->queue && !s->sending;
    s->tls = tls;
    s->encrypts = true;
    pthread_mutex_unlock(&s->lock);
    return clear;
}

void nbds_tls_end(NbdsSession *s)
{
    NbdsTls *tls = s->tls;

    if (!tls)
        return;
    if (tls->ready && !__atomic_load_n(&s->dead, __ATOMIC_ACQUIRE) && !tls->out) {
        if (tls->kernel)
            nbds_tls_kernel_bye(s->source.fd);
        else
            gnutls_bye(tls->session.handle, GNUTLS_SHUT_WR);
        flush(tls);
    }
    nbds_chunk_put(s->servers, tls->in);
    nbds_chunk_put(s->servers, tls->out);
    tm_tls_session_clear(&tls->session);
    pthread_mutex_destroy(&tls->lock);
    g_free(tls);
}
