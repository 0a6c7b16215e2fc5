/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* metrics/exposition.c: rows as OpenMetrics text, by a table of metrics.
 *
 * Each metric is of one list of rows: its labels are members of the row, and so is its value. */
#include "metrics/metrics_internal.h"

#include <glib.h>
#include <math.h>
#include <string.h>

typedef enum { COUNTER, GAUGE, INFO, HISTOGRAM } Kind;
static const char *const kind_names[] = { "counter", "gauge", "info", "histogram" };
static const char *const suffixes[] = { "_total", "", "_info", "" };

typedef struct Metric {
    const char *name; /* without the suffix of its kind */
    Kind kind;
    const char *unit; /* which the name ends with; or NULL */
    const char *list;
    const char *labels[4]; /* members of the row, and names of labels */
    const char *value;     /* a member; a row without it has no sample; NULL: 1 */
    double divisor;        /* 0: 1 */
    const char *help;
} Metric;

static const Metric metrics[] = {
    { "tidemark_build", INFO, NULL, "daemon", { "version" }, NULL, 0, "Version of the daemon" },
    { "tidemark_rows_omitted",
      GAUGE,
      NULL,
      "daemon",
      { NULL },
      "omitted",
      0,
      "Objects without metrics, beyond the 1000 of each kind that have some" },

    { "tidemark_export_operations",
      COUNTER,
      NULL,
      "export-operations",
      { "export", "operation" },
      "done",
      0,
      "Requests of clients that succeeded" },
    { "tidemark_export_failures",
      COUNTER,
      NULL,
      "export-operations",
      { "export", "operation" },
      "failed",
      0,
      "Requests of clients that the disk failed" },
    { "tidemark_export_bytes",
      COUNTER,
      "bytes",
      "export-operations",
      { "export", "operation" },
      "bytes",
      0,
      "Bytes of the requests that succeeded" },
    { "tidemark_export_errors",
      COUNTER,
      NULL,
      "export-errors",
      { "export", "operation", "errno" },
      "count",
      0,
      "Requests that failed, by the error" },
    { "tidemark_export_request_seconds",
      HISTOGRAM,
      "seconds",
      "export-operations",
      { "export", "operation" },
      "ns",
      1e9,
      "Times of requests" },
    { "tidemark_export",
      INFO,
      NULL,
      "exports",
      { "export", "name", "node" },
      NULL,
      0,
      "Name of an export, and its disk" },
    { "tidemark_export_sessions",
      GAUGE,
      NULL,
      "exports",
      { "export" },
      "sessions",
      0,
      "Clients that have the export open" },
    { "tidemark_export_writable",
      GAUGE,
      NULL,
      "exports",
      { "export" },
      "writable",
      0,
      "Whether clients may write" },

    { "tidemark_export_in_flight",
      GAUGE,
      NULL,
      "export-queues",
      { "export" },
      "in-flight",
      0,
      "Requests that have begun and not ended" },

    { "tidemark_node_operations",
      COUNTER,
      NULL,
      "node-operations",
      { "node", "operation" },
      "done",
      0,
      "Requests that succeeded" },
    { "tidemark_node_failures",
      COUNTER,
      NULL,
      "node-operations",
      { "node", "operation" },
      "failed",
      0,
      "Requests that failed" },
    { "tidemark_node_bytes",
      COUNTER,
      "bytes",
      "node-operations",
      { "node", "operation" },
      "bytes",
      0,
      "Bytes of the requests that succeeded" },
    { "tidemark_node_errors",
      COUNTER,
      NULL,
      "node-errors",
      { "node", "operation", "errno" },
      "count",
      0,
      "Requests that failed, by the error" },
    { "tidemark_node_request_seconds",
      HISTOGRAM,
      "seconds",
      "node-operations",
      { "node", "operation" },
      "ns",
      1e9,
      "Times of requests" },
    { "tidemark_node_size_bytes",
      GAUGE,
      "bytes",
      "nodes",
      { "node", "driver" },
      "size",
      0,
      "Size of the disk" },
    { "tidemark_node_allocated_bytes",
      GAUGE,
      "bytes",
      "nodes",
      { "node", "driver" },
      "allocated",
      0,
      "Space that the image takes" },

    { "tidemark_node_in_flight",
      GAUGE,
      NULL,
      "node-queues",
      { "node" },
      "in-flight",
      0,
      "Requests of its users that have begun and not ended" },
    { "tidemark_node_on_workers",
      GAUGE,
      NULL,
      "node-queues",
      { "node" },
      "on-workers",
      0,
      "Requests that worker threads have" },
    { "tidemark_node_waiting",
      GAUGE,
      NULL,
      "node-queues",
      { "node" },
      "waiting",
      0,
      "Requests that wait because the disk has as many workers as it may have" },
    { "tidemark_node_last_backup_timestamp_seconds",
      GAUGE,
      "seconds",
      "nodes",
      { "node" },
      "last-backup",
      0,
      "When a backup of the disk succeeded last, in seconds since 1970; absent if none has" },
    { "tidemark_store_syncs",
      COUNTER,
      NULL,
      "stores",
      { "node" },
      "syncs",
      0,
      "Syncs of the bitmap store that succeeded" },
    { "tidemark_store_failed_syncs",
      COUNTER,
      NULL,
      "stores",
      { "node" },
      "failed",
      0,
      "Syncs of the bitmap store that failed" },
    { "tidemark_store_sync_seconds",
      COUNTER,
      "seconds",
      "stores",
      { "node" },
      "ns",
      1e9,
      "Time that these syncs took" },
    { "tidemark_store_intents",
      COUNTER,
      NULL,
      "stores",
      { "node" },
      "intents",
      0,
      "Ranges that were opened for writing in the live journal" },
    { "tidemark_store_open_intents",
      GAUGE,
      NULL,
      "stores",
      { "node" },
      "open",
      0,
      "Those that are open now, and count as dirty after a loss of power" },

    { "tidemark_bitmap_dirty_bytes",
      GAUGE,
      "bytes",
      "bitmaps",
      { "node", "bitmap" },
      "dirty",
      0,
      "Bytes that are dirty" },
    { "tidemark_bitmap_dirty_granules",
      GAUGE,
      NULL,
      "bitmaps",
      { "node", "bitmap" },
      "granules",
      0,
      "Granules that are dirty" },
    { "tidemark_bitmap_granularity_bytes",
      GAUGE,
      "bytes",
      "bitmaps",
      { "node", "bitmap" },
      "granularity",
      0,
      "Bytes of a granule" },
    { "tidemark_bitmap_recovered_bytes",
      GAUGE,
      "bytes",
      "bitmaps",
      { "node", "bitmap" },
      "recovered",
      0,
      "Bytes that are dirty only because of a recovery" },
    { "tidemark_bitmap_age_seconds",
      GAUGE,
      "seconds",
      "bitmaps",
      { "node", "bitmap" },
      "age",
      0,
      "Time since it was created or last cleared; absent if that was before the node was opened" },
    { "tidemark_bitmap_recording",
      GAUGE,
      NULL,
      "bitmaps",
      { "node", "bitmap" },
      "recording",
      0,
      "Whether writes are recorded" },
    { "tidemark_bitmap_persistent",
      GAUGE,
      NULL,
      "bitmaps",
      { "node", "bitmap" },
      "persistent",
      0,
      "Whether it survives a restart of the daemon" },
    { "tidemark_bitmap_inconsistent",
      GAUGE,
      NULL,
      "bitmaps",
      { "node", "bitmap" },
      "inconsistent",
      0,
      "Whether it can only be removed" },
    { "tidemark_bitmap_degraded",
      INFO,
      NULL,
      "bitmaps",
      { "node", "bitmap", "reason" },
      NULL,
      0,
      "Why a bitmap is inconsistent, or has more dirty bytes than were written" },

    { "tidemark_workers", GAUGE, NULL, "workers", { "pool" }, "threads", 0, "Worker threads" },
    { "tidemark_workers_max", GAUGE, NULL, "workers", { "pool" }, "max", 0, "Most worker threads" },
    { "tidemark_workers_busy",
      GAUGE,
      NULL,
      "workers",
      { "pool" },
      "busy",
      0,
      "Worker threads that have something to do" },
    { "tidemark_workers_waiting",
      GAUGE,
      NULL,
      "workers",
      { "pool" },
      "waiting",
      0,
      "Requests that wait for a worker thread" },

    { "tidemark_server_connections",
      GAUGE,
      NULL,
      "servers",
      { "server" },
      "connections",
      0,
      "Clients of the NBD server" },
    { "tidemark_server_connections_max",
      GAUGE,
      NULL,
      "servers",
      { "server" },
      "max-connections",
      0,
      "Most clients at a time; 0: no limit" },

    { "tidemark_server_refused",
      COUNTER,
      NULL,
      "refused",
      { "server", "reason" },
      "count",
      0,
      "Clients that were refused" },

    { "tidemark_events", COUNTER, NULL, "events", { "event" }, "count", 0, "Events of QMP" },
    { "tidemark_jobs_failed",
      COUNTER,
      NULL,
      "daemon",
      { NULL },
      "jobs-failed",
      0,
      "Jobs that have failed" },
    { "tidemark_last_backup_timestamp_seconds",
      GAUGE,
      "seconds",
      "daemon",
      { NULL },
      "last-backup",
      0,
      "When a backup or a backup job succeeded last, in seconds since 1970; absent if none has" },
    { "tidemark_job", INFO, NULL, "jobs", { "job", "type", "status" }, NULL, 0, "State of a job" },
    { "tidemark_job_progress",
      GAUGE,
      NULL,
      "jobs",
      { "job", "type" },
      "current",
      0,
      "Progress of a job, in no particular unit" },
    { "tidemark_job_progress_end",
      GAUGE,
      NULL,
      "jobs",
      { "job", "type" },
      "total",
      0,
      "Progress at the end, as expected" },
    { "tidemark_job_failed",
      GAUGE,
      NULL,
      "jobs",
      { "job", "type" },
      "failed",
      0,
      "Whether the job has failed" },

    { "tidemark_backup_age_seconds",
      GAUGE,
      "seconds",
      "backups",
      { "backup" },
      "age",
      0,
      "Time since the backup began" },
    { "tidemark_backup_disks",
      GAUGE,
      NULL,
      "backups",
      { "backup" },
      "disks",
      0,
      "Disks of the backup" },
    { "tidemark_backup_dirty_bytes",
      GAUGE,
      "bytes",
      "backups",
      { "backup" },
      "dirty",
      0,
      "Bytes to copy" },
    { "tidemark_backup_scratch_bytes",
      GAUGE,
      "bytes",
      "backups",
      { "backup" },
      "scratch",
      0,
      "Bytes that were kept before writes overwrote them" },
    { "tidemark_backup_aborted",
      GAUGE,
      NULL,
      "backups",
      { "backup" },
      "aborted",
      0,
      "Whether the backup has been aborted" },

    { "process_cpu_seconds",
      COUNTER,
      "seconds",
      "process",
      { NULL },
      "cpu",
      0,
      "Processor time of the daemon" },
    { "process_start_time_seconds",
      GAUGE,
      "seconds",
      "process",
      { NULL },
      "start",
      0,
      "When the daemon began, in seconds since 1970" },
    { "process_threads", GAUGE, NULL, "process", { NULL }, "threads", 0, "Threads" },
    { "process_resident_memory_bytes",
      GAUGE,
      "bytes",
      "process",
      { NULL },
      "resident",
      0,
      "Resident memory" },
    { "process_virtual_memory_bytes",
      GAUGE,
      "bytes",
      "process",
      { NULL },
      "virtual",
      0,
      "Virtual memory" },
    { "process_open_fds",
      GAUGE,
      NULL,
      "process",
      { NULL },
      "descriptors",
      0,
      "Descriptors that are open" },
};

