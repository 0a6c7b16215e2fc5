/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/bitmap/snapshot.c: "tidemark bitmap check --against-snapshot": a bitmap of an image in a
 * Ceph cluster, compared with what `rbd diff` shows since a snapshot.
 *
 * A bitmap that began at the snapshot or before has all that was written since. What rbd diff shows
 * and the bitmap lacks is read, now and in the snapshot: only data that differ are a mistake of the
 * bitmap. The bitmap is asked after the cluster, and once more after the data, because clients go
 * on writing: a write is marked before it reaches the cluster. */
#include "bitmap/copy.h"
#include "client/bitmap/portable.h"
#include "client/commands.h"
#include "client/copy/source.h"
#include "client/daemon/daemon_view.h"
#include "client/daemon/export_view.h"
#include "client/text.h"
#include "util/json.h"
#include "util/range.h"

#include <string.h>
#include <unistd.h>

#define PART      ((uint64_t)1 << 20) /* bytes that are compared at a time */
#define CLOSES_MS 5000u               /* at most, until exports have ended */

typedef struct Check {
    TcQmp *qmp;
    const char *socket, *node, *bitmap, *snapshot; /* borrowed */
    json_object *definition;                       /* of the node, a reference */
    json_object *head;                             /* of the bitmap's file, a reference */
    BmpCopy *dirty, *shown, *fast;
    char *now, *then; /* ids of exports; NULL: not made */
} Check;

static void check_clear(Check *c)
{
    tc_qmp_free(c->qmp);
    json_object_put(c->definition);
    json_object_put(c->head);
    bmp_copy_free(c->dirty);
    bmp_copy_free(c->shown);
    bmp_copy_free(c->fast);
    g_free(c->now);
    g_free(c->then);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Check, check_clear)

/* ---- the image */

static bool find_image(Check *c, GError **error)
{
    g_autoptr(json_object) all = tc_qmp_execute(c->qmp, "query-configuration", NULL, error);
    json_object *nodes = tc_json_get(all, "blockdevs", NULL);

    for (size_t i = 0; i < tc_json_length(nodes) && !c->definition; i++) {
        json_object *node = json_object_array_get_idx(nodes, i);

        if (!g_strcmp0(tc_json_string(node, "node-name"), c->node) &&
            !g_strcmp0(tc_json_string(node, "driver"), "rbd"))
            c->definition = json_object_get(node);
    }
    return !all || c->definition ||
           tm_error_set(error,
                        "node '%s' is no image in a Ceph cluster that --against-snapshot "
                        "can compare with",
                        c->node);
}

/* The arguments of rbd; returned. */
static GPtrArray *rbd_arguments(const Check *c, bool fast)
{
    GPtrArray *a = g_ptr_array_new_with_free_func(g_free);
    const char *space = tc_json_string(c->definition, "namespace");

    g_ptr_array_add(a, g_strdup("rbd"));
    for (unsigned i = 0; i < 2; i++) {
        const char *value = tc_json_string(c->definition, i ? "user" : "conf");

        if (value) {
            g_ptr_array_add(a, g_strdup(i ? "--id" : "--conf"));
            g_ptr_array_add(a, g_strdup(value));
        }
    }
    g_ptr_array_add(a, g_strdup("diff"));
    if (fast)
        g_ptr_array_add(a, g_strdup("--whole-object"));
    g_ptr_array_add(a, g_strdup("--format=json"));
    g_ptr_array_add(a, g_strdup("--from-snap"));
    g_ptr_array_add(a, g_strdup(c->snapshot));
    g_ptr_array_add(a, g_strdup_printf("%s/%s%s%s", tc_json_string(c->definition, "pool"),
                                       space ? space : "", space ? "/" : "",
                                       tc_json_string(c->definition, "image")));
    g_ptr_array_add(a, NULL);
    return a;
}

