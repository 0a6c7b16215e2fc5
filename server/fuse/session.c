/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/fuse/session.c: the connection to the kernel and what holds it; see fuse_internal.h. */
#define FUSE_USE_VERSION 34
#include "server/fuse/fuse_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

static _Thread_local FexpChannel *current;

FexpChannel *fexp_channel(void)
{
    return current;
}

void fexp_set_channel(FexpChannel *channel)
{
    current = channel;
}

void fexp_ref(FexpExport *x)
{
    tm_ref(&x->refs);
}

/* Open files are sessions that nobody can end any more. The export may go with its reference, and
 * @x with it. */
void fexp_unref(FexpExport *x)
{
    if (!tm_unref(&x->refs))
        return;
    fuse_session_destroy(x->fuse); /* closes the kernel's descriptor */
    free(x->channel.buf.mem);
    free(x->channel.data);
    g_free(x->channel.spare);
    for (int i = __atomic_load_n(&x->opens, __ATOMIC_ACQUIRE); i > 0; i--)
        blk_export_session_end(x->blk);
    blk_export_unref(x->blk);
}

bool fexp_is_cut(const FexpExport *x)
{
    return __atomic_load_n(&x->cut, __ATOMIC_ACQUIRE);
}

void fexp_cut(FexpExport *x)
{
    bool arm;

    if (__atomic_exchange_n(&x->cut, true, __ATOMIC_ACQ_REL))
        return;
    eventfd_write(x->stop, 1);
    pthread_mutex_lock(&x->lock);
    arm = x->paused;
    x->paused = false;
    pthread_mutex_unlock(&x->lock);
    if (arm)
        blk_engine_arm(x->engine, &x->channel.source, EPOLLIN);
}

uint64_t fexp_size(FexpExport *x)
{
    uint64_t size = blk_node_size(blk_user_enter(x->disk));

    blk_user_leave(x->disk);
    return size;
}

/* ---- requests */

FexpRequest *fexp_request_new(fuse_req_t req)
{
    FexpExport *x = fuse_req_userdata(req);
    FexpRequest *r = g_steal_pointer(&current->spare);

    if (!r)
        r = g_try_malloc(sizeof(*r));
    if (!r) {
        fuse_reply_err(req, ENOMEM);
        return NULL;
    }
    *r = (FexpRequest){ .x = x, .req = req, .blk = { .cancel = &x->cut } };
    fexp_ref(x);
    pthread_mutex_lock(&x->lock);
    x->running++;
    pthread_mutex_unlock(&x->lock);
    return r;
}

bool fexp_may_take(FexpExport *x)
{
    TM_GUARD(&x->lock);

    x->paused = x->running >= FEXP_RUNNING && !fexp_is_cut(x);
    return !x->paused;
}

void fexp_request_end(FexpRequest *r)
{
    FexpExport *x = r->x;
    bool arm;

    free(r->mem);
    if (current && current->x == x && !current->spare)
        current->spare = r;
    else
        g_free(r);
    pthread_mutex_lock(&x->lock);
    x->running--;
    arm = x->paused && x->running < FEXP_RUNNING / 2;
    if (arm)
        x->paused = false;
    pthread_mutex_unlock(&x->lock);
    if (arm)
        blk_engine_arm(x->engine, &x->channel.source, EPOLLIN);
    fexp_unref(x);
}

void fexp_answer(FexpRequest *r, int result)
{
    fuse_reply_err(r->req, -result);
    fexp_request_end(r);
}

void fexp_count(FexpRequest *r, int result)
{
    if (result != -ESHUTDOWN || !fexp_is_cut(r->x))
        blk_export_count(r->x->blk, &r->blk, result);
}