/* ---- text */

/* A value of a label: what the format can't hold as it is, is escaped or replaced. */
static void add_escaped(GString *out, const char *text)
{
    g_autofree char *valid = g_utf8_make_valid(text, -1);

    for (const char *p = valid; *p; p++) {
        if (*p == '\\' || *p == '"')
            g_string_append_c(out, '\\');
        if (*p == '\n')
            g_string_append(out, "\\n");
        else
            g_string_append_c(out, *p);
    }
}

static void add_labels(GString *out, const Metric *m, json_object *row)
{
    for (size_t i = 0; i < G_N_ELEMENTS(m->labels) && m->labels[i]; i++) {
        json_object *value = json_object_object_get(row, m->labels[i]);

        g_string_append_printf(out, "%s%s=\"", i ? "," : "{", m->labels[i]);
        add_escaped(out, value ? json_object_get_string(value) : "");
        g_string_append(out, "\"");
    }
    if (m->labels[0])
        g_string_append_c(out, '}');
}

/* To the nanosecond. */
static void add_seconds(GString *out, double seconds)
{
    char digits[G_ASCII_DTOSTR_BUF_SIZE];

    g_string_append(out, g_ascii_formatd(digits, sizeof(digits), "%.9f", seconds));
}

static void add_number(GString *out, json_object *value, double divisor)
{
    if (json_object_is_type(value, json_type_int) && !divisor) {
        g_string_append_printf(out, "%" G_GUINT64_FORMAT, json_object_get_uint64(value));
        return;
    }
    add_seconds(out, json_object_get_double(value) / (divisor ? divisor : 1));
}

