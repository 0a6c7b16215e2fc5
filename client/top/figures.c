/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/top/figures.c: see figures.h. */
#include "client/top/figures.h"
#include "client/daemon/daemon_view.h"
#include "client/top/histogram.h"
#include "util/json.h"
#include <string.h>

const char *const tc_top_ops[TC_TOP_OPS] = { "read", "write", "flush", "discard" };
/* The same in query-blockstats. */
static const char *const qmp_ops[TC_TOP_OPS] = { "rd", "wr", "flush", "unmap" };

/* ---- what is asked */

/* The key of an answer, the command, an argument of it that is true, one that is true as well if
 * the server knows it, and the members by which its elements are found. */
static const struct {
    const char *key, *command, *flag, *extra;
    const char *by[2];
} questions[] = {
    { "nodes", "query-named-block-nodes", "flat", NULL, { "node-name" } },
    { "node-stats", "query-blockstats", "query-nodes", "details", { "node-name" } },
    { "export-stats", "query-blockstats", NULL, "details", { "node-name", "device" } },
    { "exports", "query-block-exports", NULL, NULL, { "name" } },
    { "sessions", "query-nbd-sessions", NULL, NULL, { NULL } },
    { "jobs", "query-jobs", NULL, NULL, { "id" } },
    { "backups", "query-backups", NULL, NULL, { NULL } },
};

/* A new reference. */
static json_object *ask(TcQmp *qmp, unsigned i, bool extra, GError **error)
{
    g_autoptr(json_object) arguments = json_object_new_object();

    if (questions[i].flag)
        tm_json_add_bool(arguments, questions[i].flag, true);
    if (extra)
        tm_json_add_bool(arguments, questions[i].extra, true);
    return tc_qmp_execute(qmp, questions[i].command, arguments, error);
}

/* The elements of @array by member @by: of equals, the first. A new reference. */
static json_object *index_of(json_object *array, const char *by)
{
    json_object *index = json_object_new_object();

    for (size_t i = 0; i < tc_json_length(array); i++) {
        json_object *one = json_object_array_get_idx(array, i);
        const char *value = tc_json_string(one, by);

        if (value && !json_object_object_get_ex(index, value, NULL))
            json_object_object_add(index, value, json_object_get(one));
    }
    return index;
}

json_object *tc_top_ask(TcQmp *qmp, GError **error)
{
    g_autoptr(json_object) answers = json_object_new_object();
    json_object *indexes = json_object_new_object();

    json_object_object_add(answers, "by", indexes);
    for (unsigned i = 0; i < G_N_ELEMENTS(questions); i++) {
        json_object *index = json_object_new_object();
        json_object *answer = questions[i].extra ? ask(qmp, i, true, NULL) : NULL;
        g_autoptr(GError) problem = NULL;

        json_object_object_add(indexes, questions[i].key, index);
        if (!answer)
            answer = ask(qmp, i, false, &problem);
        if (answer)
            json_object_object_add(answers, questions[i].key, answer);
        else if (!i || !g_error_matches(problem, TM_ERROR, TM_ERROR_COMMAND_NOT_FOUND)) {
            g_propagate_error(error, g_steal_pointer(&problem));
            return NULL;
        }
        for (unsigned k = 0; k < G_N_ELEMENTS(questions[i].by) && questions[i].by[k]; k++)
            json_object_object_add(index, questions[i].by[k], index_of(answer, questions[i].by[k]));
    }
    return g_steal_pointer(&answers);
}

/* ---- reading it */

/* The element of answer @key whose member @by is @value; NULL if there is none. */
static json_object *find(json_object *answers, const char *key, const char *by, const char *value)
{
    return value ? tc_json_get(answers, "by", key, by, value, NULL) : NULL;
}

/* The same of a short array in an element. */
static json_object *find_in(json_object *element, const char *key, const char *by,
                            const char *value)
{
    json_object *array = tc_json_get(element, key, NULL);

    for (size_t i = 0; value && i < tc_json_length(array); i++) {
        json_object *one = json_object_array_get_idx(array, i);

        if (!g_strcmp0(tc_json_string(one, by), value))
            return one;
    }
    return NULL;
}

/* A node that the server has put there, as for a backup: it is no disk of its own. */
static bool is_implicit(const char *node)
{
    return node && *node == '#';
}

