/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* metrics/figures.c: the answers of QMP's queries as lists of flat rows, from which both the
 * OpenMetrics text and the page are made.
 *
 * Lists are bounded (METRICS_ROWS_MAX); how many rows were left out is a figure, too. Nodes that
 * the daemon named itself are left out: each has a name that none had before. */
#include "metrics/metrics_internal.h"

#include <string.h>
#include <tidemark-version.h>

typedef struct Gathering {
    const MetricsSource *source;
    json_object *all;
    json_object *disks; /* the names of exports' nodes, by the ids of exports */
    uint64_t omitted;
} Gathering;

/* ---- JSON; absent: NULL, "", 0 */

static json_object *member(json_object *object, const char *name)
{
    json_object *value = NULL;

    json_object_object_get_ex(object, name, &value);
    return value;
}

static const char *text(json_object *object, const char *name)
{
    json_object *value = member(object, name);

    return value ? json_object_get_string(value) : "";
}

static uint64_t number(json_object *object, const char *name)
{
    return json_object_get_uint64(member(object, name));
}

static size_t length(json_object *array)
{
    return json_object_is_type(array, json_type_array) ? json_object_array_length(array) : 0;
}

/* ---- rows */

/* What of an answer stands in a row, under which name. */
typedef struct Field {
    const char *name;
    enum { TEXT, NUMBER, NUMBER_IF_THERE } kind; /* a boolean is the number 0 or 1 */
    const char *from;                            /* the member's name; NULL: the same */
} Field;

static void copy_field(json_object *row, const Field *field, json_object *one)
{
    const char *from = field->from ? field->from : field->name;
    json_object *value = member(one, from);

    if (field->kind == TEXT)
        tm_json_add_string(row, field->name, text(one, from));
    else if (json_object_is_type(value, json_type_boolean))
        tm_json_add_uint(row, field->name, (uint64_t)json_object_get_boolean(value));
    else if (value)
        json_object_object_add(row, field->name, json_object_get(value));
    else if (field->kind == NUMBER)
        tm_json_add_uint(row, field->name, 0);
}

/* A new row of the list @list, owned by it; NULL: it is full. */
static json_object *add_row(Gathering *g, const char *list)
{
    json_object *rows = member(g->all, list), *row;

    if (!rows) {
        rows = json_object_new_array();
        json_object_object_add(g->all, list, rows);
    }
    if (length(rows) >= METRICS_ROWS_MAX) {
        g->omitted++;
        return NULL;
    }
    row = json_object_new_object();
    json_object_array_add(rows, row);
    return row;
}

/* A new row with @label: @name (label NULL: without) and the fields, which {} ends, of @one. */
static json_object *add_fields(Gathering *g, const char *list, const char *label, const char *name,
                               const Field *fields, json_object *one)
{
    json_object *row = add_row(g, list);

    if (row && label)
        tm_json_add_string(row, label, name);
    for (; row && fields->name; fields++)
        copy_field(row, fields, one);
    return row;
}

/* Calls @take with each element of the answer. */
static void each(Gathering *g, const char *command, json_object *args,
                 void (*take)(Gathering *g, json_object *one))
{
    json_object *answer = g->source->ask(g->source->opaque, command, args);

    for (size_t i = 0; i < length(answer); i++)
        take(g, json_object_array_get_idx(answer, i));
    json_object_put(answer);
    json_object_put(args);
}

/* Arguments that are all on; @other may be NULL. */
static json_object *flags(const char *name, const char *other)
{
    json_object *args = json_object_new_object();

    tm_json_add_bool(args, name, true);
    if (other)
        tm_json_add_bool(args, other, true);
    return args;
}

/* ---- exports and nodes: what they did */

static void take_errors(Gathering *g, const char *label, const char *name, const char *operation,
                        json_object *errors)
{
    static const Field fields[] = { { "errno", TEXT, NULL }, { "count", NUMBER, NULL }, { 0 } };
    g_autofree char *list = g_strconcat(label, "-errors", NULL);

    for (size_t i = 0; i < length(errors); i++) {
        json_object *row =
            add_fields(g, list, label, name, fields, json_object_array_get_idx(errors, i));

        if (row)
            tm_json_add_string(row, "operation", operation);
    }
}

