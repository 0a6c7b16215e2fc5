/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/complete/names.c: see names.h. */
#include "client/complete/names.h"

#include "client/daemon/daemon_view.h"
#include "client/daemon/export_view.h"
#include "client/repository/repository.h"
#include "qmp/schema/table.h"

#include <signal.h>
#include <string.h>
#include <unistd.h>

enum { PATIENCE = 3 }; /* seconds that a daemon has */

static void add(GPtrArray *names, const char *name)
{
    if (name)
        g_ptr_array_add(names, g_strdup(name));
}

/* The members @key of the objects of @array. */
static void add_members(GPtrArray *names, json_object *array, const char *key)
{
    for (size_t i = 0; array && i < json_object_array_length(array); i++)
        add(names, tc_json_string(json_object_array_get_idx(array, i), key));
}

/* ---- a daemon */

/* The first argument as a node: it is one, or the name of an export of one. */
static const char *node_of(const TcWordSources *s, json_object *nodes, json_object *exports)
{
    const char *word = s->args->len ? s->args->pdata[0] : NULL;
    json_object *export_ = word ? tc_export_find(exports, word, NULL) : NULL;

    for (size_t i = 0; word && i < json_object_array_length(nodes); i++) {
        json_object *node = json_object_array_get_idx(nodes, i);

        if (!g_strcmp0(tc_json_string(node, "node-name"), word))
            return word;
    }
    return export_ ? tc_json_string(export_, "node-name") : NULL;
}

static void add_bitmaps(const TcWordSources *s, json_object *nodes, json_object *exports,
                        GPtrArray *names)
{
    g_autoptr(json_object) of_node = tc_view_bitmaps(nodes, node_of(s, nodes, exports), NULL, NULL);
    g_autoptr(json_object) all = tc_view_bitmaps(nodes, NULL, NULL, NULL);
    bool any = of_node && json_object_array_length(of_node);

    add_members(names, any ? of_node : all, "name");
}

static void give_up(int signal)
{
    (void)signal;
    _exit(0);
}

static void add_from_daemon(const TcWordSources *s, unsigned kinds, GPtrArray *names)
{
    g_autofree char *path = tc_qmp_socket(s->socket);
    g_autoptr(TcQmp) qmp = NULL;
    g_autoptr(json_object) nodes = NULL, exports = NULL;

    signal(SIGALRM, give_up);
    alarm(PATIENCE);
    qmp = tc_qmp_open(path, NULL);
    nodes = qmp ? tc_view_nodes(qmp, NULL) : NULL;
    exports = nodes ? tc_view_exports(qmp, NULL) : NULL;
    alarm(0);
    if (!exports)
        return;
    if (kinds & TC_WORD_EXPORT)
        add_members(names, exports, "name");
    if (kinds & TC_WORD_NODE)
        add_members(names, nodes, "node-name");
    if (kinds & TC_WORD_BITMAP)
        add_bitmaps(s, nodes, exports, names);
}

/* ---- a repository */

static void add_points(const char *repository, GPtrArray *names)
{
    bool here = !tc_repo_is_bucket(repository); /* whoever completes a word does not wait */
    GDir *dir = here && tc_repo_is(repository) ? g_dir_open(repository, 0, NULL) : NULL;
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *manifest = g_build_filename(repository, name, TC_MANIFEST_NAME, NULL);

        if (g_file_test(manifest, G_FILE_TEST_EXISTS))
            add(names, name);
    }
    if (dir) {
        add(names, "latest");
        g_dir_close(dir);
    }
}

/* ---- the tables */

/* The commands, or the arguments of @command. */
static void add_qmp(const char *command, GPtrArray *names)
{
    BlkRegistry *registry = blk_registry_new(&tm_sys_kernel);
    QmpTypes *types = qmp_types_new(registry);
    g_auto(GStrv) words = qmp_table_completion(types, command);

    for (char **word = words; word && *word; word++)
        add(names, *word);
    qmp_types_free(types);
    blk_registry_free(registry);
}

static void add_events(GPtrArray *names)
{
    g_auto(GStrv) events = qmp_table_events();

    for (char **event = events; *event; event++)
        add(names, *event);
}

/* "KEY=": what it is of the command; "KEY=VALUE": nodes, where KEY is one. */
static void add_keys(const TcWordSources *s, GPtrArray *names)
{
    static const char *const keys[] = { "node", "node-name", "device", NULL };
    const char *equals = strchr(s->word, '=');
    g_autofree char *key = equals ? g_strndup(s->word, (gsize)(equals - s->word)) : NULL;
    g_autoptr(GPtrArray) nodes = g_ptr_array_new_with_free_func(g_free);

    if (!equals && s->args->len)
        add_qmp(s->args->pdata[0], names);
    if (!equals || !g_strv_contains(keys, key))
        return;
    add_from_daemon(s, TC_WORD_NODE, nodes);
    for (guint i = 0; i < nodes->len; i++)
        g_ptr_array_add(names, g_strconcat(key, "=", nodes->pdata[i], NULL));
}

void tc_word_names(const TcWordSources *s, unsigned kinds, GPtrArray *names)
{
    if (kinds & TC_WORD_FORMAT) {
        add(names, "raw");
        add(names, "qcow2");
    }
    if (kinds & (TC_WORD_EXPORT | TC_WORD_NODE | TC_WORD_BITMAP))
        add_from_daemon(s, kinds, names);
    for (guint i = 0; kinds & TC_WORD_POINT && i < s->args->len; i++)
        add_points(s->args->pdata[i], names);
    if (kinds & TC_WORD_EVENT)
        add_events(names);
    if (kinds & TC_WORD_QMP)
        add_qmp(NULL, names);
    if (kinds & TC_WORD_KEY)
        add_keys(s, names);
}