/* The node that people know: below those that the server has put above it. */
static const char *known_node(json_object *answers, const char *node)
{
    json_object *stats = is_implicit(node) ? find(answers, "node-stats", "node-name", node) : NULL;
    json_object *below = tc_json_get(stats, "parent", NULL);

    while (below && is_implicit(tc_json_string(below, "node-name")))
        below = tc_json_get(below, "parent", NULL);
    return below ? tc_json_string(below, "node-name") : node;
}

/* A counter that is less than before began anew. */
static uint64_t growth(json_object *before, json_object *now, const char *key)
{
    uint64_t old = tc_json_number(before, key), new = tc_json_number(now, key);

    return new >= old ? new - old : new;
}

static void add_rate(json_object *object, const char *key, double amount, double seconds)
{
    json_object_object_add(object, key, json_object_new_double(amount / seconds));
}

/* ---- requests */

/* One kind of requests between two "stats". */
static json_object *op_figures(json_object *before, json_object *now, TcTopOp op, double seconds)
{
    g_autofree char *operations = g_strconcat(qmp_ops[op], "_operations", NULL);
    g_autofree char *bytes = g_strconcat(qmp_ops[op], "_bytes", NULL);
    g_autofree char *failed = g_strdup_printf("failed_%s_operations", qmp_ops[op]);
    g_autofree char *ns = g_strconcat(qmp_ops[op], "_total_time_ns", NULL);
    g_autofree char *histogram = g_strconcat(qmp_ops[op], "_latency_histogram", NULL);
    uint64_t done = growth(before, now, operations), errors = growth(before, now, failed);
    uint64_t took = growth(before, now, ns); /* 0: none of them was timed */
    json_object *figures = json_object_new_object();

    tm_json_add_uint(figures, "requests", done);
    tm_json_add_uint(figures, "bytes", growth(before, now, bytes));
    tm_json_add_uint(figures, "failed", errors);
    add_rate(figures, "requests-per-second", (double)done, seconds);
    add_rate(figures, "bytes-per-second", (double)growth(before, now, bytes), seconds);
    if (took && done + errors)
        tm_json_add_uint(figures, "mean-ns", took / (done + errors));
    tc_top_percentiles(figures, tc_json_get(before, histogram, NULL),
                       tc_json_get(now, histogram, NULL));
    return figures;
}

/* The mean of all kinds that were timed, and the worst. */
static void add_latency(json_object *figures)
{
    double ns = 0, requests = 0, worst = 0;

    for (unsigned op = 0; op < TC_TOP_OPS; op++) {
        json_object *one = tc_json_get(figures, tc_top_ops[op], NULL);
        double n = (double)(tc_json_number(one, "requests") + tc_json_number(one, "failed"));

        worst = MAX(worst, (double)tc_json_number(one, "worst-ns"));
        if (!tc_json_get(one, "mean-ns", NULL))
            continue;
        ns += (double)tc_json_number(one, "mean-ns") * n;
        requests += n;
    }
    if (requests > 0)
        tm_json_add_uint(figures, "mean-ns", (uint64_t)(ns / requests));
    if (worst > 0)
        tm_json_add_uint(figures, "worst-ns", (uint64_t)worst);
}

static void add_ops(json_object *figures, json_object *before, json_object *now, double seconds)
{
    for (unsigned op = 0; op < TC_TOP_OPS; op++)
        json_object_object_add(figures, tc_top_ops[op], op_figures(before, now, op, seconds));
    add_latency(figures);
}

static uint64_t requests_of(json_object *stats)
{
    uint64_t sum = 0;

    for (unsigned op = 0; op < TC_TOP_OPS; op++) {
        g_autofree char *key = g_strconcat(qmp_ops[op], "_operations", NULL);

        sum += tc_json_number(stats, key);
    }
    return sum;
}

static json_object *stats_of(json_object *answers, const char *key, const char *node)
{
    return tc_json_get(find(answers, key, "node-name", node), "stats", NULL);
}

/* Adds the requests of a node: those that it counts itself, or those of its export or its guest's
 * device if these are more. */
static void add_node(json_object *figures, json_object *before, json_object *now, const char *node,
                     double seconds)
{
    bool device = requests_of(stats_of(now, "export-stats", node)) >
                  requests_of(stats_of(now, "node-stats", node));
    const char *key = device ? "export-stats" : "node-stats";

    add_ops(figures, stats_of(before, key, node), stats_of(now, key, node), seconds);
}

/* ---- bitmaps */

