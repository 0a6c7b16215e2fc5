/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/copy/source.c: see source.h. */
#include "client/copy/source.h"
#include "client/copy/nbd_wait.h"
#include "client/text.h"
#include "util/range.h"
#include "util/secret.h"
#include "util/text.h"
#include <errno.h>
#include <string.h>

/* The most that 32 bits hold and that is a multiple of any block size that a server may ask for. */
#define STATUS_LENGTH UINT64_C(0xffff0000)
/* Answers beyond this are cut; the walk goes on after them. */
enum { ANSWER_ENTRIES = 1 << 20 };

/* As in the reply: a pair of 32-bit numbers. */
typedef struct Entry {
    uint32_t length, value;
} Entry;

/* One context's answer to one request. */
typedef struct Answer {
    GArray *entries; /* Entry */
    uint64_t covered;
} Answer;

struct TcSource {
    struct nbd_handle *nbd;
    char *uri;
    uint64_t size;
    int stop_fd;
    unsigned contexts;
    char *names[TC_CONTEXTS_MAX];
    bool has[TC_CONTEXTS_MAX];
    Answer answers[TC_CONTEXTS_MAX];
};

char *tc_nbd_error(void)
{
    const char *text = nbd_get_error();
    g_autofree char *clean = NULL;

    if (!text)
        return g_strdup("unknown error");
    if (g_str_has_prefix(text, "nbd_")) {
        const char *colon = strstr(text, ": ");

        text = colon ? colon + 2 : text;
    }
    clean = tc_printable(text);
    return g_steal_pointer(&clean);
}

static int collect_export(void *opaque, const char *name, const char *description)
{
    TcExportEntry *entry = g_new(TcExportEntry, 1);

    entry->name = g_strdup(name);
    entry->description = g_strdup(description);
    g_ptr_array_add(opaque, entry);
    return 0;
}

static void export_entry_free(gpointer p)
{
    TcExportEntry *entry = p;

    g_free(entry->name);
    g_free(entry->description);
    g_free(entry);
}

static int keep_errno(void *opaque, int *error)
{
    *(int *)opaque = *error;
    return 1;
}

/* Keeps the errno of an option's end in *@kept, a g_rc_box that the handle holds, too: it may end
 * only when the handle is closed. */
static nbd_completion_callback keep_in(int *kept)
{
    return (nbd_completion_callback){ .callback = keep_errno,
                                      .user_data = g_rc_box_acquire(kept),
                                      .free = g_rc_box_release };
}

/* What is in @kept, which is given up. */
static int take_kept(int *kept)
{
    int value = *kept;

    g_rc_box_release(kept);
    return value;
}

/* *refused: the errno of the server's refusal, else 0. The array is returned. */
static GPtrArray *list_exports(struct nbd_handle *nbd, int stop_fd, int *refused)
{
    GPtrArray *list = g_ptr_array_new_with_free_func(export_entry_free);
    nbd_list_callback callback = { .callback = collect_export, .user_data = list };
    int *kept = g_rc_box_new0(int);

    if (nbd_aio_is_negotiating(nbd) == 1 && nbd_aio_opt_list(nbd, callback, keep_in(kept)) == 0)
        tc_nbd_settle(nbd, stop_fd);
    *refused = take_kept(kept);
    return list;
}

/* A server that requires TLS refuses whatever it is asked without. libnbd has one errno for that
 * and for what a server does not know, so two options that are as old as can be are tried. */
static bool requires_tls(struct nbd_handle *nbd, int stop_fd)
{
    int listed = 0, *described;

    if (nbd_get_tls_negotiated(nbd) == 1 || nbd_aio_is_negotiating(nbd) != 1)
        return false;
    g_ptr_array_unref(list_exports(nbd, stop_fd, &listed));
    if (listed != ENOTSUP || nbd_aio_is_negotiating(nbd) != 1)
        return false;
    described = g_rc_box_new0(int);
    if (nbd_aio_opt_info(nbd, keep_in(described)) == 0)
        tc_nbd_settle(nbd, stop_fd);
    return take_kept(described) == ENOTSUP;
}

