/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/daemon/cmd_qmp.c: "tidemark qmp": one QMP command, its arguments typed by the server's
 * schema. */
#include "client/commands.h"
#include "client/daemon/arguments.h"
#include "client/text.h"
#include "qmp/schema/table.h"
#include "util/text.h"
#include <string.h>

static const TcOption options[] = {
    TC_SOCKET_OPTION,
    { 0 },
};

/* ---- from the tables that the daemon of this version has, without it ---- */

static void print_lines(const char *text)
{
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);

    for (char **line = lines; line[0] && line[1]; line++) {
        unsigned indent = (unsigned)strspn(*line, " ");

        if (**line)
            tc_print_wrapped(stdout, indent, indent, *line + indent);
        else
            putchar('\n');
    }
}

static bool unknown_command(const QmpTypes *types, const char *name, GError **error)
{
    g_auto(GStrv) names = qmp_table_completion(types, NULL);
    const char *closest = tm_text_nearest(name, (const char *const *)names);

    return tm_error_set(error, "unknown QMP command '%s'%s%s%s", name,
                        closest ? ": did you mean '" : "", closest ? closest : "",
                        closest ? "'?" : "");
}

static bool describe(const QmpTypes *types, const char *command, GError **error)
{
    g_autofree char *text = qmp_table_help(types, command);

    if (!text)
        return unknown_command(types, command, error);
    print_lines(text);
    return true;
}

/* Shows what is known of the first argument. */
static bool describe_ours(const TcInvocation *inv, GError **error)
{
    BlkRegistry *registry = blk_registry_new(&tm_sys_kernel);
    QmpTypes *types = qmp_types_new(registry);
    bool ok = describe(types, tc_arg(inv, 0), error);

    qmp_types_free(types);
    blk_registry_free(registry);
    return ok;
}

/* ---- with a daemon ---- */

/* What another program's schema says of a command that is none of ours; false: nothing. */
static bool describe_theirs(const TcInvocation *inv)
{
    g_autofree char *path = tc_qmp_socket(tc_option(inv, "socket")), *text = NULL;
    g_autoptr(TcQmp) qmp = tc_qmp_open(path, NULL);
    g_autoptr(TcSchema) schema = qmp ? tc_schema_fetch(qmp) : NULL;

    text = schema ? tc_schema_help(schema, tc_arg(inv, 0)) : NULL;
    if (text)
        print_lines(text);
    return text != NULL;
}

static int help(const TcInvocation *inv)
{
    g_autofree char *list = qmp_table_list();
    g_autoptr(GError) error = NULL;

    if (tc_arg(inv, 0))
        return describe_ours(inv, &error) || describe_theirs(inv)
                   ? TC_EXIT_OK
                   : tc_fail_usage(inv, g_steal_pointer(&error));
    tc_cli_help(inv, stdout);
    fputs(list, stdout);
    return TC_EXIT_OK;
}

static bool all_json(const char *const *words)
{
    for (; *words; words++) {
        const char *equals = strchr(*words, '=');

        if (!equals || equals == *words || equals[-1] != ':')
            return false;
    }
    return true;
}

/* Puts "COMMAND: CLASS: " before the message, and perhaps a better name after it. */
static void explain(TcQmp *qmp, const char *command, GError **error)
{
    bool unknown = g_error_matches(*error, TM_ERROR, TM_ERROR_COMMAND_NOT_FOUND);
    g_autoptr(TcSchema) schema = unknown ? tc_schema_fetch(qmp) : NULL;
    const char *closest = schema ? tc_schema_closest(schema, "command", command) : NULL;
    g_autoptr(GError) old = g_steal_pointer(error);

    tm_error_set(error, "%s: %s: %s%s%s%s", command, tm_error_class_name(old), old->message,
                 closest ? " (did you mean '" : "", closest ? closest : "", closest ? "'?)" : "");
}

static int missing_command(const TcInvocation *inv)
{
    GError *error = NULL;

    tm_error_set(&error, "missing argument: usage is '%s %s'", inv->path, inv->command->args);
    return tc_fail_usage(inv, error);
}

static int run(const TcInvocation *inv)
{
    const char *command = tc_arg(inv, 0);
    const char *const *words = (const char *const *)&inv->args->pdata[1];
    g_autofree char *path = NULL;
    g_autoptr(GError) error = NULL;
    g_autoptr(TcQmp) qmp = NULL;
    g_autoptr(TcSchema) schema = NULL;
    g_autoptr(json_object) arguments = NULL, result = NULL;

    if (!command)
        return missing_command(inv);
    path = tc_qmp_socket(tc_option(inv, "socket"));
    qmp = tc_qmp_open(path, &error);
    if (!qmp)
        return tc_fail(g_steal_pointer(&error));
    if (!all_json(words))
        schema = tc_schema_fetch(qmp);
    arguments = tc_arguments_build(schema, command, words, &error);
    if (!arguments)
        return tc_fail_usage(inv, g_steal_pointer(&error));
    result = tc_qmp_execute(qmp, command, arguments, &error);
    if (!result) {
        explain(qmp, command, &error);
        return tc_fail(g_steal_pointer(&error));
    }
    tc_json_print(result, stdout);
    return TC_EXIT_OK;
}

const TcCommand tc_command_qmp = {
    .name = "qmp",
    .args = "COMMAND [KEY=VALUE | KEY:=JSON]...",
    .summary = "Sends a QMP command and prints its result",
    .details =
        "VALUE is sent with the type that KEY has in the schema of the daemon. A KEY with dots\n"
        "names a member of an object (addr.type) or, by number, an element of an array\n"
        "(bitmaps.0). KEY:=JSON sends JSON unchanged. For example:\n"
        "  tidemark qmp block-dirty-bitmap-add node=disk0 name=b0 granularity=64k\n"
        "  tidemark qmp block-export-add id=e0 type=nbd node-name=disk0 bitmaps=b0 writable=on\n"
        "'tidemark qmp COMMAND --help' shows the arguments of a command, without a daemon.\n",
    .min_args = 0,
    .max_args = -1,
    .options = options,
    .run = run,
    .help = help,
};