static json_object *bitmap_figures(json_object *before, json_object *now, double seconds)
{
    json_object *figures = json_object_new_object();
    uint64_t dirty = tc_json_number(now, "count");
    uint64_t old = before ? tc_json_number(before, "count") : dirty;
    double grown = (double)dirty - (double)old;

    tm_json_add_string(figures, "name", tc_json_string(now, "name"));
    tm_json_add_uint(figures, "dirty", dirty);
    tm_json_add_uint(figures, "granularity", tc_json_number(now, "granularity"));
    tm_json_add_bool(figures, "recording", tc_json_true(now, "recording"));
    if (tc_json_true(now, "inconsistent"))
        tm_json_add_bool(figures, "inconsistent", true);
    json_object_object_add(figures, "growth", json_object_new_int64((int64_t)grown));
    add_rate(figures, "growth-per-second", grown, seconds);
    return figures;
}

static json_object *bitmaps_figures(json_object *before, json_object *now, double seconds)
{
    json_object *bitmaps = tc_json_get(now, "dirty-bitmaps", NULL);
    json_object *array = json_object_new_array();

    for (size_t i = 0; i < tc_json_length(bitmaps); i++) {
        json_object *one = json_object_array_get_idx(bitmaps, i);
        const char *name = tc_json_string(one, "name");

        if (name)
            json_object_array_add(
                array,
                bitmap_figures(find_in(before, "dirty-bitmaps", "name", name), one, seconds));
    }
    return array;
}

/* "bitmap", "dirty" and "growth-per-second" of the newest bitmap that records: what the next backup
 * has to copy. */
static void add_newest(json_object *figures, json_object *bitmaps)
{
    for (size_t i = 0; i < tc_json_length(bitmaps); i++) {
        json_object *one = json_object_array_get_idx(bitmaps, i);

        if (!tc_json_true(one, "recording"))
            continue;
        tm_json_add_string(figures, "bitmap", tc_json_string(one, "name"));
        tm_json_add_uint(figures, "dirty", tc_json_number(one, "dirty"));
        json_object_object_add(figures, "growth-per-second",
                               json_object_get(tc_json_get(one, "growth-per-second", NULL)));
        return;
    }
}

/* ---- disks */

/* Whether the export is one of a backup, which the backups show. */
static bool of_backup(json_object *answers, const char *name)
{
    json_object *backups = tc_json_get(answers, "backups", NULL);

    for (size_t i = 0; i < tc_json_length(backups); i++)
        if (find_in(json_object_array_get_idx(backups, i), "disks", "export", name))
            return true;
    return false;
}

/* An array for each node that has exports which aren't those of a backup: their "id", "name" and
 * "clients". A new reference. */
static json_object *exports_by_node(json_object *answers)
{
    json_object *exports = tc_json_get(answers, "exports", NULL);
    json_object *nodes = json_object_new_object();

    for (size_t i = 0; i < tc_json_length(exports); i++) {
        json_object *one = json_object_array_get_idx(exports, i), *entry, *array;
        const char *name = tc_json_string(one, "name"), *id = tc_json_string(one, "id");
        const char *node = known_node(answers, tc_json_string(one, "node-name"));

        if (!node || of_backup(answers, name))
            continue;
        array = tc_json_get(nodes, node, NULL);
        if (!array) {
            array = json_object_new_array();
            json_object_object_add(nodes, node, array);
        }
        entry = json_object_new_object();
        tm_json_add_string(entry, "id", id ? id : "");
        tm_json_add_string(entry, "name", name ? name : id ? id : "");
        tm_json_add_uint(entry, "clients", tc_json_length(tc_json_get(one, "clients", NULL)));
        json_object_array_add(array, entry);
    }
    return nodes;
}

static bool is_listed(const char *const *only, const char *name)
{
    return name && g_strv_contains(only, name);
}

static bool is_wanted(const char *const *only, const char *node, json_object *exports)
{
    bool wanted = !*only || is_listed(only, node);

    for (size_t i = 0; i < tc_json_length(exports) && !wanted; i++) {
        json_object *one = json_object_array_get_idx(exports, i);

        wanted = is_listed(only, tc_json_string(one, "id")) ||
                 is_listed(only, tc_json_string(one, "name"));
    }
    return wanted;
}

/* Whether a node is a disk for people: clients, a guest or bitmaps know it. */
static bool is_disk(json_object *answers, json_object *node, json_object *exports)
{
    const char *name = tc_json_string(node, "node-name");

    return name && !is_implicit(name) &&
           (tc_json_length(exports) || tc_json_get(node, "dirty-bitmaps", NULL) ||
            (!tc_json_get(answers, "sessions", NULL) &&
             find(answers, "export-stats", "node-name", name)));
}