static bool fail_nbd(GError **error, const char *uri)
{
    g_autofree char *why = tc_nbd_error();

    return tm_error_set(error, "%s: %s", uri, why);
}

static bool fail_tls(GError **error, const char *uri)
{
    return tm_error_set(error, "%s: the server requires TLS: use a URI that begins with nbds", uri);
}

/* The export was refused: says so with the names that would have done. */
static bool fail_export(TcSource *source, const char *why, GError **error)
{
    int refused;
    g_autoptr(GPtrArray) exports = list_exports(source->nbd, source->stop_fd, &refused);
    const char *uri = source->uri;
    g_autoptr(GString) names = g_string_new(NULL);

    if (refused == ENOTSUP && requires_tls(source->nbd, source->stop_fd))
        return fail_tls(error, uri);
    for (unsigned i = 0; i < exports->len && i < 20; i++) {
        TcExportEntry *entry = exports->pdata[i];
        g_autofree char *clean = tc_printable(entry->name);

        g_string_append_printf(names, "%s'%s'", i ? ", " : "", clean);
    }
    if (!exports->len)
        return tm_error_set(error, "%s: %s", uri, why);
    return tm_error_set(error, "%s: %s (the server has the export%s %s%s)", uri, why,
                        exports->len > 1 ? "s" : "", names->str, exports->len > 20 ? ", ..." : "");
}

static bool fail_stopped(GError **error)
{
    return tm_error_set(error, "interrupted");
}

/* A handle that is connected, and negotiating if the server can. */
static struct nbd_handle *connect_uri(const char *uri, int stop_fd, GError **error)
{
    struct nbd_handle *nbd = nbd_create();

    if (g_str_has_prefix(uri, "nbds"))
        tm_secret_no_dumps();
    if (!nbd) {
        fail_nbd(error, uri);
        return NULL;
    }
    if (nbd_set_opt_mode(nbd, true) == -1 || nbd_set_full_info(nbd, true) == -1 ||
        nbd_set_pread_initialize(nbd, false) == -1 ||
        nbd_set_uri_allow_local_file(nbd, true) == -1 || nbd_aio_connect_uri(nbd, uri) == -1)
        fail_nbd(error, uri);
    else if (!tc_nbd_settle(nbd, stop_fd))
        fail_stopped(error);
    else if (nbd_aio_is_negotiating(nbd) == 1 || nbd_aio_is_ready(nbd) == 1)
        return nbd;
    else
        fail_nbd(error, uri);
    nbd_close(nbd);
    return NULL;
}

/* Asks for the export, unless the oldest protocol has opened it already. */
static bool go(TcSource *source, GError **error)
{
    int refused = 0;
    nbd_completion_callback callback = { .callback = keep_errno, .user_data = &refused };
    g_autofree char *why = NULL;

    if (nbd_aio_is_negotiating(source->nbd) != 1)
        return true;
    if (nbd_aio_opt_go(source->nbd, callback) == -1)
        return fail_nbd(error, source->uri);
    if (!tc_nbd_settle(source->nbd, source->stop_fd)) {
        /* before the callback's variable goes */
        nbd_close(g_steal_pointer(&source->nbd));
        return fail_stopped(error);
    }
    if (nbd_aio_is_ready(source->nbd) == 1)
        return true;
    if (nbd_aio_is_negotiating(source->nbd) != 1)
        return fail_nbd(error, source->uri);
    why = g_strdup_printf("the server refuses the export: %s", tm_strerror(refused));
    return fail_export(source, why, error);
}

