/* client/cmd_qmp.c: "tidemark qmp": one QMP command, its arguments typed by the server's schema. */
#include "client/arguments.h"
#include "client/commands.h"
#include <string.h>

static const TcOption options[] = {
    TC_SOCKET_OPTION,
    { 0 },
};

/* The schema; NULL if the server can't tell it, which is no reason not to try the command. */
static TcSchema *fetch_schema(TcQmp *qmp)
{
    g_autoptr(json_object) array = tc_qmp_execute(qmp, "query-qmp-schema", NULL, NULL);

    return array ? tc_schema_new(array) : NULL;
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

/* Puts "COMMAND: CLASS: " before the message, and perhaps a better name behind it. */
static void explain(TcQmp *qmp, const char *command, GError **error)
{
    bool unknown = g_error_matches(*error, TM_ERROR, TM_ERROR_COMMAND_NOT_FOUND);
    g_autoptr(TcSchema) schema = unknown ? fetch_schema(qmp) : NULL;
    const char *closest = schema ? tc_schema_closest(schema, command) : NULL;
    g_autoptr(GError) old = g_steal_pointer(error);

    tm_error_set(error, "%s: %s: %s%s%s%s", command, tm_error_class_name(old), old->message,
                 closest ? " (did you mean '" : "", closest ? closest : "", closest ? "'?)" : "");
}

static int run(const TcInvocation *inv)
{
    const char *command = tc_arg(inv, 0);
    const char *const *words = (const char *const *)&inv->args->pdata[1];
    g_autofree char *path = tc_qmp_socket(tc_option(inv, "socket"));
    g_autoptr(GError) error = NULL;
    g_autoptr(TcQmp) qmp = tc_qmp_open(path, &error);
    g_autoptr(TcSchema) schema = NULL;
    g_autoptr(json_object) arguments = NULL, result = NULL;

    if (!qmp)
        return tc_fail(g_steal_pointer(&error));
    if (!all_json(words))
        schema = fetch_schema(qmp);
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
        "A VALUE takes the type that the server's schema gives its KEY; dots step into objects\n"
        "and, by number, into arrays. KEY:=JSON is sent as it is. For example:\n"
        "  tidemark qmp block-dirty-bitmap-add node=disk0 name=b0 granularity=64k\n"
        "  tidemark qmp block-export-add id=e0 type=nbd node-name=disk0 bitmaps=b0 writable=on\n",
    .min_args = 1,
    .max_args = -1,
    .options = options,
    .run = run,
};
