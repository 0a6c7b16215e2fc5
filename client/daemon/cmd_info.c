/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/daemon/cmd_info.c: "tidemark info": what a daemon has, or what an NBD export is. */
#include "client/commands.h"
#include "client/copy/source.h"
#include "client/daemon/daemon_view.h"
#include "client/daemon/export_view.h"
#include "client/repository/repository.h"
#include "client/text.h"
#include <string.h>

static const TcOption options[] = {
    TC_SOCKET_OPTION,
    { "list", NULL, "list the exports of the server at URI" },
    TC_JSON_OPTION,
    { 0 },
};

typedef struct Ability {
    const char *name;
    int (*ask)(struct nbd_handle *nbd);
} Ability;

static const Ability abilities[] = {
    { "read-only", nbd_is_read_only },
    { "flush", nbd_can_flush },
    { "fua", nbd_can_fua },
    { "trim", nbd_can_trim },
    { "zero", nbd_can_zero },
    { "fast-zero", nbd_can_fast_zero },
    { "df", nbd_can_df },
    { "cache", nbd_can_cache },
    { "multi-conn", nbd_can_multi_conn },
    { "rotational", nbd_is_rotational },
};

static const struct {
    const char *name;
    int type;
} block_sizes[] = {
    { "minimum", LIBNBD_SIZE_MINIMUM },
    { "preferred", LIBNBD_SIZE_PREFERRED },
    { "maximum", LIBNBD_SIZE_MAXIMUM },
};

static void add_string(json_object *object, const char *key, const char *value)
{
    json_object_object_add(object, key, value ? json_object_new_string(value) : NULL);
}

/* libnbd gives these to keep. */
static void add_taken(json_object *object, const char *key, char *value)
{
    if (value && *value)
        add_string(object, key, value);
    free(value);
}

/* All that is known of an export, as an object. */
static json_object *describe_export(TcSource *source, GPtrArray *contexts)
{
    struct nbd_handle *nbd = tc_source_handle(source);
    json_object *object = json_object_new_object(), *flags = json_object_new_object();
    json_object *sizes = json_object_new_object(), *names = json_object_new_array();

    add_string(object, "uri", tc_source_uri(source));
    add_taken(object, "export", nbd_get_canonical_export_name(nbd));
    add_taken(object, "description", nbd_get_export_description(nbd));
    json_object_object_add(object, "size", json_object_new_uint64(tc_source_size(source)));
    add_string(object, "protocol", nbd_get_protocol(nbd));
    json_object_object_add(object, "tls",
                           json_object_new_boolean(nbd_get_tls_negotiated(nbd) == 1));
    json_object_object_add(
        object, "structured-replies",
        json_object_new_boolean(nbd_get_structured_replies_negotiated(nbd) == 1));
    for (unsigned i = 0; i < G_N_ELEMENTS(block_sizes); i++) {
        int64_t size = nbd_get_block_size(nbd, block_sizes[i].type);

        if (size > 0)
            json_object_object_add(sizes, block_sizes[i].name, json_object_new_int64(size));
    }
    json_object_object_add(object, "block-size", sizes);
    for (unsigned i = 0; i < G_N_ELEMENTS(abilities); i++)
        json_object_object_add(flags, abilities[i].name,
                               json_object_new_boolean(abilities[i].ask(nbd) == 1));
    json_object_object_add(object, "flags", flags);
    for (unsigned i = 0; i + 1 < contexts->len; i++)
        json_object_array_add(names, json_object_new_string(contexts->pdata[i]));
    json_object_object_add(object, "contexts", names);
    return object;
}

static void print_line(const char *label, const char *value)
{
    g_autofree char *clean = tc_printable(value);

    printf("%-12s  %s\n", label, clean);
}

/* The names of the members of @flags that are true. Returned. */
static char *true_names(json_object *flags)
{
    g_autoptr(GString) text = g_string_new(NULL);

    json_object_object_foreach(flags, name, value)
    {
        if (json_object_get_boolean(value))
            g_string_append_printf(text, "%s%s", text->len ? ", " : "", name);
    }
    if (!text->len)
        g_string_append(text, "none");
    return g_string_free(g_steal_pointer(&text), FALSE);
}

