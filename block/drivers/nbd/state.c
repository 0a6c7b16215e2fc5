/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/nbd/state.c: what happens to the connections of a disk, and what that means for
 * it. */
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

void blk_nbd_is_up(BlkNbd *d, unsigned index)
{
    TM_GUARD(&d->lock);

    if (d->reported)
        blk_host_log(d->node, "connected to '%s' again", blk_nbd_server_text(d->server));
    g_clear_pointer(&d->reported, g_free);
    d->up++;
    blk_nbd_durable_up(d, index);
    d->give_up = 0;
    pthread_cond_broadcast(&d->changed);
}

/* The log has each reason once. d->lock. */
static void report(BlkNbd *d, const char *why)
{
    if (!d->known || !g_strcmp0(why, d->reported))
        return;
    blk_host_log(d->node, "%s", why);
    g_free(d->reported);
    d->reported = g_strdup(why);
}

void blk_nbd_is_down(BlkNbd *d, unsigned index, const char *why)
{
    g_autofree char *text =
        g_strdup_printf("lost the connection to '%s': %s", blk_nbd_server_text(d->server), why);
    TM_GUARD(&d->lock);

    if (d->closing)
        return;
    blk_nbd_durable_down(d, index);
    if (--d->up == 0)
        report(d, text);
}

void blk_nbd_attempt_failed(BlkNbd *d, const char *why)
{
    TM_GUARD(&d->lock);

    g_free(d->why);
    d->why = g_strdup(why);
    d->attempts++;
    if (!d->up && !d->closing)
        report(d, why);
    pthread_cond_broadcast(&d->changed);
}
