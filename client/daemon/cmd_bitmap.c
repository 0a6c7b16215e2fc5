/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/daemon/cmd_bitmap.c: "tidemark bitmap": the dirty bitmaps of a daemon's nodes. What works
 * on files is in cmd_store.c. */
#include "client/commands.h"
#include "client/daemon/daemon_view.h"
#include "client/text.h"
#include "util/range.h"

static const TcOption plain_options[] = { TC_SOCKET_OPTION, { 0 } };
static const TcOption list_options[] = { TC_SOCKET_OPTION, TC_DISK_OPTION, TC_JSON_OPTION, { 0 } };
static const TcOption add_options[] = {
    TC_SOCKET_OPTION,
    { "granularity", "SIZE", "bytes that one bit stands for, a power of two from 512 to 2G" },
    { "disabled", NULL, "don't record writes yet" },
    { "persistent", NULL, "store it in a file beside the disk; it survives restarts and crashes" },
    { 0 },
};
static const TcOption merge_options[] = {
    TC_SOCKET_OPTION,
    { "from", "NODE", "the node of the sources (default: the node of the bitmap)" },
    { 0 },
};

static TcQmp *open_daemon(const TcInvocation *inv, GError **error)
{
    g_autofree char *path = tc_qmp_socket(tc_option(inv, "socket"));

    return tc_qmp_open(path, error);
}

static void set_string(json_object *object, const char *key, const char *value)
{
    json_object_object_add(object, key, json_object_new_string(value));
}

/* Runs @command with @arguments, silently if it succeeds. */
static int execute(const TcInvocation *inv, const char *command, json_object *arguments)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(TcQmp) qmp = open_daemon(inv, &error);
    g_autoptr(json_object) result = qmp ? tc_qmp_execute(qmp, command, arguments, &error) : NULL;

    return result ? TC_EXIT_OK : tc_fail(g_steal_pointer(&error));
}

/* {"node": NODE, "name": NAME} of the first two arguments. */
static json_object *node_and_name(const TcInvocation *inv, const char *name_key)
{
    json_object *arguments = json_object_new_object();

    set_string(arguments, "node", tc_arg(inv, 0));
    set_string(arguments, name_key, tc_arg(inv, 1));
    return arguments;
}

static int run_add(const TcInvocation *inv)
{
    g_autoptr(json_object) arguments = node_and_name(inv, "name");
    g_autoptr(GError) error = NULL;
    uint64_t granularity = 0;

    if (!tc_option_number(inv, "granularity", 512, UINT64_C(2) << 30, &granularity, &error))
        return tc_fail_usage(inv, g_steal_pointer(&error));
    if (granularity && !tm_is_pow2(granularity)) {
        tm_error_set(&error, "option --granularity: '%s' is not a power of two from 512 to 2G",
                     tc_option(inv, "granularity"));
        return tc_fail_usage(inv, g_steal_pointer(&error));
    }
    if (granularity)
        json_object_object_add(arguments, "granularity", json_object_new_uint64(granularity));
    if (tc_flag(inv, "disabled"))
        json_object_object_add(arguments, "disabled", json_object_new_boolean(true));
    if (tc_flag(inv, "persistent"))
        json_object_object_add(arguments, "persistent", json_object_new_boolean(true));
    return execute(inv, "block-dirty-bitmap-add", arguments);
}

static int run_remove(const TcInvocation *inv)
{
    g_autoptr(json_object) arguments = node_and_name(inv, "name");

    return execute(inv, "block-dirty-bitmap-remove", arguments);
}

static int run_clear(const TcInvocation *inv)
{
    g_autoptr(json_object) arguments = node_and_name(inv, "name");

    return execute(inv, "block-dirty-bitmap-clear", arguments);
}

static int run_enable(const TcInvocation *inv)
{
    g_autoptr(json_object) arguments = node_and_name(inv, "name");

    return execute(inv, "block-dirty-bitmap-enable", arguments);
}

static int run_disable(const TcInvocation *inv)
{
    g_autoptr(json_object) arguments = node_and_name(inv, "name");

    return execute(inv, "block-dirty-bitmap-disable", arguments);
}

static int run_merge(const TcInvocation *inv)
{
    g_autoptr(json_object) arguments = node_and_name(inv, "target");
    json_object *sources = json_object_new_array();
    const char *from = tc_option(inv, "from"), *name;

    json_object_object_add(arguments, "bitmaps", sources);
    for (unsigned i = 2; (name = tc_arg(inv, i)); i++) {
        json_object *source = json_object_new_string(name);

        if (from) {
            json_object_put(source);
            source = json_object_new_object();
            set_string(source, "node", from);
            set_string(source, "name", name);
        }
        json_object_array_add(sources, source);
    }
    return execute(inv, "block-dirty-bitmap-merge", arguments);
}

