/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/fuse/size.c: requests that change the size of the disk. The main thread does that, in the
 * order in which they came. */
#define FUSE_USE_VERSION 34
#include "server/fuse/fuse_internal.h"

#include "util/error.h"

#include <errno.h>
#include <inttypes.h>

/* Takes all that wait. */
static FexpRequest *take(FexpExport *x, guint *idle)
{
    FexpRequest *first;
    TM_GUARD(&x->lock);

    first = x->first;
    *idle = x->idle;
    x->first = NULL;
    x->last = &x->first;
    x->idle = 0;
    return first;
}

/* 0 or -errno. */
static int resize(FexpRequest *r)
{
    FexpExport *x = r->x;
    BlkNode *node = blk_export_node(x->blk);
    g_autoptr(GError) error = NULL;

    if (fexp_is_cut(x))
        return -ENOTCONN;
    if (r->at_least ? blk_node_size(node) >= r->size : blk_node_size(node) == r->size)
        return 0;
    if (blk_graph_resize(blk_node_graph(node), node, r->size, &error))
        return 0;
    tm_log_note(blk_graph_log(blk_node_graph(node)),
                &(TmLogFacts){ .area = TM_LOG_BLOCK,
                               .level = TM_LOG_WARNING,
                               .node = blk_node_name(node),
                               .export = blk_export_id(x->blk) },
                "its file can't be made %" PRIu64 " bytes long: %s", r->size, error->message);
    return tm_error_errno(error) ? -tm_error_errno(error) : -EPERM;
}

static void run(FexpExport *x, FexpRequest *first)
{
    while (first) {
        FexpRequest *r = first;

        first = r->next;
        r->then(r, resize(r));
    }
    blk_engine_kick(x->engine);
}

static gboolean run_idle(gpointer opaque)
{
    FexpExport *x = opaque;
    guint idle;

    run(x, take(x, &idle));
    fexp_unref(x);
    return G_SOURCE_REMOVE;
}

void fexp_resize(FexpRequest *r, uint64_t size, bool at_least,
                 void (*then)(FexpRequest *r, int result))
{
    FexpExport *x = r->x;
    bool cut;

    r->size = size;
    r->at_least = at_least;
    r->then = then;
    r->next = NULL;
    pthread_mutex_lock(&x->lock);
    cut = fexp_is_cut(x);
    if (!cut) {
        *x->last = r;
        x->last = &r->next;
    }
    if (!cut && !x->idle) {
        fexp_ref(x);
        x->idle = g_idle_add_full(G_PRIORITY_DEFAULT, run_idle, x, NULL);
    }
    pthread_mutex_unlock(&x->lock);
    if (cut)
        then(r, -ENOTCONN);
}

void fexp_resize_stop(FexpExport *x)
{
    guint idle;
    FexpRequest *first = take(x, &idle);

    run(x, first); /* it was cut */
    if (idle) {
        g_source_remove(idle);
        fexp_unref(x);
    }
}