static json_object *run_rbd(const Check *c, bool fast, GError **error)
{
    g_autoptr(GPtrArray) arguments = rbd_arguments(c, fast);
    g_autofree char *out = NULL, *err = NULL;
    json_object *list;
    int status;

    if (!g_spawn_sync(NULL, (char **)arguments->pdata, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, &out,
                      &err, &status, error))
        return NULL;
    list = status ? NULL : json_tokener_parse(out);
    if (!json_object_is_type(list, json_type_array)) {
        g_strchomp(g_strdelimit(err, "\n", ' '));
        tm_error_set(error, "'rbd diff' of image '%s' since snapshot '%s' failed: %s",
                     tc_json_string(c->definition, "image"), c->snapshot, err);
        json_object_put(list);
        return NULL;
    }
    return list;
}

/* ---- the three sets */

static bool read_shown(const Check *c, json_object *list, BmpCopy **shown, GError **error)
{
    *shown = bmp_copy_new(tc_json_number(c->head, "size"), tc_json_number(c->head, "granularity"),
                          error);
    for (size_t i = 0; *shown && i < json_object_array_length(list); i++) {
        json_object *extent = json_object_array_get_idx(list, i);
        uint64_t offset = tc_json_number(extent, "offset");
        uint64_t length = tc_json_number(extent, "length");

        if (offset < (*shown)->size && length)
            bmp_bits_set_bytes(&(*shown)->bits, offset, tm_min(length, (*shown)->size - offset));
    }
    return *shown != NULL;
}

/* The bitmap as it is now; returned. *head: a reference, if it is not NULL. */
static BmpCopy *read_bitmap(const Check *c, json_object **head, GError **error)
{
    g_autoptr(GString) text = g_string_new(NULL);
    g_auto(TcBitmapFile) file = { 0 };
    g_autoptr(BmpCopy) copy = NULL;
    size_t length;
    uint64_t at = 0;

    if (!tc_bitmap_export(c->qmp, c->node, c->bitmap, text, error))
        return NULL;
    length = text->len;
    if (!tc_bitmap_file_parse(g_string_free(g_steal_pointer(&text), FALSE), length, c->bitmap,
                              &file, error))
        return NULL;
    copy = bmp_copy_new(tc_json_number(file.head, "size"), tc_json_number(file.head, "granularity"),
                        error);
    for (guint i = 0; copy && i < file.runs->len; i++) {
        if (!bmp_copy_parse(copy, &at, file.runs->pdata[i], error))
            return NULL;
    }
    if (head)
        *head = json_object_get(file.head);
    return g_steal_pointer(&copy);
}

static bool gather(Check *c, GError **error)
{
    g_autoptr(json_object) fast = run_rbd(c, true, error);
    g_autoptr(json_object) exact = fast ? run_rbd(c, false, error) : NULL;

    c->dirty = exact ? read_bitmap(c, &c->head, error) : NULL;
    return c->dirty && read_shown(c, exact, &c->shown, error) &&
           read_shown(c, fast, &c->fast, error);
}

/* What @a has and @b has not; returned. */
static BmpCopy *without(const BmpCopy *a, const BmpCopy *b)
{
    BmpCopy *left = bmp_copy_new(a->size, bmp_copy_granularity(a), NULL);
    BmpBitsIter iter = bmp_bits_iter(&b->bits);
    uint64_t first, end, from = 0;

    bmp_bits_or(&left->bits, &a->bits);
    for (; bmp_bits_next(&iter, from, b->bits.nbits, &first, &end); from = end)
        bmp_bits_clear(&left->bits, first, end - 1);
    return left;
}

/* ---- the data */

static bool export_node(const Check *c, const char *node, char **id, GError **error)
{
    g_autofree char *name =
        g_strdup_printf("check-%d-%s", (int)getpid(), id == &c->now ? "now" : "then");
    json_object *arguments =
        tc_json_new("type", "nbd", "id", name, "node-name", node, "name", name, NULL);

    if (!tc_qmp_run(c->qmp, "block-export-add", arguments, error))
        return false;
    *id = g_steal_pointer(&name);
    return true;
}

static char *snapshot_node(void)
{
    return g_strdup_printf("check-%d", (int)getpid());
}