/* Who asks for a node that isn't there may have meant a file of that name. Takes and returns. */
static GError *with_hint(const TcInvocation *inv, GError *error)
{
    const char *word = tc_arg(inv, 0);

    if (word && g_file_test(word, G_FILE_TEST_EXISTS))
        g_prefix_error(&error, "'%s' is taken as a node (the file is './%s'): ", word, word);
    return error;
}

static int list_nodes(const TcInvocation *inv)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(TcQmp) qmp = open_daemon(inv, &error);
    g_autoptr(json_object) nodes = qmp ? tc_view_nodes(qmp, &error) : NULL;
    g_autoptr(json_object) bitmaps =
        nodes ? tc_view_bitmaps(nodes, tc_arg(inv, 0), tc_arg(inv, 1), &error) : NULL;
    g_autoptr(TcTable) table = NULL;

    if (!bitmaps)
        return tc_fail(with_hint(inv, g_steal_pointer(&error)));
    if (tc_flag(inv, "json")) {
        tc_json_print(bitmaps, stdout);
        return TC_EXIT_OK;
    }
    table = tc_view_bitmap_table(bitmaps, NULL);
    tc_table_print(table, stdout, tc_terminal_colors(stdout));
    tc_view_print_reasons(bitmaps, stdout);
    return TC_EXIT_OK;
}

static int run_list(const TcInvocation *inv)
{
    return tc_means_file(inv) ? tc_run_list_file(inv) : list_nodes(inv);
}

static const TcCommand add = {
    .name = "add",
    .args = "NODE NAME",
    .summary = "Adds a bitmap, which records what is written from now on",
    .min_args = 2,
    .max_args = 2,
    .options = add_options,
    .run = run_add,
};
static const TcCommand remove_bitmap = {
    .name = "remove",
    .args = "NODE NAME",
    .summary = "Removes a bitmap",
    .min_args = 2,
    .max_args = 2,
    .options = plain_options,
    .run = run_remove,
};
static const TcCommand clear = {
    .name = "clear",
    .args = "NODE NAME",
    .summary = "Clears all bits of a bitmap",
    .min_args = 2,
    .max_args = 2,
    .options = plain_options,
    .run = run_clear,
};
static const TcCommand enable = {
    .name = "enable",
    .args = "NODE NAME",
    .summary = "Starts recording writes in a bitmap",
    .min_args = 2,
    .max_args = 2,
    .options = plain_options,
    .run = run_enable,
};
static const TcCommand disable = {
    .name = "disable",
    .args = "NODE NAME",
    .summary = "Stops recording writes in a bitmap",
    .min_args = 2,
    .max_args = 2,
    .options = plain_options,
    .run = run_disable,
};
static const TcCommand merge = {
    .name = "merge",
    .args = "NODE NAME SOURCE...",
    .summary = "Adds what is dirty in other bitmaps to a bitmap",
    .min_args = 3,
    .max_args = -1,
    .options = merge_options,
    .run = run_merge,
};
static const TcCommand list = {
    .name = "list",
    .args = "[NODE|FILE [NAME]]",
    .summary = "Lists bitmaps, and how much is dirty in each",
    .details =
        "Without an argument, it lists the bitmaps of all nodes of the daemon. An argument\n"
        "with a slash or a dot is a FILE, unless --socket is given: an image or its store,\n"
        "whose persistent bitmaps are listed without a daemon. Write './NAME' for a file in\n"
        "the current directory.\n",
    .max_args = 2,
    .options = list_options,
    .run = run_list,
};
static const TcCommand *const subcommands[] = {
    &add,
    &remove_bitmap,
    &clear,
    &enable,
    &disable,
    &merge,
    &tc_command_bitmap_rotate,
    &tc_command_bitmap_offer,
    &tc_command_bitmap_withdraw,
    &tc_command_bitmap_export,
    &tc_command_bitmap_import,
    &list,
    &tc_command_bitmap_check,
    NULL,
};

const TcCommand tc_command_bitmap = {
    .name = "bitmap",
    .args = "",
    .summary = "Manages and lists dirty bitmaps of a daemon or a file",
    .subcommands = subcommands,
};
