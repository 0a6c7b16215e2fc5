/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp/commands/stats.c: what exports and nodes did, and what management programs ask a machine
 * first.
 *
 * Names and members are QEMU's (qapi/block-core.json, run-state.json, misc.json). There
 * are no devices of a guest; query-blockstats has exports in their place. A figure of what doesn't
 * exist (merged requests, intervals) is what QEMU gives when there was none. */
#include "bitmap/store/store.h"
#include "block/users.h"
#include "qmp/commands/families.h"
#include "qmp/context.h"

static void add_uint(json_object *object, const char *key, uint64_t value)
{
    json_object_object_add(object, key, json_object_new_uint64(value));
}

static void add_bool(json_object *object, const char *key, bool value)
{
    json_object_object_add(object, key, json_object_new_boolean(value));
}

static void add_string(json_object *object, const char *key, const char *value)
{
    json_object_object_add(object, key, json_object_new_string(value));
}

/* ---- query-blockstats */

static json_object *stats_of(const BlkCounts *c)
{
    static const char *const names[BLK_COUNTS] = { "rd", "wr", "flush", "unmap" };
    json_object *stats = json_object_new_object();

    for (unsigned i = 0; i < BLK_COUNTS; i++) {
        g_autofree char *operations = g_strconcat(names[i], "_operations", NULL);
        g_autofree char *failed = g_strdup_printf("failed_%s_operations", names[i]);
        g_autofree char *invalid = g_strdup_printf("invalid_%s_operations", names[i]);
        g_autofree char *bytes = g_strconcat(names[i], "_bytes", NULL);
        g_autofree char *merged = g_strconcat(names[i], "_merged", NULL);
        g_autofree char *ns = g_strconcat(names[i], "_total_time_ns", NULL);

        add_uint(stats, operations, c->operations[i]);
        add_uint(stats, failed, c->failed[i]);
        add_uint(stats, invalid, 0);
        add_uint(stats, ns, c->ns[i]);
        if (i == BLK_COUNT_FLUSH)
            continue;
        add_uint(stats, bytes, c->bytes[i]);
        add_uint(stats, merged, 0);
    }
    add_uint(stats, "wr_highest_offset", c->highest);
    add_bool(stats, "account_invalid", false);
    add_bool(stats, "account_failed", true);
    json_object_object_add(stats, "timed_stats", json_object_new_array());
    return stats;
}

static json_object *histogram_of(const uint64_t *took)
{
    json_object *histogram = json_object_new_object();
    json_object *boundaries = json_object_new_array(), *bins = json_object_new_array();

    for (unsigned i = 0; i < BLK_TOOK_BUCKETS; i++) {
        if (i + 1 < BLK_TOOK_BUCKETS)
            json_object_array_add(
                boundaries, json_object_new_uint64((UINT64_C(1) << (BLK_TOOK_LEAST + i)) + 1));
        json_object_array_add(bins, json_object_new_uint64(took[i]));
    }
    json_object_object_add(histogram, "boundaries", boundaries);
    json_object_object_add(histogram, "bins", bins);
    return histogram;
}

/* What QEMU has only where it was asked for. */
static json_object *detailed_stats_of(const BlkCounts *c)
{
    static const char *const names[BLK_COUNTS] = { "rd", "wr", "flush", "unmap" };
    json_object *stats = stats_of(c);

    for (unsigned i = 0; i < BLK_COUNTS; i++) {
        g_autofree char *histogram = g_strconcat(names[i], "_latency_histogram", NULL);
        g_autofree char *errors = g_strconcat(names[i], "_errors", NULL);
        json_object *by_errno = json_object_new_array();

        json_object_object_add(stats, histogram, histogram_of(c->took[i]));
        for (unsigned k = 0; k < BLK_ERRORS; k++) {
            json_object *one;

            if (!c->errors[i][k])
                continue;
            one = json_object_new_object();
            add_string(one, "errno", blk_error_names[k]);
            add_uint(one, "count", c->errors[i][k]);
            json_object_array_add(by_errno, one);
        }
        json_object_object_add(stats, errors, by_errno);
    }
    return stats;
}

/* The node that has the data of another one. */
static BlkNode *below(BlkNode *node)
{
    const struct tidemark_child *child = blk_node_driver(node)->children;

    return child && child->name ? blk_node_child(node, 0) : NULL;
}