static char *size_names(json_object *sizes)
{
    g_autoptr(GString) text = g_string_new(NULL);

    json_object_object_foreach(sizes, name, value)
    {
        g_autofree char *human = tc_human_size(json_object_get_uint64(value));

        g_string_append_printf(text, "%s%s %s", text->len ? ", " : "", name, human);
    }
    if (!text->len)
        g_string_append(text, "unknown");
    return g_string_free(g_steal_pointer(&text), FALSE);
}

static void print_export(json_object *object)
{
    json_object *contexts = tc_json_get(object, "contexts", NULL);
    uint64_t size = tc_json_number(object, "size");
    g_autofree char *human = tc_human_size(size);
    g_autofree char *bytes = g_strdup_printf("%s (%" PRIu64 " bytes)", human, size);
    g_autofree char *flags = true_names(tc_json_get(object, "flags", NULL));
    g_autofree char *sizes = size_names(tc_json_get(object, "block-size", NULL));
    g_autofree char *protocol =
        g_strdup_printf("%s, %s TLS, %s replies", tc_json_string(object, "protocol"),
                        tc_json_true(object, "tls") ? "with" : "without",
                        tc_json_true(object, "structured-replies") ? "structured" : "simple");

    if (tc_json_string(object, "export"))
        print_line("export", tc_json_string(object, "export"));
    if (tc_json_string(object, "description"))
        print_line("description", tc_json_string(object, "description"));
    print_line("size", bytes);
    print_line("flags", flags);
    print_line("block sizes", sizes);
    print_line("protocol", protocol);
    for (size_t i = 0; i < json_object_array_length(contexts); i++)
        print_line(i ? "" : "contexts",
                   json_object_get_string(json_object_array_get_idx(contexts, i)));
    if (!json_object_array_length(contexts))
        print_line("contexts", "none");
}

static int info_export(const TcInvocation *inv, const char *word)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *instead =
        g_strdup_printf("'tidemark image info %s' shows an image file", word);
    g_autofree char *uri = tc_export_uri(word, tc_option(inv, "socket"), NULL, instead, &error);
    g_autoptr(TcSource) source = uri ? tc_source_open(uri, NULL, -1, &error) : NULL;
    g_autoptr(GPtrArray) contexts = source ? tc_source_list_contexts(uri, "", &error) : NULL;
    g_autoptr(json_object) object = NULL;

    if (!contexts)
        return tc_fail(g_steal_pointer(&error));
    object = describe_export(source, contexts);
    if (tc_flag(inv, "json"))
        tc_json_print(object, stdout);
    else
        print_export(object);
    return TC_EXIT_OK;
}

static int info_list(const TcInvocation *inv, const char *uri)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) exports = tc_source_list_exports(uri, &error);
    g_autoptr(json_object) array = json_object_new_array();
    g_autoptr(TcTable) table = tc_table_new(NULL, "EXPORT|DESCRIPTION");

    if (!exports)
        return tc_fail(g_steal_pointer(&error));
    for (unsigned i = 0; i < exports->len; i++) {
        const TcExportEntry *entry = exports->pdata[i];
        json_object *object = json_object_new_object();

        add_string(object, "export", entry->name);
        add_string(object, "description", entry->description);
        json_object_array_add(array, object);
        tc_table_add(table, entry->name, entry->description);
    }
    if (tc_flag(inv, "json"))
        tc_json_print(array, stdout);
    else
        tc_table_print(table, stdout, tc_terminal_colors(stdout));
    return TC_EXIT_OK;
}

