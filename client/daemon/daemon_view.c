/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/daemon/daemon_view.c: see daemon_view.h. */
#include "client/daemon/daemon_view.h"
#include "client/text.h"
#include "util/text.h"

json_object *tc_view_nodes(TcQmp *qmp, GError **error)
{
    g_autoptr(json_object) arguments = json_object_new_object();

    json_object_object_add(arguments, "flat", json_object_new_boolean(true));
    return tc_qmp_execute(qmp, "query-named-block-nodes", arguments, error);
}

json_object *tc_view_exports(TcQmp *qmp, GError **error)
{
    return tc_qmp_execute(qmp, "query-block-exports", NULL, error);
}

static uint64_t node_size(json_object *node)
{
    return json_object_get_uint64(tc_json_get(node, "image", "virtual-size", NULL));
}

bool tc_view_fail_name(const char *what, const char *name, GPtrArray *known, GError **error)
{
    const char *closest;

    g_ptr_array_add(known, NULL);
    closest = tm_text_nearest(name, (const char *const *)known->pdata);
    return tm_error_set(error, "no %s '%s'%s%s%s", what, name, closest ? ": did you mean '" : "",
                        closest ? closest : "", closest ? "'?" : "");
}

/* Appends the bitmaps of @node called @name (NULL: all) to @found. */
static void collect_bitmaps(json_object *node, const char *name, json_object *found,
                            GPtrArray *known)
{
    json_object *bitmaps = tc_json_get(node, "dirty-bitmaps", NULL);

    for (size_t i = 0; i < tc_json_length(bitmaps); i++) {
        json_object *bitmap = json_object_array_get_idx(bitmaps, i), *entry;
        const char *its_name = tc_json_string(bitmap, "name");

        if (its_name)
            g_ptr_array_add(known, (gpointer)its_name);
        if (name && g_strcmp0(name, its_name))
            continue;
        entry = json_object_new_object();
        json_object_object_add(entry, "node",
                               json_object_new_string(tc_json_string(node, "node-name")));
        json_object_object_foreach(bitmap, key, value)
            json_object_object_add(entry, key, json_object_get(value));
        json_object_object_add(entry, "size", json_object_new_uint64(node_size(node)));
        json_object_array_add(found, entry);
    }
}

static int compare_bitmaps(const void *a, const void *b)
{
    json_object *const *x = a, *const *y = b;
    int order = g_strcmp0(tc_json_string(*x, "node"), tc_json_string(*y, "node"));

    return order ? order : g_strcmp0(tc_json_string(*x, "name"), tc_json_string(*y, "name"));
}

json_object *tc_view_bitmaps(json_object *nodes, const char *node, const char *name, GError **error)
{
    g_autoptr(json_object) found = json_object_new_array();
    g_autoptr(GPtrArray) node_names = g_ptr_array_new(), bitmap_names = g_ptr_array_new();
    bool node_exists = false;

    for (size_t i = 0; i < tc_json_length(nodes); i++) {
        json_object *entry = json_object_array_get_idx(nodes, i);
        const char *its_name = tc_json_string(entry, "node-name");

        if (!its_name)
            continue;
        g_ptr_array_add(node_names, (gpointer)its_name);
        if (node && g_strcmp0(node, its_name))
            continue;
        node_exists = true;
        collect_bitmaps(entry, name, found, bitmap_names);
    }
    if (node && !node_exists) {
        tc_view_fail_name("node", node, node_names, error);
        return NULL;
    }
    if (name && !tc_json_length(found)) {
        tc_view_fail_name("bitmap", name, bitmap_names, error);
        return NULL;
    }
    json_object_array_sort(found, compare_bitmaps);
    return g_steal_pointer(&found);
}

static int compare_names(const void *a, const void *b)
{
    json_object *const *x = a, *const *y = b;

    return g_strcmp0(tc_json_string(*x, "node-name"), tc_json_string(*y, "node-name"));
}

static const char *mode_of(json_object *node)
{
    if (tc_json_string(node, "lost"))
        return "LOST";
    return tc_json_true(node, "ro") ? "ro" : "rw";
}

TcTable *tc_view_node_table(json_object *nodes, const char *title)
{
    TcTable *table = tc_table_new(title, "NODE|DRIVER|>SIZE|MODE|>BITMAPS|FILE");

    if (tc_json_length(nodes))
        json_object_array_sort(nodes, compare_names);
    for (size_t i = 0; i < tc_json_length(nodes); i++) {
        json_object *node = json_object_array_get_idx(nodes, i);
        size_t bitmaps = tc_json_length(tc_json_get(node, "dirty-bitmaps", NULL));
        g_autofree char *size = tc_human_size(node_size(node));
        g_autofree char *count = bitmaps ? g_strdup_printf("%zu", bitmaps) : NULL;

        tc_table_add(table, tc_json_string(node, "node-name"), tc_json_string(node, "drv"), size,
                     mode_of(node), count, tc_json_string(node, "file"));
    }
    return table;
}

char *tc_view_offered(json_object *export)
{
    json_object *bitmaps = tc_json_get(export, "bitmaps", NULL);
    g_autoptr(GString) names = g_string_new(NULL);

    for (size_t i = 0; i < tc_json_length(bitmaps); i++)
        g_string_append_printf(names, "%s%s", i ? ", " : "",
                               tc_json_string(json_object_array_get_idx(bitmaps, i), "name"));
    return names->len ? g_string_free(g_steal_pointer(&names), FALSE) : NULL;
}

