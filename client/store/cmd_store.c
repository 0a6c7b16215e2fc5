/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/store/cmd_store.c: "tidemark bitmap list FILE" and "tidemark bitmap check FILE":
 * persistent bitmaps without a daemon. */
#include "client/commands.h"
#include "client/store/store_view.h"
#include "client/text.h"
#include <string.h>

static const TcOption check_options[] = {
    { "repair", NULL, "repair the store: what can't be trusted becomes dirty" },
    TC_DISK_OPTION,
    { "against-snapshot", "SNAP", "compare a bitmap of NODE with 'rbd diff' since that snapshot" },
    TC_SOCKET_OPTION,
    TC_JSON_OPTION,
    { 0 },
};

bool tc_names_file(const TcInvocation *inv)
{
    const char *word = tc_arg(inv, 0);

    return word && !tc_option(inv, "socket") && strpbrk(word, "/.");
}

bool tc_means_file(const TcInvocation *inv)
{
    return tc_option(inv, "disk") || tc_names_file(inv);
}

/* What was taken for a file may have been meant as a node. Takes and returns. */
static GError *with_hint(const char *word, GError *error)
{
    if (!strchr(word, '/') && !g_file_test(word, G_FILE_TEST_EXISTS))
        g_prefix_error(&error, "taken as a file (for a node, use --socket): ");
    return error;
}

int tc_run_list_file(const TcInvocation *inv)
{
    g_auto(TcStorePlace) place = { 0 };
    g_autoptr(GError) error = NULL;
    g_autoptr(json_object) store = NULL;
    g_autoptr(TcTable) table = NULL;
    const char *name = tc_arg(inv, 1);
    json_object *problems;

    if (!tc_arg(inv, 0) || tc_option(inv, "socket")) {
        tm_error_set(&error, tc_arg(inv, 0) ? "--disk and --socket exclude each other"
                                            : "--disk needs FILE, the store of that disk");
        return tc_fail_usage(inv, g_steal_pointer(&error));
    }
    if (tc_store_find(&tm_sys_kernel, tc_arg(inv, 0), tc_option(inv, "disk"), &place, &error))
        store = tc_store_describe(&tm_sys_kernel, &place, &error);
    if (!store || (name && !tc_store_only(store, name, &error)))
        return tc_fail(with_hint(tc_arg(inv, 0), g_steal_pointer(&error)));
    if (tc_flag(inv, "json")) {
        tc_json_print(store, stdout);
        return TC_EXIT_OK;
    }
    tc_store_print_head(store, stdout);
    putchar('\n');
    table = tc_store_table(store);
    tc_table_print(table, stdout, tc_terminal_colors(stdout));
    tc_store_print_reasons(store, stdout);
    problems = tc_json_get(store, "problems", NULL);
    if (json_object_array_length(problems))
        printf("\n%zu problem%s: 'tidemark bitmap check' explains.\n",
               json_object_array_length(problems),
               json_object_array_length(problems) > 1 ? "s" : "");
    return TC_EXIT_OK;
}

/* Why @place must not be repaired; false without *error: there is no need. */
static bool may_repair(const TcStorePlace *place, json_object *store, GError **error)
{
    const char *state = tc_json_string(store, "state");

    if (!strcmp(state, "in-use"))
        return tm_error_set(
            error, "'%s' is in use by a daemon and can't be repaired: stop the daemon first",
            place->store);
    if (!strcmp(state, "of-the-past"))
        return tm_error_set(
            error,
            "'%s' is obsolete and can't be repaired: it is removed when the image is "
            "next opened for writing",
            place->store);
    if (place->guessed)
        return tm_error_set(error,
                            "'%s' begins like a store, but may be a disk with such content: if it "
                            "is a store, use --disk to name its disk",
                            place->store);
    if (!strcmp(state, "missing"))
        return tm_error_set(error,
                            "there is no '%s' to repair: the next persistent bitmap creates it",
                            place->store);
    return place->exists && (strcmp(state, "closed") || tc_store_bad(store));
}