static void take_operation(Gathering *g, const char *list, const char *label, const char *name,
                           json_object *stats, const char *operation, const char *short_name)
{
    g_autofree char *done = g_strdup_printf("%s_operations", short_name);
    g_autofree char *failed = g_strdup_printf("failed_%s_operations", short_name);
    g_autofree char *bytes = g_strdup_printf("%s_bytes", short_name);
    g_autofree char *ns = g_strdup_printf("%s_total_time_ns", short_name);
    g_autofree char *histogram = g_strdup_printf("%s_latency_histogram", short_name);
    g_autofree char *errors = g_strdup_printf("%s_errors", short_name);
    const Field fields[] = { { "done", NUMBER, done },
                             { "failed", NUMBER, failed },
                             { "bytes", NUMBER, bytes },
                             { "ns", NUMBER, ns },
                             { "histogram", NUMBER_IF_THERE, histogram },
                             { 0 } };
    json_object *row = add_fields(g, list, label, name, fields, stats);

    if (!row)
        return;
    tm_json_add_string(row, "operation", operation);
    take_errors(g, label, name, operation, member(stats, errors));
}

static void take_operations(Gathering *g, const char *list, const char *label, const char *name,
                            json_object *stats)
{
    take_operation(g, list, label, name, stats, "read", "rd");
    take_operation(g, list, label, name, stats, "write", "wr");
    take_operation(g, list, label, name, stats, "flush", "flush");
    take_operation(g, list, label, name, stats, "discard", "unmap");
}

static bool is_named(const char *node)
{
    return *node && *node != '#';
}

/* The node that a user knows: the first one with a name of its own, from the export down. */
static const char *disk_of(json_object *stats)
{
    while (stats && !is_named(text(stats, "node-name")))
        stats = member(stats, "parent");
    return stats ? text(stats, "node-name") : "";
}

/* What it has to do now, and what its store has written, each if it has that. */
static void take_details(Gathering *g, const char *label, const char *name, json_object *one)
{
    static const Field queues[] = { { "in-flight", NUMBER, NULL },
                                    { "on-workers", NUMBER_IF_THERE, NULL },
                                    { "waiting", NUMBER_IF_THERE, NULL },
                                    { 0 } };
    static const Field stores[] = { { "syncs", NUMBER, NULL },
                                    { "failed", NUMBER, "failed-syncs" },
                                    { "ns", NUMBER, "sync-total-time-ns" },
                                    { "intents", NUMBER, NULL },
                                    { "open", NUMBER, "open-intents" },
                                    { 0 } };
    g_autofree char *list = g_strconcat(label, "-queues", NULL);
    json_object *queue = member(one, "queue"), *store = member(one, "bitmap-store");

    if (queue)
        add_fields(g, list, label, name, queues, queue);
    if (store)
        add_fields(g, "stores", label, name, stores, store);
}

static void take_workers(Gathering *g, json_object *one)
{
    static const Field fields[] = { { "pool", TEXT, NULL },           { "threads", NUMBER, NULL },
                                    { "max", NUMBER, "max-threads" }, { "busy", NUMBER, NULL },
                                    { "waiting", NUMBER, NULL },      { 0 } };

    add_fields(g, "workers", NULL, NULL, fields, one);
}

static void take_export_stats(Gathering *g, json_object *one)
{
    take_details(g, "export", text(one, "device"), one);
    tm_json_add_string(g->disks, text(one, "device"), disk_of(one));
    take_operations(g, "export-operations", "export", text(one, "device"), member(one, "stats"));
}

static void take_node_stats(Gathering *g, json_object *one)
{
    const char *name = text(one, "node-name");

    if (!is_named(name))
        return;
    take_operations(g, "node-operations", "node", name, member(one, "stats"));
    take_details(g, "node", name, one);
}

static void take_export(Gathering *g, json_object *one)
{
    static const Field fields[] = { { "name", TEXT, NULL }, { "writable", NUMBER, NULL }, { 0 } };
    json_object *row = add_fields(g, "exports", "export", text(one, "id"), fields, one);

    if (!row)
        return;
    tm_json_add_string(row, "node", text(g->disks, text(one, "id")));
    tm_json_add_uint(row, "sessions", length(member(one, "clients")));
}

/* ---- nodes and their bitmaps */

static void take_bitmap(Gathering *g, const char *node, json_object *one)
{
    static const Field fields[] = { { "bitmap", TEXT, "name" },       { "dirty", NUMBER, "count" },
                                    { "granularity", NUMBER, NULL },  { "recording", NUMBER, NULL },
                                    { "persistent", NUMBER, NULL },   { "busy", NUMBER, NULL },
                                    { "inconsistent", NUMBER, NULL }, { "recovered", NUMBER, NULL },
                                    { "age", NUMBER_IF_THERE, NULL }, { 0 } };
    json_object *row = add_fields(g, "bitmaps", "node", node, fields, one);
    uint64_t granularity = number(one, "granularity");

    if (!row)
        return;
    tm_json_add_uint(row, "granules", granularity ? number(one, "count") / granularity : 0);
    if (*text(one, "reason"))
        tm_json_add_string(row, "reason", text(one, "reason"));
}