static bool open_snapshot(const Check *c, GError **error)
{
    g_autofree char *name = snapshot_node();
    json_object *copy = json_object_new_object();

    json_object_object_foreach(c->definition, key, value)
    {
        if (!g_str_has_prefix(key, "bitmap-") && strcmp(key, "discard"))
            json_object_object_add(copy, key, json_object_get(value));
    }
    tm_json_add_string(copy, "node-name", name);
    tm_json_add_string(copy, "snapshot", c->snapshot);
    tm_json_add_bool(copy, "read-only", true);
    return tc_qmp_run(c->qmp, "blockdev-add", copy, error);
}

/* Whether one of the exports is still there: their clients, who were we, may not have gone yet. */
static bool any_left(const Check *c)
{
    g_autoptr(json_object) exports = tc_view_exports(c->qmp, NULL);

    for (size_t i = 0; i < tc_json_length(exports); i++) {
        const char *id = tc_json_string(json_object_array_get_idx(exports, i), "id");

        if (!g_strcmp0(id, c->now) || !g_strcmp0(id, c->then))
            return true;
    }
    return false;
}

static void close_exports(Check *c)
{
    g_autofree char *name = snapshot_node();
    char *ids[] = { c->now, c->then };

    for (size_t i = 0; i < G_N_ELEMENTS(ids); i++) {
        if (ids[i])
            tc_qmp_run(c->qmp, "block-export-del", tc_json_new("id", ids[i], "mode", "hard", NULL),
                       NULL);
    }
    for (unsigned i = 0; i < CLOSES_MS && any_left(c); i++)
        g_usleep(1000);
    tc_qmp_run(c->qmp, "blockdev-del", tc_json_new("node-name", name, NULL), NULL);
}

static TcSource *open_source(const Check *c, const char *id, GError **error)
{
    g_autofree char *uri = tc_export_uri(id, c->socket, NULL, NULL, error);

    return uri ? tc_source_open(uri, NULL, -1, error) : NULL;
}

static bool read_part(TcSource *source, void *buf, uint64_t offset, uint64_t length, GError **error)
{
    g_autofree char *why = NULL;

    if (nbd_pread(tc_source_handle(source), buf, length, offset, 0) == 0)
        return true;
    why = tc_nbd_error();
    return tm_error_set(error, "reading %s: %s", tc_source_uri(source), why);
}

/* Adds the granules of a run whose data differ. */
static bool compare_run(TcSource *now, TcSource *then, BmpCopy *differ, uint64_t offset,
                        uint64_t length, GError **error)
{
    uint64_t granule = bmp_copy_granularity(differ), step = tm_max(PART, granule);
    uint64_t size = tm_min(offset + length, differ->size);
    g_autofree char *a = g_malloc(step), *b = g_malloc(step);

    for (uint64_t at = offset; at < size; at += step) {
        uint64_t part = tm_min(step, size - at);

        if (!read_part(now, a, at, part, error) || !read_part(then, b, at, part, error))
            return false;
        for (uint64_t i = 0; i < part; i += granule) {
            uint64_t n = tm_min(granule, part - i);

            if (memcmp(a + i, b + i, n) != 0)
                bmp_bits_set_bytes(&differ->bits, at + i, n);
        }
    }
    return true;
}

static bool compare_all(const Check *c, const BmpCopy *where, BmpCopy *differ, GError **error)
{
    g_autoptr(TcSource) now = open_source(c, c->now, error);
    g_autoptr(TcSource) then = now ? open_source(c, c->then, error) : NULL;
    BmpBitsIter iter = bmp_bits_iter(&where->bits);
    unsigned shift = where->bits.shift;
    uint64_t first, end, from = 0;

    if (!then)
        return false;
    if (tc_source_size(then) < where->size || tc_source_size(now) < where->size)
        return tm_error_set(error, "the image had another size at snapshot '%s'", c->snapshot);
    for (; bmp_bits_next(&iter, from, where->bits.nbits, &first, &end); from = end) {
        if (!compare_run(now, then, differ, first << shift, (end - first) << shift, error))
            return false;
    }
    return true;
}

