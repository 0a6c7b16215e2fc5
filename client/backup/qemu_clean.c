/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/backup/qemu_clean.c: see qemu_clean.h.
 *
 * Invariant: the order. Exports hold points, points hold copies, and a copy that has a user keeps
 * its disk from being given back to the device. The bitmaps go last, because they show which disk a
 * filter stands on. */
#include "client/backup/qemu_clean.h"
#include "client/backup/qemu_names.h"
#include "client/backup/qemu_view.h"
#include <stdlib.h>
#include <string.h>

enum { POLL_US = 5000, POLLS_MAX = 6000 };

static bool is_ours(const char *name)
{
    return name && g_str_has_prefix(name, TC_QEMU_PREFIX);
}

static void put_object(gpointer object)
{
    json_object_put(object);
}

/* The objects that @command lists whose string @key is ours.
  Returned; NULL with an error. */
static GPtrArray *list_ours(TcQmp *qmp, const char *command, const char *key, GError **error)
{
    g_autoptr(json_object) all = tc_qmp_execute(qmp, command, NULL, error);
    GPtrArray *ours;

    if (!all)
        return NULL;
    ours = g_ptr_array_new_with_free_func(put_object);
    for (size_t i = 0; i < json_object_array_length(all); i++) {
        json_object *object = json_object_array_get_idx(all, i);

        if (is_ours(tc_json_string(object, key)))
            g_ptr_array_add(ours, json_object_get(object));
    }
    return ours;
}

/* Asks for the end of each of them by @end, until @command lists none any more. */
static bool end_all(TcQmp *qmp, const char *command, const char *key,
                    void (*end)(TcQmp *qmp, json_object *object), bool *found, GError **error)
{
    for (unsigned i = 0; i < POLLS_MAX; i++) {
        g_autoptr(GPtrArray) ours = list_ours(qmp, command, key, error);

        if (!ours)
            return false;
        if (!ours->len)
            return true;
        *found = true;
        for (unsigned k = 0; k < ours->len; k++)
            end(qmp, ours->pdata[k]);
        g_usleep(POLL_US);
    }
    return tm_error_set(error, "QEMU does not end what was set up for the backup (%s)", command);
}

/* Errors don't count: what ends by itself in between is as good. */
static void end_export(TcQmp *qmp, json_object *export)
{
    tc_qmp_run(qmp, "block-export-del",
               tc_json_new("id", tc_json_string(export, "id"), "mode", "hard", NULL), NULL);
}

static void end_job(TcQmp *qmp, json_object *job)
{
    bool over = !g_strcmp0(tc_json_string(job, "status"), "concluded");

    tc_qmp_run(qmp, over ? "job-dismiss" : "job-cancel",
               tc_json_new("id", tc_json_string(job, "id"), NULL), NULL);
}

static bool delete_node(TcQmp *qmp, const char *name, GError **error)
{
    return tc_qmp_run(qmp, "blockdev-del", tc_json_new("node-name", name, NULL), error);
}

/* Nodes whose names begin with @prefix. */
static bool delete_nodes(TcQmp *qmp, const TcQemuView *view, const char *prefix, GError **error)
{
    bool ok = true;

    for (size_t i = 0; i < json_object_array_length(view->nodes); i++) {
        json_object *node = json_object_array_get_idx(view->nodes, i);
        const char *name = tc_json_string(node, "node-name");

        if (name && g_str_has_prefix(name, prefix))
            ok = delete_node(qmp, name, ok ? error : NULL) && ok;
    }
    return ok;
}

/* If the marker is there, the server is ours, unless somebody else has exports on it meanwhile. */
static bool stop_server(TcQmp *qmp, const TcQemuView *view, GError **error)
{
    g_autoptr(json_object) exports = NULL;
    bool used = false;

    if (!tc_qemu_view_node(view, TC_QEMU_SERVER))
        return true;
    exports = tc_qmp_execute(qmp, "query-block-exports", NULL, error);
    if (!exports)
        return false;
    for (size_t i = 0; i < json_object_array_length(exports); i++) {
        json_object *export = json_object_array_get_idx(exports, i);

        used |= !g_strcmp0(tc_json_string(export, "type"), "nbd");
    }
    /* it fails if the kill came before the start */
    if (!used)
        tc_qmp_run(qmp, "nbd-server-stop", NULL, NULL);
    return delete_node(qmp, TC_QEMU_SERVER, error);
}

/* What the filter stands on when there is no copy between. A new reference; NULL with an error. */
static json_object *filter_options(const TcQemuView *view, const char *filter, GError **error)
{
    const char *number = strrchr(filter, '-') + 1;
    g_autofree char *bitmap = g_strconcat(TC_QEMU_PREFIX, number, NULL);
    const char *disk = tc_qemu_view_node_of_bitmap(view, bitmap);

    if (!disk) {
        tm_error_set(error,
                     "no node has the bitmap '%s', so that it is not known which disk is "
                     "below node '%s'",
                     bitmap, filter);
        return NULL;
    }
    return tc_json_new("driver", "raw", "node-name", filter, "file", disk, "discard", "unmap",
                       NULL);
}

