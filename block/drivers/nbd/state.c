/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/nbd/state.c: what happens to the connections of a disk, and what that means for it.
 *
 * Invariant: a change that the server has answered, but not flushed, when the last connection was
 * lost is noted as lost: perhaps the server is another one now, that knows nothing of it. So no
 * flush succeeds any more. While one connection lives, so does the server, and a flush on it goes
 * for all. */
#include "block/drivers/nbd/nbd.h"
#include "util/sync.h"

bool blk_nbd_accepts(BlkNbd *d, const BlkNbdFacts *facts, GError **error)
{
    TM_GUARD(&d->lock);

    if (d->known)
        return blk_nbd_facts_fit(&d->facts, facts, d->read_only, error);
    d->facts = *facts;
    return true;
}

void blk_nbd_is_up(BlkNbd *d)
{
    TM_GUARD(&d->lock);

    if (d->told)
        blk_host_log(d->node, "connected to '%s' again", blk_nbd_server_text(d->server));
    g_clear_pointer(&d->told, g_free);
    d->up++;
    d->give_up = 0;
    pthread_cond_broadcast(&d->changed);
}

/* The log has each reason once. d->lock. */
static void tell(BlkNbd *d, const char *why)
{
    if (!d->known || !g_strcmp0(why, d->told))
        return;
    blk_host_log(d->node, "%s", why);
    g_free(d->told);
    d->told = g_strdup(why);
}

void blk_nbd_is_down(BlkNbd *d, const char *why)
{
    g_autofree char *text =
        g_strdup_printf("lost the connection to '%s': %s", blk_nbd_server_text(d->server), why);
    TM_GUARD(&d->lock);

    if (d->closing)
        return;
    if (--d->up)
        return;
    if (__atomic_load_n(&d->acked, __ATOMIC_ACQUIRE) !=
        __atomic_load_n(&d->flushed, __ATOMIC_ACQUIRE))
        __atomic_store_n(&d->lost, true, __ATOMIC_RELEASE);
    tell(d, text);
}

void blk_nbd_attempt_failed(BlkNbd *d, const char *why)
{
    TM_GUARD(&d->lock);

    g_free(d->why);
    d->why = g_strdup(why);
    d->attempts++;
    if (!d->up && !d->closing)
        tell(d, why);
    pthread_cond_broadcast(&d->changed);
}