/* Whether the row has the value, and the last label, which is not of all rows. */
static bool has_sample(const Metric *m, json_object *row)
{
    for (size_t i = 0; i < G_N_ELEMENTS(m->labels) && m->labels[i]; i++) {
        if (!json_object_object_get_ex(row, m->labels[i], NULL))
            return false;
    }
    return !m->value || json_object_object_get_ex(row, m->value, NULL);
}

/* The buckets, which add up, and the sum of all: its row has the histogram of QMP. */
static void add_histogram(GString *out, const Metric *m, json_object *row)
{
    json_object *histogram = json_object_object_get(row, "histogram");
    json_object *bounds = json_object_object_get(histogram, "boundaries");
    json_object *bins = json_object_object_get(histogram, "bins");
    g_autoptr(GString) labels = g_string_new(NULL);
    uint64_t sum = 0;

    add_labels(labels, m, row);
    for (size_t i = 0; i < json_object_array_length(bins); i++) {
        sum += json_object_get_uint64(json_object_array_get_idx(bins, i));
        g_string_append_printf(out, "%s_bucket%.*s,le=\"", m->name, (int)labels->len - 1,
                               labels->str);
        if (i < json_object_array_length(bounds)) /* the boundary itself is beyond the bin */
            add_seconds(out,
                        (double)(json_object_get_uint64(json_object_array_get_idx(bounds, i)) - 1) /
                            m->divisor);
        else
            g_string_append(out, "+Inf");
        g_string_append_printf(out, "\"} %" G_GUINT64_FORMAT "\n", sum);
    }
    g_string_append_printf(out, "%s_count%s %" G_GUINT64_FORMAT "\n%s_sum%s ", m->name, labels->str,
                           sum, m->name, labels->str);
    add_number(out, json_object_object_get(row, m->value), m->divisor);
    g_string_append_c(out, '\n');
}

