/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/nbd/durable.c: which changes a server has on its medium.
 *
 * A server that ends or loses power may lose what it has answered and not flushed; the one that
 * answers afterwards knows nothing of it, and would say that all is well. A connection that was up
 * when a change was sent, and still is, shows that the server is the same: only a flush on such a
 * one is believed. Without one the change may be lost, and no flush succeeds any more.
 *
 * Invariant: every change that is answered and not flushed was sent in the era d->oldest or a later
 * one. */
#include "block/drivers/nbd/nbd.h"
#include "util/sync.h"

#include <errno.h>

/* A connection is as old as what it can speak for. d->lock. */
static bool has_witness(const BlkNbd *d)
{
    for (unsigned i = 0; i < BLK_NBD_CONNECTIONS; i++) {
        uint64_t born = __atomic_load_n(&d->born[i], __ATOMIC_RELAXED);

        if (born && born <= d->oldest)
            return true;
    }
    return false;
}

void blk_nbd_durable_up(BlkNbd *d, unsigned index)
{
    uint64_t era = __atomic_add_fetch(&d->era, 1, __ATOMIC_ACQ_REL);

    __atomic_store_n(&d->born[index], era, __ATOMIC_RELEASE);
}

void blk_nbd_durable_down(BlkNbd *d, unsigned index)
{
    __atomic_store_n(&d->born[index], 0, __ATOMIC_RELEASE);
    if (d->acked != d->flushed && !has_witness(d))
        __atomic_store_n(&d->lost, true, __ATOMIC_RELEASE);
}

void blk_nbd_acked(BlkNbd *d, const BlkNbdCommand *c)
{
    TM_GUARD(&d->lock);

    if (c->flags & LIBNBD_CMD_FLAG_FUA)
        return;
    if (d->acked == d->flushed || c->era < d->oldest)
        d->oldest = c->era;
    d->acked++;
}

bool blk_nbd_lost(const BlkNbd *d)
{
    return __atomic_load_n(&d->lost, __ATOMIC_ACQUIRE);
}

bool blk_nbd_unflushed(BlkNbd *d)
{
    TM_GUARD(&d->lock);

    return d->acked != d->flushed;
}

uint64_t blk_nbd_flush_begin(BlkNbd *d, BlkNbdCommand *c)
{
    TM_GUARD(&d->lock);

    if (d->acked != d->flushed)
        c->born = d->oldest;
    return d->acked;
}

int blk_nbd_flush_end(BlkNbd *d, uint64_t acked, int ret)
{
    TM_GUARD(&d->lock);

    if (blk_nbd_lost(d))
        return -EIO;
    if (ret == -ENOTCONN) /* without a server, what it has flushed already is safe */
        return d->flushed >= acked ? 0 : -EIO;
    if (ret == 0 && d->facts.flush && d->flushed < acked)
        d->flushed = acked;
    return ret;
}
