/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/daemon/cmd_sessions.c: "tidemark sessions": the NBD clients of a daemon. */
#include "client/commands.h"
#include "client/daemon/qmp_client.h"
#include "client/table.h"
#include "client/text.h"

#include <inttypes.h>

static const TcOption options[] = {
    TC_SOCKET_OPTION,
    TC_JSON_OPTION,
    { 0 },
};

static char *count(json_object *session, const char *member)
{
    return g_strdup_printf("%" PRIu64, tc_json_number(session, member));
}

static void add_row(TcTable *table, json_object *session)
{
    g_autofree char *id = count(session, "id");
    g_autofree char *got = tc_human_size(tc_json_number(session, "bytes-read"));
    g_autofree char *put = tc_human_size(tc_json_number(session, "bytes-written"));
    g_autofree char *errors = count(session, "errors");
    g_autofree char *age = tc_clock((double)tc_json_number(session, "age"));
    g_autofree char *idle = tc_clock((double)tc_json_number(session, "idle"));
    const char *export = tc_json_string(session, "export");

    tc_table_add(table, id, tc_json_string(session, "server"), tc_json_string(session, "peer"),
                 tc_json_string(session, "identity"), export,
                 !export                             ? NULL
                 : tc_json_true(session, "writable") ? "rw"
                                                     : "ro",
                 got, put, errors, age, idle);
}

static int run(const TcInvocation *inv)
{
    g_autofree char *path = tc_qmp_socket(tc_option(inv, "socket"));
    g_autoptr(GError) error = NULL;
    g_autoptr(TcQmp) qmp = tc_qmp_open(path, &error);
    g_autoptr(json_object) sessions =
        qmp ? tc_qmp_execute(qmp, "query-nbd-sessions", NULL, &error) : NULL;
    g_autoptr(TcTable) table = tc_table_new(
        NULL, ">ID|SERVER|PEER|IDENTITY|EXPORT|MODE|>READ|>WRITTEN|>ERRORS|>AGE|>IDLE");

    if (!sessions)
        return tc_fail(g_steal_pointer(&error));
    if (tc_flag(inv, "json")) {
        tc_json_print(sessions, stdout);
        return TC_EXIT_OK;
    }
    for (size_t i = 0;
         json_object_is_type(sessions, json_type_array) && i < json_object_array_length(sessions);
         i++)
        add_row(table, json_object_array_get_idx(sessions, i));
    tc_table_print(table, stdout, tc_terminal_colors(stdout));
    return TC_EXIT_OK;
}

const TcCommand tc_command_sessions = {
    .name = "sessions",
    .args = "",
    .summary = "Shows the NBD clients of a daemon",
    .details = "Disconnect one with 'tidemark qmp nbd-session-disconnect id=ID'.\n",
    .options = options,
    .run = run,
};