TcSource *tc_source_open(const char *uri, const char *const *contexts, int stop_fd, GError **error)
{
    g_autoptr(TcSource) source = g_new0(TcSource, 1);
    int64_t size;

    source->uri = g_strdup(uri);
    source->stop_fd = stop_fd;
    source->nbd = connect_uri(uri, stop_fd, error);
    if (!source->nbd)
        return NULL;
    for (; contexts && contexts[source->contexts]; source->contexts++) {
        g_assert(source->contexts < TC_CONTEXTS_MAX);
        source->names[source->contexts] = g_strdup(contexts[source->contexts]);
        source->answers[source->contexts].entries = g_array_new(FALSE, FALSE, sizeof(Entry));
        /* the oldest protocol negotiates nothing: then the disk is open already */
        if (nbd_aio_is_negotiating(source->nbd) == 1 &&
            nbd_add_meta_context(source->nbd, contexts[source->contexts]) == -1) {
            fail_nbd(error, uri);
            return NULL;
        }
    }
    if (!go(source, error))
        return NULL;
    size = nbd_get_size(source->nbd);
    if (size < 0) {
        fail_nbd(error, uri);
        return NULL;
    }
    source->size = (uint64_t)size;
    for (unsigned i = 0; i < source->contexts; i++)
        source->has[i] = nbd_can_meta_context(source->nbd, source->names[i]) == 1;
    return g_steal_pointer(&source);
}

void tc_source_free(TcSource *source)
{
    if (!source)
        return;
    tc_nbd_close(source->nbd, source->stop_fd);
    for (unsigned i = 0; i < source->contexts; i++) {
        g_free(source->names[i]);
        g_array_unref(source->answers[i].entries);
    }
    g_free(source->uri);
    g_free(source);
}

struct nbd_handle *tc_source_another(const TcSource *source, int timeout_ms)
{
    gint64 end = g_get_monotonic_time() + 1000 * (gint64)timeout_ms;
    struct nbd_handle *nbd = nbd_create();

    if (!nbd)
        return NULL;
    /* of the two ways to answer a read the one with fewer headers: each is received by itself */
    if (nbd_set_uri_allow_local_file(nbd, true) == 0 && nbd_set_pread_initialize(nbd, false) == 0 &&
        nbd_set_request_structured_replies(nbd, false) == 0 &&
        nbd_aio_connect_uri(nbd, source->uri) == 0) {
        while (nbd_aio_is_connecting(nbd) == 1 && g_get_monotonic_time() < end)
            if (!tc_nbd_turn(nbd, source->stop_fd, timeout_ms))
                break;
        if (nbd_aio_is_ready(nbd) == 1 && nbd_get_size(nbd) == (int64_t)source->size)
            return nbd;
    }
    nbd_close(nbd);
    return NULL;
}

struct nbd_handle *tc_source_handle(TcSource *source)
{
    return source->nbd;
}

int tc_source_stop_fd(const TcSource *source)
{
    return source->stop_fd;
}

const char *tc_source_uri(const TcSource *source)
{
    return source->uri;
}

uint64_t tc_source_size(const TcSource *source)
{
    return source->size;
}

bool tc_source_has(const TcSource *source, unsigned i)
{
    return source->has[i];
}

static int collect_context(void *opaque, const char *name)
{
    g_ptr_array_add(opaque, g_strdup(name));
    return 0;
}

static GPtrArray *list_contexts(const char *uri, const char *prefix, int stop_fd, GError **error)
{
    g_autoptr(GPtrArray) list = g_ptr_array_new_with_free_func(g_free);
    nbd_context_callback callback = { .callback = collect_context, .user_data = list };
    struct nbd_handle *nbd = connect_uri(uri, stop_fd, error);

    if (!nbd)
        return NULL;
    /* The server refusing the list, for want of structured replies for one, is an empty list. */
    if (nbd_aio_is_negotiating(nbd) == 1 && (!*prefix || nbd_add_meta_context(nbd, prefix) == 0) &&
        nbd_aio_opt_list_meta_context(nbd, callback, NBD_NULL_COMPLETION) == 0)
        tc_nbd_settle(nbd, stop_fd);
    tc_nbd_close(nbd, stop_fd);
    g_ptr_array_add(list, NULL);
    return g_steal_pointer(&list);
}