/* What the node has to do now, and what its store has written. */
static void add_node_details(json_object *one, BlkNode *node)
{
    json_object *queue = json_object_new_object(), *store;
    BlkNodeQueue q;
    BmpStoreFigures f;

    blk_node_queue(node, &q);
    add_uint(queue, "in-flight", q.inside);
    add_uint(queue, "on-workers", q.running);
    add_uint(queue, "waiting", q.waiting);
    json_object_object_add(one, "queue", queue);
    if (!bmp_set_store_figures(blk_node_bitmaps(node), &f))
        return;
    store = json_object_new_object();
    add_uint(store, "syncs", f.counts.syncs);
    add_uint(store, "failed-syncs", f.counts.failed);
    add_uint(store, "sync-total-time-ns", f.counts.ns);
    add_uint(store, "intents", f.counts.intents);
    add_uint(store, "open-intents", f.open);
    json_object_object_add(one, "bitmap-store", store);
}

static json_object *node_stats(BlkNode *node, bool details)
{
    json_object *one = json_object_new_object();
    BlkCounts counts;

    blk_node_counts(node, &counts);
    add_string(one, "node-name", blk_node_name(node));
    json_object_object_add(one, "stats", details ? detailed_stats_of(&counts) : stats_of(&counts));
    if (details)
        add_node_details(one, node);
    if (below(node))
        json_object_object_add(one, "parent", node_stats(below(node), details));
    return one;
}

static json_object *export_stats(BlkExport *x, bool details)
{
    BlkNode *node = blk_export_node(x);
    json_object *one = json_object_new_object();
    BlkCounts counts, of_node;

    blk_export_counts(x, &counts);
    blk_node_counts(node, &of_node);
    counts.highest = of_node.highest;
    if (details) {
        json_object *queue = json_object_new_object();

        add_uint(queue, "in-flight", blk_user_inside(blk_export_user(x)));
        json_object_object_add(one, "queue", queue);
    }
    add_string(one, "device", blk_export_id(x));
    add_string(one, "node-name", blk_node_name(node));
    json_object_object_add(one, "stats", details ? detailed_stats_of(&counts) : stats_of(&counts));
    if (below(node))
        json_object_object_add(one, "parent", node_stats(below(node), details));
    return one;
}

static const char *name_of_node(const void *node)
{
    return blk_node_name(node);
}

static const char *id_of_export(const void *x)
{
    return blk_export_id(x);
}

static bool run_stats(QmpCall *call, GError **error)
{
    bool of_nodes = qmp_arg_bool(call->args, "query-nodes", false);
    bool details = qmp_arg_bool(call->args, "details", false);
    g_autoptr(GPtrArray) list = of_nodes ? blk_graph_nodes(qmp_context_graph(call->ctx))
                                         : blk_exports_list(qmp_context_exports(call->ctx));
    g_autoptr(GPtrArray) page =
        qmp_arg_page(call->args, list, false, of_nodes ? name_of_node : id_of_export);

    call->result = json_object_new_array();
    for (guint i = 0; i < page->len; i++)
        json_object_array_add(call->result, of_nodes ? node_stats(page->pdata[i], details)
                                                     : export_stats(page->pdata[i], details));
    return true;
}

/* ---- query-workers */

static bool run_workers(QmpCall *call, GError **error)
{
    static const char *const names[] = { "foreground", "background" };

    call->result = json_object_new_array();
    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
        json_object *one = json_object_new_object();
        BlkPoolCounts counts;

        blk_engine_count_pool(blk_graph_engine(qmp_context_graph(call->ctx)), i, &counts);
        add_string(one, "pool", names[i]);
        add_uint(one, "threads", counts.threads);
        add_uint(one, "max-threads", counts.max);
        add_uint(one, "busy", counts.busy);
        add_uint(one, "waiting", counts.queued);
        json_object_array_add(call->result, one);
    }
    return true;
}

/* ---- query-block */

/* A guest's devices: a storage daemon has none. */
static bool run_block(QmpCall *call, GError **error)
{
    call->result = json_object_new_array();
    return true;
}

/* ---- the machine that there is not */

static bool run_status(QmpCall *call, GError **error)
{
    call->result = json_object_new_object();
    add_string(call->result, "status", "running");
    add_bool(call->result, "running", true);
    return true;
}

static bool run_name(QmpCall *call, GError **error)
{
    return true;
}

static bool run_uuid(QmpCall *call, GError **error)
{
    call->result = json_object_new_object();
    add_string(call->result, "UUID", "00000000-0000-0000-0000-000000000000");
    return true;
}

/* ---- types */