/* What was found before a repair and what there is now. */
static int report_repair(const TcInvocation *inv, json_object *before, json_object *after)
{
    bool colors = tc_terminal_colors(stdout);
    int status = tc_store_bad(after) ? TC_EXIT_PROBLEMS : TC_EXIT_OK;
    g_autoptr(TcTable) table = tc_store_table(after);

    if (tc_flag(inv, "json")) {
        json_object_object_add(after, "before", json_object_get(before));
        tc_json_print(after, stdout);
        return status;
    }
    tc_store_print_head(before, stdout);
    tc_store_print_verdict(before, stdout, colors);
    printf("\n%sRepaired%s\n", colors ? "\033[1;32m" : "", colors ? "\033[0m" : "");
    if (!strcmp(tc_json_string(after, "state"), "closed"))
        tc_print_wrapped(stdout, 2, 4,
                         "The store was written anew with what could be saved, and closed. What "
                         "is not known counts as dirty.");
    else
        tc_print_wrapped(
            stdout, 2, 4,
            "No bitmap could be saved, so the store was removed. The disk itself is not "
            "affected: start again with a full copy.");
    putchar('\n');
    tc_table_print(table, stdout, colors);
    return status;
}

static int report(const TcInvocation *inv, json_object *store)
{
    if (tc_flag(inv, "json")) {
        tc_json_print(store, stdout);
    } else {
        tc_store_print_head(store, stdout);
        tc_store_print_verdict(store, stdout, tc_terminal_colors(stdout));
    }
    return tc_store_bad(store) ? TC_EXIT_PROBLEMS : TC_EXIT_OK;
}

/* The options that are of the other kind of check. */
static bool check_options_fit(const TcInvocation *inv, GError **error)
{
    bool snapshot = tc_flag(inv, "against-snapshot");

    if (snapshot && (tc_flag(inv, "repair") || tc_flag(inv, "disk")))
        return tm_error_set(error, "--against-snapshot excludes --repair and --disk");
    if (!snapshot && (tc_arg(inv, 1) || tc_flag(inv, "socket")))
        return tm_error_set(error, "--socket and NAME need --against-snapshot");
    return true;
}

static int run_check(const TcInvocation *inv)
{
    g_auto(TcStorePlace) place = { 0 };
    g_autoptr(GError) error = NULL;
    g_autoptr(json_object) store = NULL, after = NULL;

    if (!check_options_fit(inv, &error))
        return tc_fail_usage(inv, g_steal_pointer(&error));
    if (tc_flag(inv, "against-snapshot"))
        return tc_run_check_snapshot(inv);
    if (tc_store_find(&tm_sys_kernel, tc_arg(inv, 0), tc_option(inv, "disk"), &place, &error))
        store = tc_store_describe(&tm_sys_kernel, &place, &error);
    if (!store)
        return tc_fail(g_steal_pointer(&error));
    if (tc_flag(inv, "repair") && may_repair(&place, store, &error)) {
        if (tc_store_repair(&tm_sys_kernel, &place, &error))
            after = tc_store_describe(&tm_sys_kernel, &place, &error);
        if (after)
            return report_repair(inv, store, after);
    }
    return error ? tc_fail(g_steal_pointer(&error)) : report(inv, store);
}

const TcCommand tc_command_bitmap_check = {
    .name = "check",
    .args = "FILE|NODE [NAME]",
    .summary = "Checks the persistent bitmaps of a disk, or a bitmap of an RBD image",
    .details =
        "FILE is an image, whose store is FILE.bitmaps, or a store. The check shows what\n"
        "is wrong, and what that means for the next copy. A daemon also opens a damaged\n"
        "store: a repair is not required.\n"
        "\n"
        "With --against-snapshot, the bitmap NAME of NODE is compared with what the cluster\n"
        "shows since the snapshot. The bitmap must have begun at the snapshot or before.\n"
        "\n"
        "Exit status:\n"
        "  0  there are no problems, or all were repaired\n"
        "  1  the check or the repair failed\n"
        "  2  the command line is wrong\n"
        "  3  there are problems\n",
    .min_args = 1,
    .max_args = 2,
    .options = check_options,
    .run = run_check,
};