static void add_samples(GString *out, const Metric *m, json_object *rows)
{
    for (size_t i = 0; rows && i < json_object_array_length(rows); i++) {
        json_object *row = json_object_array_get_idx(rows, i);

        if (!has_sample(m, row))
            continue;
        if (m->kind == HISTOGRAM) {
            add_histogram(out, m, row);
            continue;
        }
        g_string_append(out, m->name);
        g_string_append(out, suffixes[m->kind]);
        add_labels(out, m, row);
        g_string_append_c(out, ' ');
        if (m->value)
            add_number(out, json_object_object_get(row, m->value), m->divisor);
        else
            g_string_append_c(out, '1');
        g_string_append_c(out, '\n');
    }
}

char *metrics_exposition(json_object *figures, size_t *length)
{
    GString *out = g_string_new(NULL);

    for (size_t i = 0; i < G_N_ELEMENTS(metrics); i++) {
        const Metric *m = &metrics[i];

        g_string_append_printf(out, "# TYPE %s %s\n", m->name, kind_names[m->kind]);
        if (m->unit)
            g_string_append_printf(out, "# UNIT %s %s\n", m->name, m->unit);
        g_string_append_printf(out, "# HELP %s %s.\n", m->name, m->help);
        add_samples(out, m, json_object_object_get(figures, m->list));
    }
    g_string_append(out, "# EOF\n");
    *length = out->len;
    return g_string_free(out, FALSE);
}
