/* server/meta.c: which metadata contexts there are and which a client selects.
 *
 * The contexts of an export are base:allocation, qemu:allocation-depth if it offers it, and
 * qemu:dirty-bitmap:NAME for each bitmap of its selection. A session keeps the selection that it
 * negotiated with, whatever the export offers later.
 *
 * Invariant: session->meta is what the last SET_META_CONTEXT selected, empty if that failed.
 *
 * Source: the NBD specification, "Metadata querying" and the two options; QEMU docs/interop/nbd.txt
 * for the qemu: namespace. */
#include "server/internal.h"

#include "util/endian.h"

#include <string.h>

#define BASE_ALLOCATION "base:allocation"
#define DEPTH           "qemu:allocation-depth"
#define BITMAP          "qemu:dirty-bitmap:"

enum { ID_BASE, ID_DEPTH, ID_BITMAPS };

typedef struct Query {
    NbdsSession *session;
    uint32_t option;
    BlkExport *export_;
    BlkSelection *selection;
    const uint8_t *data; /* the queries, checked */
    uint32_t n;
    GHashTable *wanted;            /* whole names asked for, borrowed keys */
    bool all, all_qemu, all_dirty; /* wildcards of LIST */
} Query;

void nbds_meta_clear(NbdsSession *s)
{
    NbdsMeta meta = s->meta;

    pthread_mutex_lock(&s->server->lock);
    memset(&s->meta, 0, sizeof(s->meta));
    pthread_mutex_unlock(&s->server->lock);
    blk_selection_unref(meta.selection); /* first: when the export is gone, its bitmaps are free */
    blk_export_unref(meta.export_);
    g_free(meta.contexts);
}

/* From here on whoever disconnects the export sees that this session holds it. One that has begun
 * to shut down before is let go by the session itself. */
static void hold(NbdsSession *s, NbdsMeta *meta)
{
    pthread_mutex_lock(&s->server->lock);
    s->meta = *meta;
    pthread_mutex_unlock(&s->server->lock);
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
    bool listing = q->option == NBD_OPT_LIST_META_CONTEXT;

    q->all = listing && q->n == 0;
    for (uint32_t i = 0; i < q->n; i++) {
        char *text = take_string(&data, &length);

        if (!text)
            return false;
        q->all_qemu |= listing && g_str_equal(text, "qemu:");
        q->all_dirty |= listing && g_str_equal(text, BITMAP);
        if (listing && g_str_equal(text, "base:")) {
            g_free(text);
            text = g_strdup(BASE_ALLOCATION);
        }
        g_hash_table_add(q->wanted, text);
    }
    return length == 0;
}

/* ---- answering */

static void answer(Query *q, uint32_t id, const char *name)
{
    g_autofree uint8_t *data = g_malloc(4 + strlen(name));

    /* "The metadata context ID in these replies is reserved and SHOULD be set to zero" of LIST */
    tm_put_be32(data, q->option == NBD_OPT_SET_META_CONTEXT ? id : 0);
    memcpy(data + 4, name, strlen(name));
    nbds_option_reply(q->session, q->option, NBD_REP_META_CONTEXT, data, 4 + strlen(name));
}

static bool wants(const Query *q, const char *name, bool wildcard)
{
    return q->all || wildcard || g_hash_table_contains(q->wanted, name);
}

/* Sends every context asked for, and appends it to @found. */
static void answer_all(Query *q, GArray *found)
{
    if (wants(q, BASE_ALLOCATION, false)) {
        NbdsContext context = { .id = ID_BASE };

        answer(q, context.id, BASE_ALLOCATION);
        g_array_append_val(found, context);
    }
    if (blk_export_allocation_depth(q->export_) && wants(q, DEPTH, q->all_qemu)) {
        NbdsContext context = { .id = ID_DEPTH, .depth = true };

        answer(q, context.id, DEPTH);
        g_array_append_val(found, context);
    }
    for (size_t i = 0; i < q->selection->count; i++) {
        BmpBitmap *bitmap = q->selection->bitmaps[i];
        g_autofree char *name = g_strconcat(BITMAP, bmp_bitmap_name(bitmap), NULL);
        NbdsContext context = { .id = ID_BITMAPS + (uint32_t)i, .bitmap = bitmap };

        if (!wants(q, name, q->all_qemu || q->all_dirty))
            continue;
        answer(q, context.id, name);
        g_array_append_val(found, context);
    }
    nbds_option_reply(q->session, q->option, NBD_REP_ACK, NULL, 0);
}

static void run(Query *q)
{
    GArray *found = g_array_new(FALSE, FALSE, sizeof(NbdsContext));

    q->selection = blk_export_selection(q->export_);
    answer_all(q, found);
    if (q->option == NBD_OPT_SET_META_CONTEXT && found->len) {
        NbdsMeta meta = { .export_ = blk_export_ref(q->export_),
                          .selection = g_steal_pointer(&q->selection),
                          .count = found->len };

        meta.contexts = (NbdsContext *)g_array_free(found, FALSE);
        hold(q->session, &meta);
    } else {
        g_array_free(found, TRUE);
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
        nbds_option_error(s, option, NBD_REP_ERR_TOO_BIG, "%u queries, at most %u are taken", q.n,
                          NBDS_QUERIES_MAX);
        return NBDS_MORE;
    }
    if (!take_queries(&q, data + 4, length - 4))
        return invalid(s, option, "the queries don't fit the option's length");
    x = q.export_ = nbds_lookup(s, name);
    if (!x) {
        nbds_option_error(s, option, NBD_REP_ERR_UNKNOWN, "export '%s' not present", name);
        return NBDS_MORE;
    }
    run(&q);
    return NBDS_MORE;
}