/* Those of @where whose data differ, and that are not dirty now, either; returned, or NULL. */
static BmpCopy *missed(Check *c, const BmpCopy *where, GError **error)
{
    g_autoptr(BmpCopy) differ = bmp_copy_new(where->size, bmp_copy_granularity(where), error);
    g_autoptr(BmpCopy) dirty = NULL;
    g_autofree char *name = snapshot_node();
    bool ok;

    if (!differ || bmp_bits_empty(&where->bits))
        return g_steal_pointer(&differ);
    ok = open_snapshot(c, error) && export_node(c, c->node, &c->now, error) &&
         export_node(c, name, &c->then, error) && compare_all(c, where, differ, error);
    close_exports(c);
    dirty = ok ? read_bitmap(c, NULL, error) : NULL;
    return dirty ? without(differ, dirty) : NULL;
}

/* ---- the answer */

static json_object *describe(const Check *c, const BmpCopy *cluster_only, const BmpCopy *missing)
{
    g_autoptr(BmpCopy) bitmap_only = without(c->dirty, c->shown), slow = without(c->shown, c->fast);
    json_object *o =
        tc_json_new("node", c->node, "bitmap", c->bitmap, "snapshot", c->snapshot, NULL);

    tm_json_add_uint(o, "dirty", bmp_copy_count(c->dirty));
    tm_json_add_uint(o, "rbd-diff", bmp_copy_count(c->shown));
    tm_json_add_uint(o, "fast-diff", bmp_copy_count(c->fast));
    tm_json_add_uint(o, "bitmap-only", bmp_copy_count(bitmap_only));
    tm_json_add_uint(o, "rbd-diff-only", bmp_copy_count(cluster_only));
    tm_json_add_uint(o, "missing", bmp_copy_count(missing));
    tm_json_add_uint(o, "fast-diff-misses", bmp_copy_count(slow));
    return o;
}

static void print(json_object *o)
{
    static const struct {
        const char *key, *text;
    } lines[] = {
        { "dirty", "dirty in the bitmap" },
        { "rbd-diff", "changed since the snapshot, by 'rbd diff'" },
        { "fast-diff", "changed, by 'rbd diff --whole-object' (fast-diff)" },
        { "bitmap-only", "in the bitmap only" },
        { "rbd-diff-only", "in 'rbd diff' only" },
        { "missing", "of that, data that differ: the bitmap lacks them" },
        { "fast-diff-misses", "in 'rbd diff', and missing in fast-diff" },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(lines); i++)
        printf("%14" PRIu64 "  %s\n", tc_json_number(o, lines[i].key), lines[i].text);
}

static json_object *check(Check *c, GError **error)
{
    g_autoptr(BmpCopy) cluster_only = NULL, missing = NULL;

    if (!find_image(c, error) || !gather(c, error))
        return NULL;
    cluster_only = without(c->shown, c->dirty);
    missing = missed(c, cluster_only, error);
    return missing ? describe(c, cluster_only, missing) : NULL;
}

int tc_run_check_snapshot(const TcInvocation *inv)
{
    g_autofree char *socket = tc_qmp_socket(tc_option(inv, "socket"));
    g_auto(Check) c = { .socket = socket,
                        .node = tc_arg(inv, 0),
                        .bitmap = tc_arg(inv, 1),
                        .snapshot = tc_option(inv, "against-snapshot") };
    g_autoptr(json_object) result = NULL;
    g_autoptr(GError) error = NULL;

    if (!c.bitmap) {
        tm_error_set(&error, "--against-snapshot needs NODE and NAME, the bitmap of that node");
        return tc_fail_usage(inv, g_steal_pointer(&error));
    }
    c.qmp = tc_qmp_open(socket, &error);
    result = c.qmp ? check(&c, &error) : NULL;
    if (!result)
        return tc_fail(g_steal_pointer(&error));
    if (tc_flag(inv, "json"))
        tc_json_print(result, stdout);
    else
        print(result);
    return tc_json_number(result, "missing") ? TC_EXIT_PROBLEMS : TC_EXIT_OK;
}
