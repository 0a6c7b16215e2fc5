/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/nbd/meta.c: which metadata contexts there are and which a client selects.
 *
 * The contexts of an export are base:allocation, qemu:allocation-depth if it offers it, for each
 * bitmap of its selection qemu:dirty-bitmap:NAME and x-tidemark:backup:NAME, and those that the
 * management attached to it, as x-tidemark:user:NAME. A session keeps what it negotiated, whatever
 * the export offers later. Values of 64 bits need extended headers: without them such a context is
 * neither listed nor selected.
 *
 * Invariant: session->meta is what the last SET_META_CONTEXT selected, empty if that failed.
 *
 * Source: the NBD specification, "Metadata querying" and the two options; QEMU docs/interop/nbd.txt
 * for the qemu: namespace, docs/nbd.md for x-tidemark:. */
#include "server/nbd/nbd_internal.h"

#include "util/endian.h"

#include <string.h>

/* Of a context's name: the namespace, which is a wildcard of LIST, and what stands before the name
 * of the bitmap or map, which is another, or all of it. */
static const struct {
    const char *namespace, *prefix;
} kinds[] = {
    { "base:", "base:allocation" },        { "qemu:", "qemu:allocation-depth" },
    { "qemu:", "qemu:dirty-bitmap:" },     { "x-tidemark:", "x-tidemark:backup:" },
    { "x-tidemark:", "x-tidemark:user:" },
};
G_STATIC_ASSERT(G_N_ELEMENTS(kinds) == NBDS_CONTEXT_KINDS);

typedef struct Query {
    NbdsSession *session;
    uint32_t option;
    BlkExport *export_;
    BlkSelection *selection;
    uint32_t n;         /* queries */
    GHashTable *wanted; /* them */
    uint32_t seen;      /* contexts */
    GArray *found;      /* those of them that are wanted, in the order of their ids */
} Query;

static void clear_context(void *context)
{
    blk_context_unref(((NbdsContext *)context)->user);
}

void nbds_meta_clear(NbdsSession *s)
{
    NbdsMeta meta = s->meta;

    pthread_mutex_lock(&s->servers->lock);
    memset(&s->meta, 0, sizeof(s->meta));
    pthread_mutex_unlock(&s->servers->lock);
    for (unsigned i = 0; i < meta.count; i++)
        clear_context(&meta.contexts[i]);
    blk_selection_unref(meta.selection); /* first: when the export is gone, its bitmaps are free */
    blk_export_unref(meta.export_);
    g_free(meta.contexts);
}

char *nbds_context_name(const NbdsContext *c)
{
    const char *name = c->user     ? blk_context_name(c->user)
                       : c->bitmap ? bmp_bitmap_name(c->bitmap)
                                   : NULL;

    return g_strconcat(kinds[c->kind].prefix, name, NULL);
}

/* From here on whoever disconnects the export sees that this session holds it. One that has begun
 * to shut down before is let go by the session itself. */
static void hold(NbdsSession *s, NbdsMeta *meta)
{
    pthread_mutex_lock(&s->servers->lock);
    s->meta = *meta;
    pthread_mutex_unlock(&s->servers->lock);
    if (blk_export_shutting_down(meta->export_))
        nbds_meta_clear(s);
}

/* ---- parsing */

/* Takes the 32-bit length and the string at the front of *data; NULL if there is none. */
static char *take_string(const uint8_t **data, uint32_t *length)
{
    char *text;
    uint32_t n;

    if (*length < 4)
        return NULL;
    n = tm_get_be32(*data);
    if (n > *length - 4)
        return NULL;
    text = nbds_option_string(*data + 4, n);
    *data += 4 + n;
    *length -= 4 + n;
    return text;
}

/* All queries into @q; false if they don't fill the option exactly. */
static bool take_queries(Query *q, const uint8_t *data, uint32_t length)
{
    for (uint32_t i = 0; i < q->n; i++) {
        char *text = take_string(&data, &length);

        if (!text)
            return false;
        g_hash_table_add(q->wanted, text);
    }
    return length == 0;
}

/* ---- answering */

static bool wants(const Query *q, const NbdsContext *c, const char *name)
{
    if (c->user && blk_context_wide(c->user) && !q->session->extended)
        return false;
    if (g_hash_table_contains(q->wanted, name))
        return true;
    return q->option == NBD_OPT_LIST_META_CONTEXT &&
           (!q->n || g_hash_table_contains(q->wanted, kinds[c->kind].namespace) ||
            g_hash_table_contains(q->wanted, kinds[c->kind].prefix));
}