#define OBJECT(id, qapi_name)                                                                      \
    static const QmpType id = { .kind = QMP_KIND_OBJECT,                                           \
                                .name = qapi_name,                                                 \
                                .members = id##_members }
#define ARRAY(id, of)                                                                              \
    static const QmpType id = { .kind = QMP_KIND_ARRAY, .name = "array", .element = &(of) }

static const QmpMember interval_members[] = {
    { "interval_length", &qmp_type_int, false, "seconds" },
    { NULL },
};
OBJECT(interval, "BlockDeviceTimedStats");
ARRAY(intervals, interval);

ARRAY(uint64s, qmp_type_uint64);
static const QmpMember histogram_members[] = {
    { "boundaries", &uint64s, false,
      "ns; a bin counts what took less than its boundary, and not less than the one before" },
    { "bins", &uint64s, false, "how many requests, one bin more than boundaries" },
    { NULL },
};
OBJECT(histogram, "BlockLatencyHistogramInfo");

static const QmpMember error_count_members[] = {
    { "errno", &qmp_type_str, false, "name of the error, or other" },
    { "count", &qmp_type_uint64, false, "how many requests failed with it" },
    { NULL },
};
OBJECT(error_count, "BlockErrorCount");
ARRAY(error_counts, error_count);

static const QmpMember device_stats_members[] = {
    { "rd_bytes", &qmp_type_int, false, "bytes read" },
    { "wr_bytes", &qmp_type_int, false, "bytes written or zeroed" },
    { "unmap_bytes", &qmp_type_int, false, "bytes discarded" },
    { "rd_operations", &qmp_type_int, false, "reads that succeeded" },
    { "wr_operations", &qmp_type_int, false, "writes and zeroings that succeeded" },
    { "flush_operations", &qmp_type_int, false, "flushes that succeeded" },
    { "unmap_operations", &qmp_type_int, false, "discards that succeeded" },
    { "rd_total_time_ns", &qmp_type_int, false, "nanoseconds that all reads took, approximately" },
    { "wr_total_time_ns", &qmp_type_int, false, "the same for writes and zeroings" },
    { "flush_total_time_ns", &qmp_type_int, false, "the same for flushes" },
    { "unmap_total_time_ns", &qmp_type_int, false, "the same for discards" },
    { "wr_highest_offset", &qmp_type_int, false,
      "offset in bytes at which the furthest write ended" },
    { "rd_merged", &qmp_type_int, false, "for compatibility; 0" },
    { "wr_merged", &qmp_type_int, false, "for compatibility; 0" },
    { "unmap_merged", &qmp_type_int, false, "for compatibility; 0" },
    { "failed_rd_operations", &qmp_type_int, false, "reads that failed" },
    { "failed_wr_operations", &qmp_type_int, false, "writes and zeroings that failed" },
    { "failed_flush_operations", &qmp_type_int, false, "flushes that failed" },
    { "failed_unmap_operations", &qmp_type_int, false, "discards that failed" },
    { "invalid_rd_operations", &qmp_type_int, false, "for compatibility; 0" },
    { "invalid_wr_operations", &qmp_type_int, false, "for compatibility; 0" },
    { "invalid_flush_operations", &qmp_type_int, false, "for compatibility; 0" },
    { "invalid_unmap_operations", &qmp_type_int, false, "for compatibility; 0" },
    { "account_invalid", &qmp_type_bool, false, "for compatibility; false" },
    { "account_failed", &qmp_type_bool, false,
      "for compatibility; true: times include failed requests" },
    { "timed_stats", &intervals, false, "for compatibility; empty" },
    { "rd_latency_histogram", &histogram, true, "times of reads" },
    { "wr_latency_histogram", &histogram, true, "times of writes and zeroings" },
    { "flush_latency_histogram", &histogram, true, "times of flushes" },
    { "unmap_latency_histogram", &histogram, true, "times of discards" },
    { "rd_errors", &error_counts, true, "what reads failed with" },
    { "wr_errors", &error_counts, true, "what writes and zeroings failed with" },
    { "flush_errors", &error_counts, true, "what flushes failed with" },
    { "unmap_errors", &error_counts, true, "what discards failed with" },
    { NULL },
};
OBJECT(device_stats, "BlockDeviceStats");

static const QmpMember queue_members[] = {
    { "in-flight", &qmp_type_uint64, false, "requests of its users that have begun and not ended" },
    { "on-workers", &qmp_type_uint64, true, "requests that worker threads have" },
    { "waiting", &qmp_type_uint64, true,
      "requests that wait because the node has as many workers as it may have" },
    { NULL },
};
OBJECT(queue, "BlockQueueStats");

static const QmpMember store_stats_members[] = {
    { "syncs", &qmp_type_uint64, false, "syncs of the store's file that succeeded" },
    { "failed-syncs", &qmp_type_uint64, false, "those that failed" },
    { "sync-total-time-ns", &qmp_type_uint64, false, "nanoseconds that all of them took" },
    { "intents", &qmp_type_uint64, false,
      "ranges that were opened for writing in the live journal" },
    { "open-intents", &qmp_type_uint64, false,
      "those that are open now: after a loss of power they count as dirty" },
    { NULL },
};
OBJECT(store_stats, "BitmapStoreStats");

static const QmpType stats;
static const QmpMember stats_members[] = {
    { "device", &qmp_type_str, true, "id of the export" },
    { "node-name", &qmp_type_str, true, "the node" },
    { "stats", &device_stats, false, "its statistics" },
    { "queue", &queue, true, "with details: what it has to do now" },
    { "bitmap-store", &store_stats, true,
      "with details: what the store of its persistent bitmaps has written since it was opened" },
    { "parent", &stats, true, "the same for its child node" },
    { NULL },
};
OBJECT(stats, "BlockStats");
ARRAY(stats_array, stats);

static const QmpMember stats_args_members[] = {
    { "query-nodes", &qmp_type_bool, true, "show all nodes instead of the exports (default: off)" },
    { "details", &qmp_type_bool, true,
      "also show latency histograms, what requests failed with, queues and bitmap stores "
      "(default: off)" },
    QMP_PAGE_MEMBERS("node-name or export's id"),
    { NULL },
};
OBJECT(stats_args, "q_obj_query-blockstats-arg");

static const QmpMember block_info_members[] = {
    { "device", &qmp_type_str, false, "the device" },
    { "type", &qmp_type_str, false, "for compatibility; unknown" },
    { "removable", &qmp_type_bool, false, "for compatibility; false" },
    { "locked", &qmp_type_bool, false, "for compatibility; false" },
    { "inserted", &qmp_type_node_info, true, "the node" },
    { NULL },
};
OBJECT(block_info, "BlockInfo");
ARRAY(block_infos, block_info);

static const QmpMember workers_members[] = {
    { "pool", &qmp_type_str, false, "foreground, or background: what reads for backups" },
    { "threads", &qmp_type_uint64, false, "threads that it has" },
    { "max-threads", &qmp_type_uint64, false, "threads that it may have" },
    { "busy", &qmp_type_uint64, false, "threads that have something to do" },
    { "waiting", &qmp_type_uint64, false, "requests that wait for a thread" },
    { NULL },
};
OBJECT(workers, "WorkerPoolInfo");
ARRAY(worker_pools, workers);

static const char *const run_states[] = { "running", NULL };
static const QmpType run_state = { .kind = QMP_KIND_ENUM,
                                   .name = "RunState",
                                   .values = run_states };
static const QmpMember status_members[] = {
    { "status", &run_state, false, "for compatibility" },
    { "running", &qmp_type_bool, false, "for compatibility; true" },
    { NULL },
};
OBJECT(status, "StatusInfo");

static const QmpMember name_members[] = {
    { "name", &qmp_type_str, true, "for compatibility; always absent" },
    { NULL },
};
OBJECT(name, "NameInfo");

static const QmpMember uuid_members[] = {
    { "UUID", &qmp_type_str, false, "for compatibility; all zero" },
    { NULL },
};
OBJECT(uuid, "UuidInfo");

static const QmpCommand commands[] = {
    { "query-block", "the disks of a guest: none, as this daemon has no guest", &qmp_type_empty,
      &block_infos, run_block },
    { "query-blockstats",
      "the statistics of exports, or of nodes: requests, bytes, failures, times", &stats_args,
      &stats_array, run_stats, .example = "{'query-nodes': true}" },
    { "query-workers", "the threads that do what may block", &qmp_type_empty, &worker_pools,
      run_workers },
    { "query-status", "for compatibility: running, as this daemon has no machine", &qmp_type_empty,
      &status, run_status },
    { "query-name", "for compatibility: no name, as this daemon has no machine", &qmp_type_empty,
      &name, run_name },
    { "query-uuid", "for compatibility: all zero, as this daemon has no machine", &qmp_type_empty,
      &uuid, run_uuid },
    { NULL },
};

const QmpFamily qmp_family_stats = { "Statistics", commands };
