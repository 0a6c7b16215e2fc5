/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* metrics/events.c: what has happened since the daemon began, counted from the events of QMP: how
 * often, and when a backup succeeded last.
 *
 * Only events of this list are counted, each from 0 on, so that a first one is seen as a rise. */
#include "metrics/metrics_internal.h"

#include <glib.h>
#include <string.h>

static const char *const names[] = {
    "BACKUP_ABORTED",          "BACKUP_ENDED",        "BITMAP_DEGRADED",
    "BITMAP_HEALED",           "BLOCK_IO_ERROR",      "BLOCK_JOB_ERROR",
    "BLOCK_IMAGE_CORRUPTED",   "BLOCK_JOB_COMPLETED", "NBD_CLIENT_CONNECTED",
    "NBD_CLIENT_DISCONNECTED",
};

struct MetricsEvents {
    uint64_t count[G_N_ELEMENTS(names)];
    uint64_t jobs_failed;
    int64_t backup; /* us since 1970; 0: none */
};

MetricsEvents *metrics_events_new(void)
{
    return g_new0(MetricsEvents, 1);
}

void metrics_events_free(MetricsEvents *events)
{
    g_free(events);
}

static bool says(json_object *data, const char *member, const char *value)
{
    json_object *found = NULL;

    return json_object_object_get_ex(data, member, &found) &&
           !strcmp(json_object_get_string(found), value);
}

void metrics_events_take(MetricsEvents *events, json_object *event)
{
    const char *name = json_object_get_string(json_object_object_get(event, "event"));
    json_object *data = json_object_object_get(event, "data");
    bool failed = json_object_object_get_ex(data, "error", NULL);

    for (size_t i = 0; i < G_N_ELEMENTS(names); i++)
        events->count[i] += !strcmp(names[i], name);
    if (!strcmp(name, "BLOCK_JOB_COMPLETED") && failed)
        events->jobs_failed++;
    if ((!strcmp(name, "BACKUP_ENDED") && says(data, "success", "true")) ||
        (!strcmp(name, "BLOCK_JOB_COMPLETED") && says(data, "type", "backup") && !failed))
        events->backup = g_get_real_time();
}

json_object *metrics_events_rows(const MetricsEvents *events)
{
    json_object *rows = json_object_new_array();

    for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
        json_object *row = json_object_new_object();

        tm_json_add_string(row, "event", names[i]);
        tm_json_add_uint(row, "count", events->count[i]);
        json_object_array_add(rows, row);
    }
    return rows;
}

void metrics_events_last(const MetricsEvents *events, json_object *row)
{
    tm_json_add_uint(row, "jobs-failed", events->jobs_failed);
    if (events->backup)
        json_object_object_add(row, "last-backup",
                               json_object_new_double((double)events->backup / G_USEC_PER_SEC));
}