static void print_daemon(json_object *greeting, json_object *nodes, json_object *bitmaps,
                         json_object *exports, const char *path)
{
    bool colors = tc_terminal_colors(stdout);
    json_object *version = tc_json_get(greeting, "QMP", "version", "qemu", NULL);
    g_autoptr(TcTable) node_table = tc_view_node_table(nodes, "Nodes");
    g_autoptr(TcTable) export_table = tc_view_export_table(exports, "Exports");
    g_autoptr(TcTable) bitmap_table = tc_view_bitmap_table(bitmaps, "Bitmaps");
    const char *package =
        json_object_get_string(tc_json_get(greeting, "QMP", "version", "package", NULL));
    g_autofree char *clean = tc_printable(package ? package : "");

    printf("Daemon at %s: %s%sQMP of QEMU %d.%d.%d\n\n", path, clean, *clean ? ", " : "",
           (int)tc_json_number(version, "major"), (int)tc_json_number(version, "minor"),
           (int)tc_json_number(version, "micro"));
    tc_table_print(node_table, stdout, colors);
    putchar('\n');
    tc_table_print(bitmap_table, stdout, colors);
    tc_view_print_reasons(bitmaps, stdout);
    putchar('\n');
    tc_table_print(export_table, stdout, colors);
    tc_view_print_reach(exports, stdout, colors);
}

static int info_daemon(const TcInvocation *inv)
{
    g_autofree char *path = tc_qmp_socket(tc_option(inv, "socket"));
    g_autoptr(GError) error = NULL;
    g_autoptr(TcQmp) qmp = tc_qmp_open(path, &error);
    g_autoptr(json_object) nodes = qmp ? tc_view_nodes(qmp, &error) : NULL;
    g_autoptr(json_object) exports = nodes ? tc_view_exports(qmp, &error) : NULL;
    g_autoptr(json_object) bitmaps = exports ? tc_view_bitmaps(nodes, NULL, NULL, &error) : NULL;
    g_autoptr(json_object) all = json_object_new_object();
    json_object *version;

    if (!bitmaps)
        return tc_fail(g_steal_pointer(&error));
    if (!tc_flag(inv, "json")) {
        print_daemon(tc_qmp_greeting(qmp), nodes, bitmaps, exports, path);
        return TC_EXIT_OK;
    }
    version = tc_json_get(tc_qmp_greeting(qmp), "QMP", "version", NULL);
    json_object_object_add(all, "version", json_object_get(version));
    json_object_object_add(all, "nodes", json_object_get(nodes));
    json_object_object_add(all, "bitmaps", json_object_get(bitmaps));
    json_object_object_add(all, "exports", json_object_get(exports));
    tc_json_print(all, stdout);
    return TC_EXIT_OK;
}

static int run(const TcInvocation *inv)
{
    const char *uri = tc_arg(inv, 0);
    GError *error = NULL;

    if (uri && (tc_repo_is_bucket(uri) || g_file_test(uri, G_FILE_TEST_IS_DIR)))
        return tc_run_info_repository(inv);
    if (tc_arg(inv, 1))
        tm_error_set(&error, "'%s' is not a directory with a repository", uri);
    else if (uri && strstr(uri, "://") && tc_flag(inv, "socket"))
        tm_error_set(&error, "URI and --socket exclude each other");
    else if ((!uri || !strstr(uri, "://")) && tc_flag(inv, "list"))
        tm_error_set(&error, "option --list needs the URI of a server%s%s%s", uri ? ", not '" : "",
                     uri ? uri : "", uri ? "'" : "");
    if (error)
        return tc_fail_usage(inv, error);
    if (!uri)
        return info_daemon(inv);
    return tc_flag(inv, "list") ? info_list(inv, uri) : info_export(inv, uri);
}

const TcCommand tc_command_info = {
    .name = "info",
    .args = "[URI | EXPORT | REPOSITORY [POINT]]",
    .summary = "Shows a daemon, an NBD export, or a point of a repository",
    .details =
        "Without an argument, it shows the nodes, bitmaps and exports of the daemon at the QMP\n"
        "socket, with their URIs and clients. With URI, it shows an export of any NBD server: its\n"
        "size, flags, block sizes and metadata contexts. EXPORT is one of the daemon's, or its\n"
        "node. With REPOSITORY, it shows the disks of POINT: a name, a time, or latest, the\n"
        "default.\n",
    .max_args = 2,
    .options = options,
    .run = run,
};