/* The next context there is: sent and found, if it is asked for. */
static void meet(Query *q, NbdsContext c)
{
    g_autofree char *name = nbds_context_name(&c);
    g_autofree uint8_t *data = NULL;
    size_t length = strlen(name);

    c.id = q->seen++;
    if (!wants(q, &c, name))
        return;
    data = g_malloc(4 + length);
    /* "The metadata context ID in these replies is reserved and SHOULD be set to zero" of LIST */
    tm_put_be32(data, q->option == NBD_OPT_SET_META_CONTEXT ? c.id : 0);
    memcpy(data + 4, name, length);
    nbds_option_reply(q->session, q->option, NBD_REP_META_CONTEXT, data, 4 + length);
    if (c.user)
        blk_context_ref(c.user);
    g_array_append_val(q->found, c);
}

static void meet_all(Query *q)
{
    g_autoptr(GPtrArray) users = blk_contexts_list(blk_export_contexts(q->export_));
    const BlkSelection *selection = q->selection;

    meet(q, (NbdsContext){ .kind = NBDS_CONTEXT_BASE });
    if (blk_export_allocation_depth(q->export_))
        meet(q, (NbdsContext){ .kind = NBDS_CONTEXT_DEPTH });
    for (size_t i = 0; i < selection->count; i++)
        meet(q, (NbdsContext){ .kind = NBDS_CONTEXT_BITMAP, .bitmap = selection->bitmaps[i] });
    for (size_t i = 0; i < selection->count; i++)
        meet(q, (NbdsContext){ .kind = NBDS_CONTEXT_BACKUP, .bitmap = selection->bitmaps[i] });
    for (guint i = 0; i < users->len; i++)
        meet(q, (NbdsContext){ .kind = NBDS_CONTEXT_USER, .user = users->pdata[i] });
    nbds_option_reply(q->session, q->option, NBD_REP_ACK, NULL, 0);
}

static void run(Query *q)
{
    q->found = g_array_new(FALSE, FALSE, sizeof(NbdsContext));
    q->selection = blk_export_selection(q->export_);
    meet_all(q);
    if (q->option == NBD_OPT_SET_META_CONTEXT && q->found->len) {
        NbdsMeta meta = { .export_ = blk_export_ref(q->export_),
                          .selection = g_steal_pointer(&q->selection),
                          .count = q->found->len };

        meta.contexts = (NbdsContext *)g_array_free(q->found, FALSE);
        hold(q->session, &meta);
    } else {
        g_array_set_clear_func(q->found, clear_context);
        g_array_free(q->found, TRUE);
    }
    blk_selection_unref(q->selection);
}

static NbdsVerdict invalid(NbdsSession *s, uint32_t option, const char *what)
{
    nbds_option_error(s, option, NBD_REP_ERR_INVALID, "option %u: %s", option, what);
    return NBDS_MORE;
}

NbdsVerdict nbds_meta_option(NbdsSession *s, uint32_t option, const uint8_t *data, uint32_t length)
{
    g_autoptr(GHashTable) wanted = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    g_autoptr(BlkExport) x = NULL;
    g_autofree char *name = NULL;
    Query q = { .session = s, .option = option, .wanted = wanted };

    if (option == NBD_OPT_SET_META_CONTEXT)
        nbds_meta_clear(s); /* "including when this command fails" */
    if (!s->structured)
        return invalid(s, option, "structured replies must be agreed on first");
    name = take_string(&data, &length);
    if (!name || length < 4)
        return invalid(s, option, "malformed export name or no count of queries");
    q.n = tm_get_be32(data);
    if (q.n > NBDS_QUERIES_MAX) {
        nbds_option_error(s, option, NBD_REP_ERR_TOO_BIG, "%u queries, expected at most %u", q.n,
                          NBDS_QUERIES_MAX);
        return NBDS_MORE;
    }
    if (!take_queries(&q, data + 4, length - 4))
        return invalid(s, option, "the queries don't fit the option's length");
    x = q.export_ = nbds_lookup(s, option, name);
    if (!x)
        return NBDS_MORE;
    run(&q);
    return NBDS_MORE;
}