static json_object *disk_figures(json_object *before, json_object *now, json_object *node,
                                 json_object *exports, double seconds)
{
    const char *name = tc_json_string(node, "node-name");
    json_object *figures = json_object_new_object();
    uint64_t clients = 0;

    tm_json_add_string(figures, "node", name);
    tm_json_add_uint(figures, "size",
                     json_object_get_uint64(tc_json_get(node, "image", "virtual-size", NULL)));
    for (size_t i = 0; i < tc_json_length(exports); i++)
        clients += tc_json_number(json_object_array_get_idx(exports, i), "clients");
    tm_json_add_uint(figures, "clients", clients);
    json_object_object_add(figures, "exports",
                           exports ? json_object_get(exports) : json_object_new_array());
    add_node(figures, before, now, name, seconds);
    json_object_object_add(
        figures, "bitmaps",
        bitmaps_figures(find(before, "nodes", "node-name", name), node, seconds));
    add_newest(figures, tc_json_get(figures, "bitmaps", NULL));
    return figures;
}

static int compare_nodes(const void *a, const void *b)
{
    json_object *const *x = a, *const *y = b;

    return g_strcmp0(tc_json_string(*x, "node"), tc_json_string(*y, "node"));
}

static json_object *all_disks(json_object *before, json_object *now, double seconds,
                              const char *const *only)
{
    json_object *nodes = tc_json_get(now, "nodes", NULL), *array = json_object_new_array();
    g_autoptr(json_object) by_node = exports_by_node(now);

    for (size_t i = 0; i < tc_json_length(nodes); i++) {
        json_object *node = json_object_array_get_idx(nodes, i);
        const char *name = tc_json_string(node, "node-name");
        json_object *exports = name ? tc_json_get(by_node, name, NULL) : NULL;

        if (is_disk(now, node, exports) && is_wanted(only, name, exports))
            json_object_array_add(array, disk_figures(before, now, node, exports, seconds));
    }
    json_object_array_sort(array, compare_nodes);
    return array;
}

bool tc_top_check_names(json_object *now, const char *const *only, GError **error)
{
    for (; *only; only++) {
        const char *const one[] = { *only, NULL }, *const none[] = { NULL };
        g_autoptr(json_object) found = all_disks(now, now, 1, one);
        g_autoptr(json_object) all = all_disks(now, now, 1, none);
        g_autoptr(GPtrArray) known = g_ptr_array_new();

        if (tc_json_length(found))
            continue;
        for (size_t i = 0; i < tc_json_length(all); i++)
            g_ptr_array_add(known,
                            (gpointer)tc_json_string(json_object_array_get_idx(all, i), "node"));
        return tc_view_fail_name("disk", *only, known, error);
    }
    return true;
}

/* ---- clients, jobs, backups */

static void add_text(json_object *object, const char *key, const char *text)
{
    if (text)
        tm_json_add_string(object, key, text);
}

static json_object *session_by_id(json_object *answers, uint64_t id)
{
    json_object *array = tc_json_get(answers, "sessions", NULL);

    for (size_t i = 0; i < tc_json_length(array); i++) {
        json_object *one = json_object_array_get_idx(array, i);

        if (tc_json_number(one, "id") == id)
            return one;
    }
    return NULL;
}

static uint64_t session_requests(json_object *session)
{
    json_object *requests = tc_json_get(session, "requests", NULL);
    uint64_t sum = 0;

    if (requests) {
        json_object_object_foreach(requests, kind, number) sum +=
            *kind ? json_object_get_uint64(number) : 0;
    }
    return sum;
}

static json_object *session_figures(json_object *before, json_object *all, json_object *now,
                                    double seconds)
{
    json_object *figures = json_object_new_object();
    json_object *old = session_by_id(before, tc_json_number(now, "id"));

    tm_json_add_uint(figures, "id", tc_json_number(now, "id"));
    add_text(figures, "export", tc_json_string(now, "export"));
    add_text(figures, "peer", tc_json_string(now, "peer"));
    add_text(figures, "identity", tc_json_string(now, "identity"));
    tm_json_add_bool(figures, "writable", tc_json_true(now, "writable"));
    tm_json_add_uint(figures, "errors", tc_json_number(now, "errors"));
    tm_json_add_uint(figures, "age", tc_json_number(now, "age"));
    tm_json_add_uint(figures, "idle", tc_json_number(now, "idle"));
    add_rate(figures, "requests-per-second",
             (double)(session_requests(now) - session_requests(old)), seconds);
    add_rate(figures, "read-per-second", (double)growth(old, now, "bytes-read"), seconds);
    add_rate(figures, "written-per-second", (double)growth(old, now, "bytes-written"), seconds);
    return figures;
}