static void take_node(Gathering *g, json_object *one)
{
    static const Field fields[] = { { "driver", TEXT, "drv" },
                                    { "last-backup", NUMBER_IF_THERE, NULL },
                                    { 0 } };
    static const Field sizes[] = { { "size", NUMBER, "virtual-size" },
                                   { "allocated", NUMBER_IF_THERE, "actual-size" },
                                   { 0 } };
    const char *name = text(one, "node-name");
    json_object *bitmaps = member(one, "dirty-bitmaps");
    json_object *row = is_named(name) ? add_fields(g, "nodes", "node", name, fields, one) : NULL;

    for (const Field *size = sizes; row && size->name; size++)
        copy_field(row, size, member(one, "image"));
    for (size_t i = 0; i < length(bitmaps); i++)
        take_bitmap(g, name, json_object_array_get_idx(bitmaps, i));
}

/* ---- servers, jobs, backups */

static void take_refused(Gathering *g, const char *server, json_object *refused)
{
    json_object_object_foreach(refused, reason, count)
    {
        json_object *row = add_row(g, "refused");

        if (!row)
            return;
        tm_json_add_string(row, "server", server);
        tm_json_add_string(row, "reason", reason);
        json_object_object_add(row, "count", json_object_get(count));
    }
}

static void take_server(Gathering *g, json_object *one)
{
    static const Field fields[] = { { "server", TEXT, "id" },
                                    { "connections", NUMBER, NULL },
                                    { "max-connections", NUMBER, NULL },
                                    { 0 } };

    if (add_fields(g, "servers", NULL, NULL, fields, one) && member(one, "refused"))
        take_refused(g, text(one, "id"), member(one, "refused"));
}

static void take_session(Gathering *g, json_object *one)
{
    static const Field fields[] = {
        { "peer", TEXT, NULL },
        { "export", TEXT, NULL },
        { "writable", NUMBER, NULL },
        { "tls", NUMBER, NULL },
        { "read", NUMBER, "bytes-read" },
        { "written", NUMBER, "bytes-written" },
        { "errors", NUMBER, NULL },
        { "age", NUMBER, NULL },
        { 0 },
    };

    add_fields(g, "sessions", NULL, NULL, fields, one);
}

static void take_job(Gathering *g, json_object *one)
{
    static const Field fields[] = {
        { "job", TEXT, "id" },
        { "type", TEXT, NULL },
        { "status", TEXT, NULL },
        { "current", NUMBER, "current-progress" },
        { "total", NUMBER, "total-progress" },
        { 0 },
    };
    json_object *row = add_fields(g, "jobs", NULL, NULL, fields, one);

    if (row)
        tm_json_add_uint(row, "failed", member(one, "error") != NULL);
}

static void take_backup(Gathering *g, json_object *one)
{
    static const Field fields[] = { { "backup", TEXT, "id" }, { "age", NUMBER, NULL }, { 0 } };
    json_object *row = add_fields(g, "backups", NULL, NULL, fields, one);
    json_object *disks = member(one, "disks");
    uint64_t dirty = 0;

    if (!row)
        return;
    for (size_t i = 0; i < length(disks); i++)
        dirty += number(json_object_array_get_idx(disks, i), "dirty");
    tm_json_add_uint(row, "disks", length(disks));
    tm_json_add_uint(row, "dirty", dirty);
    tm_json_add_uint(row, "scratch", number(member(one, "scratch"), "used"));
    tm_json_add_uint(row, "aborted", member(one, "aborted") != NULL);
}

/* ---- all of it */

json_object *metrics_gather(const MetricsSource *source)
{
    Gathering g = { .source = source, .all = json_object_new_object() };
    json_object *daemon = json_object_new_object(), *rows = json_object_new_array();
    json_object *process = json_object_new_array();

    g.disks = json_object_new_object();
    each(&g, "query-blockstats", flags("details", NULL), take_export_stats);
    each(&g, "query-block-exports", NULL, take_export);
    each(&g, "query-named-block-nodes", flags("flat", NULL), take_node);
    each(&g, "query-blockstats", flags("query-nodes", "details"), take_node_stats);
    each(&g, "query-workers", NULL, take_workers);
    each(&g, "query-nbd-servers", NULL, take_server);
    each(&g, "query-nbd-sessions", NULL, take_session);
    each(&g, "query-jobs", NULL, take_job);
    each(&g, "query-backups", NULL, take_backup);
    json_object_array_add(process, metrics_process());
    json_object_object_add(g.all, "process", process);
    tm_json_add_string(daemon, "version", TM_VERSION);
    tm_json_add_uint(daemon, "omitted", g.omitted);
    metrics_events_last(source->events, daemon);
    json_object_object_add(g.all, "events", metrics_events_rows(source->events));
    json_object_array_add(rows, daemon);
    json_object_object_add(g.all, "daemon", rows);
    json_object_put(g.disks);
    return g.all;
}