GPtrArray *tc_source_list_contexts(const char *uri, const char *prefix, GError **error)
{
    return list_contexts(uri, prefix, -1, error);
}

GPtrArray *tc_source_list_exports(const char *uri, GError **error)
{
    struct nbd_handle *nbd = connect_uri(uri, -1, error);
    g_autoptr(GPtrArray) list = NULL;
    int refused = ENOTSUP;

    if (!nbd)
        return NULL;
    if (nbd_aio_is_negotiating(nbd) == 1)
        list = list_exports(nbd, -1, &refused);
    if (refused && requires_tls(nbd, -1))
        fail_tls(error, uri);
    else if (refused)
        tm_error_set(error, "%s: the server does not list its exports: %s", uri,
                     tm_strerror(refused));
    tc_nbd_close(nbd, -1);
    return refused ? NULL : g_steal_pointer(&list);
}

/* "export 'disk0' (URI)", for messages. Returned. */
static char *described(const TcSource *source)
{
    char *name = nbd_get_export_name(source->nbd); /* malloc()ed */
    g_autofree char *clean = name && *name ? tc_printable(name) : NULL;
    char *text = clean ? g_strdup_printf("export '%s' (%s)", clean, source->uri)
                       : g_strdup_printf("the default export (%s)", source->uri);

    free(name);
    return text;
}

bool tc_source_require(TcSource *source, unsigned i, const char *context, GError **error)
{
    bool bitmap = g_str_has_prefix(context, TC_CONTEXT_BITMAP_PREFIX);
    const char *prefix = bitmap ? TC_CONTEXT_BITMAP_PREFIX : "";
    const char *what = bitmap ? "bitmap" : "metadata context";
    const char *name = context + strlen(prefix);
    g_autoptr(GPtrArray) offered = NULL;
    g_autoptr(GString) names = g_string_new(NULL);
    g_autofree char *which = NULL;
    const char *closest;

    if (source->has[i])
        return true;
    which = described(source);
    offered = list_contexts(source->uri, prefix, source->stop_fd, error);
    if (!offered)
        return false;
    for (unsigned j = 0; j + 1 < offered->len; j++) {
        char *cut = g_strdup((char *)offered->pdata[j] + strlen(prefix));
        g_autofree char *clean = tc_printable(cut);

        g_free(offered->pdata[j]);
        offered->pdata[j] = cut;
        g_string_append_printf(names, "%s'%s'", j ? ", " : "", clean);
    }
    if (!names->len)
        return tm_error_set(error, "%s: no %s '%s': the export offers none", which, what, name);
    closest = tm_text_nearest(name, (const char *const *)offered->pdata);
    return tm_error_set(error, "%s: no %s '%s': the export offers %s%s%s%s", which, what, name,
                        names->str, closest ? "; did you mean '" : "", closest ? closest : "",
                        closest ? "'?" : "");
}

static int collect_extents(void *opaque, const char *name, uint64_t offset, uint32_t *entries,
                           size_t count, int *error)
{
    TcSource *source = opaque;

    for (unsigned i = 0; i < source->contexts; i++) {
        Answer *answer = &source->answers[i];
        size_t n;

        if (strcmp(source->names[i], name))
            continue;
        n = MIN(count / 2, ANSWER_ENTRIES - answer->entries->len);
        g_array_append_vals(answer->entries, entries, (guint)n);
        for (size_t j = 0; j < n; j++)
            answer->covered += entries[2 * j];
    }
    return 0;
}

/* A run being grown until its values change. */
typedef struct Pending {
    uint64_t offset, length;
    uint32_t values[TC_CONTEXTS_MAX];
    TcWalkFn fn;
    void *opaque;
} Pending;