static json_object *job_figures(json_object *before, json_object *all, json_object *now,
                                double seconds)
{
    json_object *figures = json_object_new_object();
    json_object *old = find(before, "jobs", "id", tc_json_string(now, "id"));
    uint64_t done = tc_json_number(now, "current-progress");
    uint64_t total = tc_json_number(now, "total-progress");
    double rate = old ? (double)growth(old, now, "current-progress") / seconds : 0;

    add_text(figures, "id", tc_json_string(now, "id"));
    add_text(figures, "type", tc_json_string(now, "type"));
    add_text(figures, "status", tc_json_string(now, "status"));
    add_text(figures, "error", tc_json_string(now, "error"));
    tm_json_add_uint(figures, "done", done);
    tm_json_add_uint(figures, "total", total);
    add_rate(figures, "rate", rate, 1);
    if (rate > 0 && total > done)
        tm_json_add_uint(figures, "seconds-left", (uint64_t)((double)(total - done) / rate));
    return figures;
}

/* The bytes that were read through the export called @name since it began. */
static uint64_t read_through(json_object *answers, const char *name)
{
    const char *id = tc_json_string(find(answers, "exports", "name", name), "id");
    json_object *stats = find(answers, "export-stats", "device", id);

    return json_object_get_uint64(tc_json_get(stats, "stats", "rd_bytes", NULL));
}

static json_object *backup_disks(json_object *before, json_object *now, json_object *backup,
                                 double seconds)
{
    json_object *disks = tc_json_get(backup, "disks", NULL), *array = json_object_new_array();

    for (size_t i = 0; i < tc_json_length(disks); i++) {
        json_object *one = json_object_array_get_idx(disks, i), *entry = json_object_new_object();
        const char *name = tc_json_string(one, "export");
        uint64_t read = read_through(now, name), old = read_through(before, name);

        add_text(entry, "node", tc_json_string(one, "node"));
        add_text(entry, "export", name);
        tm_json_add_uint(entry, "dirty", tc_json_number(one, "dirty"));
        tm_json_add_uint(entry, "read", read);
        add_rate(entry, "read-per-second", (double)(read - MIN(read, old)), seconds);
        tm_json_add_uint(entry, "clients", tc_json_number(one, "sessions"));
        tm_json_add_uint(entry, "copied-before-writes",
                         tc_json_number(one, "copied-before-writes"));
        json_object_array_add(array, entry);
    }
    return array;
}

static json_object *backup_figures(json_object *before, json_object *all, json_object *now,
                                   double seconds)
{
    json_object *figures = json_object_new_object(), *scratch = tc_json_get(now, "scratch", NULL);

    add_text(figures, "id", tc_json_string(now, "id"));
    tm_json_add_uint(figures, "age", tc_json_number(now, "age"));
    add_text(figures, "aborted", tc_json_string(now, "aborted"));
    tm_json_add_uint(figures, "scratch-used", tc_json_number(scratch, "used"));
    if (tc_json_get(scratch, "max-size", NULL))
        tm_json_add_uint(figures, "scratch-max", tc_json_number(scratch, "max-size"));
    json_object_object_add(figures, "disks", backup_disks(before, all, now, seconds));
    return figures;
}

/* The arrays of figures that are about one element of an answer each. */
static const struct {
    const char *key; /* of the answer and of the figures */
    json_object *(*figures)(json_object *before, json_object *all, json_object *now,
                            double seconds);
} lists[] = {
    { "sessions", session_figures },
    { "jobs", job_figures },
    { "backups", backup_figures },
};

json_object *tc_top_figures(json_object *before, json_object *now, double seconds,
                            const char *const *only)
{
    json_object *figures = json_object_new_object();

    add_rate(figures, "time", (double)g_get_real_time(), 1e6);
    add_rate(figures, "seconds", seconds, 1);
    json_object_object_add(figures, "disks", all_disks(before, now, seconds, only));
    for (unsigned i = 0; i < G_N_ELEMENTS(lists); i++) {
        json_object *answer = tc_json_get(now, lists[i].key, NULL);
        json_object *array = json_object_new_array();

        for (size_t k = 0; k < tc_json_length(answer); k++)
            json_object_array_add(
                array,
                lists[i].figures(before, now, json_object_array_get_idx(answer, k), seconds));
        json_object_object_add(figures, lists[i].key, array);
    }
    return figures;
}
