/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp/commands/log.c: what the daemon logs: its levels, and its last messages. */
#include "qmp/commands/families.h"
#include "qmp/context.h"
#include "util/error.h"
#include "util/json.h"

#include <string.h>

static TmLog *log_of(QmpCall *call, GError **error)
{
    TmLog *log = qmp_context_log(call->ctx);

    if (!log)
        tm_error_set(error, "There is no log");
    return log;
}

/* One of @names, which the check of the arguments has found there. */
static unsigned index_of(const char *const *names, const char *name)
{
    unsigned i = 0;

    while (strcmp(names[i], name))
        i++;
    return i;
}

static bool run_set_level(QmpCall *call, GError **error)
{
    const char *area = qmp_arg_str(call->args, "area");
    TmLogLevel level = (TmLogLevel)index_of(tm_log_level_names, qmp_arg_str(call->args, "level"));
    unsigned first = area ? index_of(tm_log_area_names, area) : 0;
    TmLog *log = log_of(call, error);

    for (unsigned i = first; log && i < (area ? first + 1 : TM_LOG_AREAS); i++)
        tm_log_set_level(log, (TmLogArea)i, level);
    return log != NULL;
}

static bool run_levels(QmpCall *call, GError **error)
{
    TmLog *log = log_of(call, error);

    if (!log)
        return false;
    call->result = json_object_new_array();
    for (unsigned i = 0; i < TM_LOG_AREAS; i++) {
        json_object *info = json_object_new_object();
        uint64_t logged, dropped;

        tm_log_counts(log, (TmLogArea)i, &logged, &dropped);
        tm_json_add_string(info, "area", tm_log_area_names[i]);
        tm_json_add_string(info, "level", tm_log_level_names[tm_log_level(log, (TmLogArea)i)]);
        tm_json_add_uint(info, "logged", logged);
        tm_json_add_uint(info, "dropped", dropped);
        json_object_array_add(call->result, info);
    }
    return true;
}

static json_object *timestamp(int64_t us)
{
    json_object *time = json_object_new_object();

    json_object_object_add(time, "seconds", json_object_new_int64(us / G_USEC_PER_SEC));
    json_object_object_add(time, "microseconds", json_object_new_int64(us % G_USEC_PER_SEC));
    return time;
}

static void add_name(json_object *message, const char *key, const char *name)
{
    if (name)
        tm_json_add_string(message, key, name);
}

static json_object *describe(const TmLogEntry *entry)
{
    json_object *message = json_object_new_object();

    json_object_object_add(message, "timestamp", timestamp(entry->time));
    tm_json_add_string(message, "area", tm_log_area_names[entry->facts.area]);
    tm_json_add_string(message, "level", tm_log_level_names[entry->facts.level]);
    tm_json_add_string(message, "message", entry->text);
    add_name(message, "node-name", entry->facts.node);
    add_name(message, "export", entry->facts.export);
    add_name(message, "client", entry->facts.client);
    if (entry->facts.session)
        tm_json_add_uint(message, "session", entry->facts.session);
    return message;
}

static bool run_query(QmpCall *call, GError **error)
{
    TmLog *log = log_of(call, error);
    g_autoptr(GPtrArray) last = NULL;

    if (!log)
        return false;
    last = tm_log_last(log, (unsigned)qmp_arg_uint(call->args, "last", TM_LOG_LAST_MAX));
    call->result = json_object_new_array();
    for (guint i = 0; i < last->len; i++)
        json_object_array_add(call->result, describe(last->pdata[i]));
    return true;
}

/* ---- types ---- */

static const QmpType level_type = { .kind = QMP_KIND_ENUM,
                                    .name = "LogLevel",
                                    .values = tm_log_level_names };
static const QmpType area_type = { .kind = QMP_KIND_ENUM,
                                   .name = "LogArea",
                                   .values = tm_log_area_names };

static const QmpMember set_members[] = {
    { "level", &level_type, false, "this level, and what is worse, is logged" },
    { "area", &area_type, true, "the area (default: all areas)" },
    { NULL },
};
static const QmpType set_args = { .kind = QMP_KIND_OBJECT,
                                  .name = "q_obj_log-set-level-arg",
                                  .members = set_members };

static const QmpMember info_members[] = {
    { "area", &area_type, false, "the area" },
    { "level", &level_type, false, "this level, and what is worse, is logged" },
    { "logged", &qmp_type_uint64, false, "messages of the area that were logged" },
    { "dropped", &qmp_type_uint64, false,
      "messages that were left out because there were too many of their kind" },
    { NULL },
};
static const QmpType info_type = { .kind = QMP_KIND_OBJECT,
                                   .name = "LogLevelInfo",
                                   .members = info_members };
static const QmpType info_array = { .kind = QMP_KIND_ARRAY,
                                    .name = "array",
                                    .element = &info_type };

static const QmpMember query_members[] = {
    { "last", &qmp_type_uint32, true, "at most so many messages (default: all that are kept)" },
    { NULL },
};
static const QmpType query_args = { .kind = QMP_KIND_OBJECT,
                                    .name = "q_obj_query-log-arg",
                                    .members = query_members };

static const QmpMember time_members[] = {
    { "seconds", &qmp_type_int, false, "seconds since 1970" },
    { "microseconds", &qmp_type_int, false, "microseconds of the second" },
    { NULL },
};
static const QmpType time_type = { .kind = QMP_KIND_OBJECT,
                                   .name = "LogTimestamp",
                                   .members = time_members };
static const QmpMember message_members[] = {
    { "timestamp", &time_type, false, "the time at which it was logged" },
    { "area", &area_type, false, "the area" },
    { "level", &level_type, false, "its level" },
    { "message", &qmp_type_str, false, "one line of text" },
    { "node-name", &qmp_type_str, true, "the node that it is about" },
    { "export", &qmp_type_str, true, "id of the export that it is about" },
    { "client", &qmp_type_str, true, "address of the client that it is about" },
    { "session", &qmp_type_uint64, true, "id of the client's session" },
    { NULL },
};
static const QmpType message_type = { .kind = QMP_KIND_OBJECT,
                                      .name = "LogMessage",
                                      .members = message_members };
static const QmpType message_array = { .kind = QMP_KIND_ARRAY,
                                       .name = "array",
                                       .element = &message_type };

static const QmpCommand commands[] = {
    { "log-set-level", "change the level of an area of the log, or of all areas", &set_args,
      &qmp_type_empty, run_set_level, .example = "{'level': 'debug', 'area': 'nbd'}" },
    { "query-log-levels", "list the areas of the log with their levels", &qmp_type_empty,
      &info_array, run_levels },
    { "query-log", "show the last messages of the log, the oldest first; 500 are kept", &query_args,
      &message_array, run_query, .example = "{'last': 20}" },
    { NULL },
};

const QmpFamily qmp_family_log = { "Log", commands, NULL };