TcTable *tc_view_export_table(json_object *exports, const char *title)
{
    TcTable *table = tc_table_new(title, "EXPORT|TYPE|NODE|STATE|MODE|>CLIENTS|BITMAPS");

    for (size_t i = 0; i < tc_json_length(exports); i++) {
        json_object *export = json_object_array_get_idx(exports, i);
        json_object *clients = tc_json_get(export, "clients", NULL);
        g_autofree char *count = clients ? g_strdup_printf("%zu", tc_json_length(clients)) : NULL;
        g_autofree char *bitmaps = tc_view_offered(export);

        tc_table_add(table, tc_json_string(export, "id"), tc_json_string(export, "type"),
                     tc_json_string(export, "node-name"),
                     tc_json_true(export, "shutting-down") ? "shutting down" : "running",
                     !tc_json_get(export, "writable", NULL) ? NULL
                     : tc_json_true(export, "writable")     ? "rw"
                                                            : "ro",
                     count, bitmaps);
    }
    return table;
}

/* A line for each URI, "EXPORT  URI", after @title. */
static void print_uris(json_object *exports, FILE *out, bool colors)
{
    g_autoptr(TcTable) table = tc_table_new("URIs", "EXPORT|URI");

    for (size_t i = 0; i < tc_json_length(exports); i++) {
        json_object *export = json_object_array_get_idx(exports, i);
        json_object *uris = tc_json_get(export, "uris", NULL);

        for (size_t j = 0; j < tc_json_length(uris); j++)
            tc_table_add(table, tc_json_string(export, "id"),
                         json_object_get_string(json_object_array_get_idx(uris, j)));
    }
    tc_table_print(table, out, colors);
}

static void print_clients(json_object *exports, FILE *out, bool colors)
{
    g_autoptr(TcTable) table = tc_table_new("Clients", "EXPORT|>ID|PEER|IDENTITY|MODE");

    for (size_t i = 0; i < tc_json_length(exports); i++) {
        json_object *export = json_object_array_get_idx(exports, i);
        json_object *clients = tc_json_get(export, "clients", NULL);

        for (size_t j = 0; j < tc_json_length(clients); j++) {
            json_object *client = json_object_array_get_idx(clients, j);
            g_autofree char *id = g_strdup_printf("%" PRIu64, tc_json_number(client, "id"));

            tc_table_add(table, tc_json_string(export, "id"), id, tc_json_string(client, "peer"),
                         tc_json_string(client, "identity"),
                         tc_json_true(client, "writable") ? "rw" : "ro");
        }
    }
    tc_table_print(table, out, colors);
}

void tc_view_print_reach(json_object *exports, FILE *out, bool colors)
{
    /* QEMU does not report them */
    if (!tc_json_length(exports) ||
        !tc_json_get(json_object_array_get_idx(exports, 0), "uris", NULL))
        return;
    fputc('\n', out);
    print_uris(exports, out, colors);
    fputc('\n', out);
    print_clients(exports, out, colors);
}

/* "recording, busy, persistent": what is worth knowing, most important first. Returned. */
static char *bitmap_states(json_object *bitmap)
{
    static const struct {
        const char *key, *word;
    } flags[] = { { "inconsistent", "INCONSISTENT" },
                  { "busy", "busy" },
                  { "persistent", "persistent" } };
    uint64_t recovered = tc_json_number(bitmap, "recovered");
    g_autofree char *size = tc_human_size(recovered);
    g_autoptr(GString) states =
        g_string_new(tc_json_true(bitmap, "recording") ? "recording" : "disabled");

    for (unsigned i = 0; i < G_N_ELEMENTS(flags); i++)
        if (tc_json_true(bitmap, flags[i].key))
            g_string_append_printf(states, ", %s", flags[i].word);
    if (recovered)
        g_string_append_printf(states, ", recovered %s", size);
    return g_string_free(g_steal_pointer(&states), FALSE);
}

TcTable *tc_view_bitmap_table(json_object *bitmaps, const char *title)
{
    TcTable *table = tc_table_new(title, "NODE|BITMAP|>GRANULARITY|>DIRTY|>OF DISK|STATE");

    for (size_t i = 0; i < tc_json_length(bitmaps); i++) {
        json_object *bitmap = json_object_array_get_idx(bitmaps, i);
        uint64_t dirty = tc_json_number(bitmap, "count");
        g_autofree char *granularity = tc_human_size(tc_json_number(bitmap, "granularity"));
        g_autofree char *bytes = tc_human_size(dirty);
        g_autofree char *percent = tc_percent(dirty, tc_json_number(bitmap, "size"));
        g_autofree char *states = bitmap_states(bitmap);

        tc_table_add(table, tc_json_string(bitmap, "node"), tc_json_string(bitmap, "name"),
                     granularity, bytes, percent, states);
    }
    return table;
}

void tc_view_print_reasons(json_object *bitmaps, FILE *out)
{
    bool any = false;

    for (size_t i = 0; i < tc_json_length(bitmaps); i++) {
        json_object *bitmap = json_object_array_get_idx(bitmaps, i);
        const char *reason = tc_json_string(bitmap, "reason");
        g_autofree char *line =
            g_strdup_printf("%s on %s: %s", tc_json_string(bitmap, "name"),
                            tc_json_string(bitmap, "node"), reason ? reason : "");

        if (!reason)
            continue;
        fputs(any ? "" : "\n", out);
        tc_print_wrapped(out, 0, 2, line);
        any = true;
    }
}