/* Gives the disk below @filter back to each device that has the filter. */
static bool give_back(TcQmp *qmp, const TcQemuView *view, json_object *filter, GError **error)
{
    const char *name = tc_json_string(filter, "node-name");

    for (size_t i = 0; i < json_object_array_length(view->block); i++) {
        json_object *entry = json_object_array_get_idx(view->block, i);
        const char *qdev = tc_json_string(entry, "qdev");
        g_autofree char *path = qdev ? tc_qemu_device_path(qdev) : NULL;

        if (!path ||
            g_strcmp0(tc_json_string(tc_json_get(entry, "inserted", NULL), "node-name"), name))
            continue;
        if (!tc_qmp_run(qmp, "qom-set",
                        tc_json_new("path", path, "property", "drive", "value",
                                    tc_json_string(filter, "file"), NULL),
                        error))
            return false;
    }
    return true;
}

/* Takes the copies from below the filters, then the filters from below the devices. */
static bool remove_filters(TcQmp *qmp, const TcQemuView *view, GError **error)
{
    g_autoptr(json_object) arguments = json_object_new_object();
    json_object *options = json_object_new_array();

    json_object_object_add(arguments, "options", options);
    for (size_t i = 0; i < json_object_array_length(view->nodes); i++) {
        json_object *node = json_object_array_get_idx(view->nodes, i), *filter;
        const char *name = tc_json_string(node, "node-name");

        if (!name || !g_str_has_prefix(name, TC_QEMU_PREFIX "filter-"))
            continue;
        filter = filter_options(view, name, error);
        if (!filter)
            return false;
        json_object_array_add(options, filter);
    }
    if (!json_object_array_length(options))
        return true;
    if (!tc_qmp_run(qmp, "blockdev-reopen", json_object_get(arguments), error))
        return false;
    for (size_t i = 0; i < json_object_array_length(options); i++) {
        if (!give_back(qmp, view, json_object_array_get_idx(options, i), error))
            return false;
    }
    return true;
}

static bool remove_bitmaps(TcQmp *qmp, const TcQemuView *view, bool *found, GError **error)
{
    bool ok = true;

    for (size_t i = 0; i < json_object_array_length(view->nodes); i++) {
        json_object *node = json_object_array_get_idx(view->nodes, i);
        json_object *bitmaps = tc_json_get(node, "dirty-bitmaps", NULL);

        for (size_t b = 0; bitmaps && b < json_object_array_length(bitmaps); b++) {
            const char *name = tc_json_string(json_object_array_get_idx(bitmaps, b), "name");

            if (!is_ours(name))
                continue;
            *found = true;
            ok = tc_qmp_run(
                     qmp, "block-dirty-bitmap-remove",
                     tc_json_new("node", tc_json_string(node, "node-name"), "name", name, NULL),
                     ok ? error : NULL) &&
                 ok;
        }
    }
    return ok;
}

/* Descriptors of scratch files that no node has taken yet. */
static bool remove_descriptors(TcQmp *qmp, GError **error)
{
    g_autoptr(json_object) sets = tc_qmp_execute(qmp, "query-fdsets", NULL, error);
    bool ok = sets != NULL;

    for (size_t i = 0; sets && i < json_object_array_length(sets); i++) {
        json_object *set = json_object_array_get_idx(sets, i), *arguments;
        json_object *fds = tc_json_get(set, "fds", NULL);

        if (!fds || !json_object_array_length(fds) ||
            !is_ours(tc_json_string(json_object_array_get_idx(fds, 0), "opaque")))
            continue;
        arguments = json_object_new_object();
        json_object_object_add(arguments, "fdset-id",
                               json_object_get(tc_json_get(set, "fdset-id", NULL)));
        ok = tc_qmp_run(qmp, "remove-fd", arguments, ok ? error : NULL) && ok;
    }
    return ok;
}

bool tc_qemu_clean(TcQmp *qmp, bool *found, GError **error)
{
    g_autoptr(TcQemuView) view = NULL;
    bool some = false, ok;

    ok = end_all(qmp, "query-block-exports", "id", end_export, &some, error);
    ok = end_all(qmp, "query-jobs", "id", end_job, &some, ok ? error : NULL) && ok;
    view = tc_qemu_view_new(qmp, ok ? error : NULL);
    if (!view)
        return false;
    ok = stop_server(qmp, view, ok ? error : NULL) && ok;
    ok = delete_nodes(qmp, view, TC_QEMU_PREFIX "point-", ok ? error : NULL) && ok;
    ok = remove_filters(qmp, view, ok ? error : NULL) && ok;
    ok = delete_nodes(qmp, view, TC_QEMU_PREFIX "filter-", ok ? error : NULL) && ok;
    ok = delete_nodes(qmp, view, TC_QEMU_PREFIX "copy-", ok ? error : NULL) && ok;
    ok = delete_nodes(qmp, view, TC_QEMU_PREFIX "scratch-", ok ? error : NULL) && ok;
    ok = remove_descriptors(qmp, ok ? error : NULL) && ok;
    /* which disk is below a filter that is left is not to be forgotten */
    if (ok)
        ok = remove_bitmaps(qmp, view, &some, error);
    if (found)
        *found = some;
    return ok;
}
