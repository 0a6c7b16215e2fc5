/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* daemon/settings.c: what query-configuration says of the process: the options that are no commands
 * of QMP, the log's levels as they are now, and the monitors. */
#include "daemon/daemon.h"

#include "qmp/keyval.h"
#include "util/json.h"

#include <string.h>

/* As --log-level takes it: the level of most, then the areas that have another one. NULL: the
 * default, and nothing else. Returned. */
static char *log_levels(const TmLog *log)
{
    unsigned count[TM_LOG_LEVELS] = { 0 };
    TmLogLevel most = TM_LOG_INFO;
    GString *text;

    for (int area = 0; area < TM_LOG_AREAS; area++)
        count[tm_log_level(log, (TmLogArea)area)]++;
    for (int level = 0; level < TM_LOG_LEVELS; level++) {
        if (count[level] > count[most])
            most = (TmLogLevel)level;
    }
    if (count[TM_LOG_INFO] == TM_LOG_AREAS)
        return NULL;
    text = g_string_new(tm_log_level_names[most]);
    for (int area = 0; area < TM_LOG_AREAS; area++) {
        TmLogLevel level = tm_log_level(log, (TmLogArea)area);

        if (level != most)
            g_string_append_printf(text, ",%s=%s", tm_log_area_names[area],
                                   tm_log_level_names[level]);
    }
    return g_string_free(text, FALSE);
}

static void append(json_object *settings, const char *list, const char *value)
{
    json_object *array;

    if (!json_object_object_get_ex(settings, list, &array)) {
        array = json_object_new_array();
        json_object_object_add(settings, list, array);
    }
    json_object_array_add(array, json_object_new_string(value));
}

/* Of several the last one holds, as it does for the process. */
static void add(json_object *settings, const CmdOption *option)
{
    switch (option->kind) {
    case CMD_IO_ENGINE:
    case CMD_USER:
    case CMD_PIDFILE:
        tm_json_add_string(settings, option->name, option->value);
        break;
    case CMD_MODULE:
        append(settings, "modules", option->value);
        break;
    case CMD_MODULE_DIR:
        append(settings, "module-dirs", option->value);
        break;
    case CMD_DAEMONIZE:
        tm_json_add_bool(settings, option->name, true);
        break;
    case CMD_SANDBOX:
        json_object_object_add(
            settings, option->name,
            qmp_option_parse(NULL, &qmp_type_sandbox, option->value, "mode", NULL));
        break;
    default:
        break;
    }
}

json_object *daemon_settings(void *daemon)
{
    const Daemon *d = daemon;
    json_object *settings = json_object_new_object();
    g_autofree char *levels = log_levels(d->log);

    if (levels)
        tm_json_add_string(settings, "log-level", levels);
    for (guint i = 0; i < d->options->len; i++)
        add(settings, &g_array_index(d->options, CmdOption, i));
    json_object_object_add(settings, "monitors", json_object_get(d->monitors_given));
    return settings;
}