static bool pending_flush(Pending *p, GError **error)
{
    return !p->length || p->fn(p->opaque, p->offset, p->length, p->values, error);
}

static bool pending_add(Pending *p, uint64_t length, const uint32_t *values, GError **error)
{
    if (p->length && !memcmp(p->values, values, sizeof(p->values))) {
        p->length += length;
        return true;
    }
    if (!pending_flush(p, error))
        return false;
    p->offset += p->length;
    p->length = length;
    memcpy(p->values, values, sizeof(p->values));
    return true;
}

/* Walks the answers of all contexts side by side for @length bytes, which each covers. */
static bool merge_answers(TcSource *source, uint64_t length, Pending *pending, GError **error)
{
    guint next[TC_CONTEXTS_MAX] = { 0 };
    Entry entry[TC_CONTEXTS_MAX] = { 0 }; /* what is left of the current one */

    while (length) {
        uint32_t values[TC_CONTEXTS_MAX] = { 0 };
        uint64_t run = length;

        for (unsigned i = 0; i < source->contexts; i++) {
            if (!source->has[i])
                continue;
            while (!entry[i].length)
                entry[i] = g_array_index(source->answers[i].entries, Entry, next[i]++);
            values[i] = entry[i].value;
            run = tm_min(run, entry[i].length);
        }
        for (unsigned i = 0; i < source->contexts; i++)
            entry[i].length -= source->has[i] ? (uint32_t)run : 0;
        if (!pending_add(pending, run, values, error))
            return false;
        length -= run;
    }
    return true;
}

/* As nbd_block_status(), but for the caller's wish to stop. */
static bool block_status(TcSource *source, uint64_t offset, uint64_t length, GError **error)
{
    nbd_extent_callback callback = { .callback = collect_extents, .user_data = source };
    int64_t cookie =
        nbd_aio_block_status(source->nbd, length, offset, callback, NBD_NULL_COMPLETION, 0);
    int done = tc_nbd_complete(source->nbd, cookie, source->stop_fd);
    g_autofree char *why = NULL;

    if (done >= 0)
        return done || fail_stopped(error);
    why = tc_nbd_error();
    return tm_error_set(error, "%s: block status at offset %" PRIu64 ": %s", source->uri, offset,
                        why);
}

/* Asks for the status at @offset; *length is how far all contexts reached. */
static bool ask_status(TcSource *source, uint64_t offset, uint64_t *length, GError **error)
{
    uint64_t covered = tm_min(source->size - offset, STATUS_LENGTH);

    for (unsigned i = 0; i < source->contexts; i++) {
        g_array_set_size(source->answers[i].entries, 0);
        source->answers[i].covered = 0;
    }
    if (!block_status(source, offset, covered, error))
        return false;
    for (unsigned i = 0; i < source->contexts; i++)
        if (source->has[i])
            covered = tm_min(covered, source->answers[i].covered);
    if (!covered)
        return tm_error_set(error, "%s: the server did not describe the range at offset %" PRIu64,
                            source->uri, offset);
    *length = covered;
    return true;
}

bool tc_source_walk(TcSource *source, TcWalkFn fn, void *opaque, GError **error)
{
    return tc_source_walk_from(source, 0, fn, opaque, error);
}

bool tc_source_walk_from(TcSource *source, uint64_t offset, TcWalkFn fn, void *opaque,
                         GError **error)
{
    Pending pending = { .offset = offset, .fn = fn, .opaque = opaque };
    uint32_t nothing[TC_CONTEXTS_MAX] = { 0 };
    bool any = false;

    for (unsigned i = 0; i < source->contexts; i++)
        any = any || source->has[i];
    if (!any)
        return offset == source->size || fn(opaque, offset, source->size - offset, nothing, error);
    for (uint64_t length = 0; offset < source->size; offset += length)
        if (!ask_status(source, offset, &length, error) ||
            !merge_answers(source, length, &pending, error))
            return false;
    return pending_flush(&pending, error);
}
