/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/daemon/cmd_events.c: "tidemark events": what a daemon reports, as it happens. */
#include "client/commands.h"
#include "client/daemon/schema.h"
#include "client/text.h"
#include "util/log.h"

static const TcOption options[] = {
    TC_SOCKET_OPTION,
    { "json", NULL, "print the events as the daemon sends them, a line each" },
    { 0 },
};

/* "2026-11-28 13:00:01.123", local. Returned. */
static char *time_of(json_object *event)
{
    json_object *stamp = tc_json_get(event, "timestamp", NULL);
    uint64_t seconds = tc_json_number(stamp, "seconds");
    g_autoptr(GDateTime) time = g_date_time_new_from_unix_local((gint64)seconds);
    g_autofree char *text = time ? g_date_time_format(time, "%F %T") : g_strdup("-");

    return g_strdup_printf("%s.%03u", text,
                           (unsigned)(tc_json_number(stamp, "microseconds") / 1000 % 1000));
}

/* " key=value ..."; what is in objects as "key.inner=value". */
static void append_data(GString *line, const char *prefix, json_object *data)
{
    if (!json_object_is_type(data, json_type_object))
        return;
    json_object_object_foreach(data, key, value)
    {
        g_autofree char *name = g_strconcat(prefix, key, NULL), *below = NULL;

        if (json_object_is_type(value, json_type_object)) {
            below = g_strconcat(name, ".", NULL);
            append_data(line, below, value);
        } else {
            g_string_append_printf(line, "  %s=%s", name,
                                   value ? json_object_get_string(value) : "null");
        }
    }
}

static void print_event(json_object *event, const char *name)
{
    g_autofree char *time = time_of(event), *clean = NULL;
    g_autoptr(GString) line = g_string_new(NULL);

    g_string_append_printf(line, "%s  %s", time, name);
    append_data(line, "", tc_json_get(event, "data", NULL));
    clean = tc_printable(line->str);
    puts(clean);
}

static bool wanted(const TcInvocation *inv, const char *name)
{
    return !tc_arg(inv, 0) || g_strv_contains((const char *const *)inv->args->pdata, name);
}

/* That each name is an event of the server, as otherwise nothing would ever be shown. */
static bool check(const TcInvocation *inv, TcQmp *qmp, GError **error)
{
    g_autoptr(TcSchema) schema = tc_arg(inv, 0) ? tc_schema_fetch(qmp) : NULL;

    for (unsigned i = 0; schema && tc_arg(inv, i); i++) {
        const char *name = tc_arg(inv, i), *closest = tc_schema_closest(schema, "event", name);

        if (g_strcmp0(closest, name))
            return tm_error_set(error, "no event '%s'%s%s%s", name,
                                closest ? ": did you mean '" : "", closest ? closest : "",
                                closest ? "'?" : "");
    }
    return true;
}

static int run(const TcInvocation *inv)
{
    g_autofree char *path = tc_qmp_socket(tc_option(inv, "socket"));
    g_autoptr(GError) error = NULL;
    g_autoptr(TcQmp) qmp = tc_qmp_open(path, &error);

    if (qmp)
        check(inv, qmp, &error);
    while (!error) {
        g_autoptr(json_object) event = tc_qmp_event(qmp, &error);
        const char *name = tc_json_string(event, "event");

        if (!name || !wanted(inv, name))
            continue;
        if (tc_flag(inv, "json"))
            puts(json_object_to_json_string_ext(event, JSON_C_TO_STRING_PLAIN |
                                                           JSON_C_TO_STRING_NOSLASHESCAPE));
        else
            print_event(event, name);
        if (fflush(stdout))
            return TC_EXIT_FAILED; /* main() says why */
    }
    return tc_fail(g_steal_pointer(&error));
}

const TcCommand tc_command_events = {
    .name = "events",
    .args = "[EVENT...]",
    .summary = "Shows the events of a daemon as they happen",
    .details = "It shows all events, or those named, until the daemon ends or it is interrupted.\n"
               "For example:\n"
               "  tidemark events NBD_CLIENT_CONNECTED NBD_CLIENT_DISCONNECTED\n",
    .max_args = -1,
    .options = options,
    .run = run,
};
