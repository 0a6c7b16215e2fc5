/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/backup/qemu_view.c: see qemu_view.h.
 *
 * QEMU reports who uses a node only through x-debug-query-block-graph. Where that is missing, no
 * node counts as used by its device alone. */
#include "client/backup/qemu_view.h"
#include "client/text.h"
#include <string.h>

#define PERIPHERAL "/machine/peripheral/"

TcQemuView *tc_qemu_view_new(TcQmp *qmp, GError **error)
{
    g_autoptr(TcQemuView) view = g_new0(TcQemuView, 1);

    view->block = tc_qmp_execute(qmp, "query-block", NULL, error);
    if (!view->block)
        return NULL;
    view->nodes = tc_qmp_execute(qmp, "query-named-block-nodes", NULL, error);
    if (!view->nodes)
        return NULL;
    view->graph = tc_qmp_execute(qmp, "x-debug-query-block-graph", NULL, NULL);
    return g_steal_pointer(&view);
}

void tc_qemu_view_free(TcQemuView *view)
{
    if (!view)
        return;
    json_object_put(view->block);
    json_object_put(view->nodes);
    json_object_put(view->graph);
    g_free(view);
}

void tc_qemu_disk_free(TcQemuDisk *disk)
{
    if (!disk)
        return;
    g_free(disk->node);
    g_free(disk->device);
    g_free(disk->file);
    g_free(disk);
}

json_object *tc_qemu_view_node(const TcQemuView *view, const char *name)
{
    for (size_t i = 0; i < json_object_array_length(view->nodes); i++) {
        json_object *node = json_object_array_get_idx(view->nodes, i);

        if (!g_strcmp0(tc_json_string(node, "node-name"), name))
            return node;
    }
    return NULL;
}

const char *tc_qemu_view_node_of_bitmap(const TcQemuView *view, const char *name)
{
    for (size_t i = 0; i < json_object_array_length(view->nodes); i++) {
        json_object *node = json_object_array_get_idx(view->nodes, i);
        json_object *bitmaps = tc_json_get(node, "dirty-bitmaps", NULL);

        for (size_t b = 0; bitmaps && b < json_object_array_length(bitmaps); b++) {
            json_object *bitmap = json_object_array_get_idx(bitmaps, b);

            if (!g_strcmp0(tc_json_string(bitmap, "name"), name))
                return tc_json_string(node, "node-name");
        }
    }
    return NULL;
}

char *tc_qemu_device_path(const char *qdev)
{
    return *qdev == '/' ? g_strdup(qdev) : g_strconcat(PERIPHERAL, qdev, NULL);
}

/* Whether an entry of query-block is what @word names. A virtio device has the disk in a child
 * object, of which users don't know. */
static bool means(json_object *entry, const char *word)
{
    const char *qdev = tc_json_string(entry, "qdev"), *drive = tc_json_string(entry, "device");
    const char *node = tc_json_string(tc_json_get(entry, "inserted", NULL), "node-name");
    g_autofree char *path = qdev ? tc_qemu_device_path(qdev) : NULL;
    g_autofree char *wanted = tc_qemu_device_path(word);
    size_t length = strlen(wanted);

    if (!*word)
        return false;
    return !g_strcmp0(drive, word) || !g_strcmp0(node, word) ||
           (path && !strncmp(path, wanted, length) && (!path[length] || path[length] == '/'));
}

static json_object *find_entry(const TcQemuView *view, const char *word)
{
    for (size_t i = 0; i < json_object_array_length(view->block); i++) {
        json_object *entry = json_object_array_get_idx(view->block, i);

        if (means(entry, word))
            return entry;
    }
    return NULL;
}

/* The entry of query-block that has @node inserted. */
static json_object *find_inserted(const TcQemuView *view, const char *node)
{
    for (size_t i = 0; i < json_object_array_length(view->block); i++) {
        json_object *entry = json_object_array_get_idx(view->block, i);

        if (!g_strcmp0(tc_json_string(tc_json_get(entry, "inserted", NULL), "node-name"), node))
            return entry;
    }
    return NULL;
}

/* ---- the graph */

static json_object *graph_node(const TcQemuView *view, uint64_t id)
{
    json_object *nodes = tc_json_get(view->graph, "nodes", NULL);

    for (size_t i = 0; nodes && i < json_object_array_length(nodes); i++) {
        json_object *node = json_object_array_get_idx(nodes, i);

        if (tc_json_number(node, "id") == id)
            return node;
    }
    return NULL;
}

/* The next edge at or after *@at between @node and its parents (@up) or children, or NULL; *other
 * is what is at its other end. */
static json_object *next_edge(const TcQemuView *view, const char *node, bool up, size_t *at,
                              json_object **other)
{
    json_object *edges = tc_json_get(view->graph, "edges", NULL);

    for (; edges && *at < json_object_array_length(edges); ++*at) {
        json_object *edge = json_object_array_get_idx(edges, *at);
        json_object *self = graph_node(view, tc_json_number(edge, up ? "child" : "parent"));

        if (g_strcmp0(tc_json_string(self, "type"), "block-driver") ||
            g_strcmp0(tc_json_string(self, "name"), node))
            continue;
        *other = graph_node(view, tc_json_number(edge, up ? "parent" : "child"));
        ++*at;
        return edge;
    }
    return NULL;
}

static bool has_driver(const TcQemuView *view, const char *node, const char *const *drivers)
{
    const char *driver = tc_json_string(tc_qemu_view_node(view, node), "drv");

    return driver && g_strv_contains(drivers, driver);
}

/* Filters that users put between a device and its image: they show the image's bytes. */
static bool is_filter(const TcQemuView *view, const char *node)
{
    static const char *const drivers[] = { "throttle",    "copy-on-read", "blkdebug",
                                           "preallocate", "compress",     NULL };

    return has_driver(view, node, drivers);
}

/* What jobs put there. */
static bool is_of_job(const TcQemuView *view, const char *node)
{
    static const char *const drivers[] = { "mirror_top", "commit_top", "copy-before-write", NULL };

    return has_driver(view, node, drivers);
}

/* Below the filters that @top begins with. Borrowed. */
static const char *below_filters(const TcQemuView *view, const char *top)
{
    while (is_filter(view, top)) {
        json_object *child, *edge;
        const char *next = NULL;
        size_t at = 0;

        while (!next && (edge = next_edge(view, top, false, &at, &child))) {
            const char *role = tc_json_string(edge, "name");

            if (!g_strcmp0(role, "file") || !g_strcmp0(role, "image"))
                next = tc_json_string(child, "name");
        }
        if (!next)
            break;
        top = next;
    }
    return top;
}

/* Fails if @disk's node is a part of another node's image; finds out whether the device is its only
 * user. */
static bool check_users(const TcQemuView *view, TcQemuDisk *disk, GError **error)
{
    json_object *parent, *edge;
    unsigned users = 0, devices = 0;
    size_t at = 0;

    while ((edge = next_edge(view, disk->node, true, &at, &parent))) {
        const char *type = tc_json_string(parent, "type"), *name = tc_json_string(parent, "name");
        const char *role = tc_json_string(edge, "name");

        users++;
        devices += !g_strcmp0(type, "block-backend");
        if (g_strcmp0(type, "block-driver") || is_filter(view, name))
            continue;
        if (is_of_job(view, name))
            return tm_error_set(error,
                                "a job works on node '%s': try again when it has ended "
                                "(query-jobs lists it)",
                                disk->node);
        if (!g_strcmp0(role, "backing") || !g_strcmp0(role, "data-file") ||
            !g_strcmp0(role, "file"))
            return tm_error_set(error,
                                "node '%s' is a part of the image of node '%s': name that one",
                                disk->node, name);
    }
    disk->direct =
        users == 1 && devices == 1 && disk->device && find_inserted(view, disk->node) != NULL;
    return true;
}

/* ---- finding */

/* The entry that has @node inserted, perhaps below filters. */
static json_object *find_above(const TcQemuView *view, const char *node)
{
    for (size_t i = 0; i < json_object_array_length(view->block); i++) {
        json_object *entry = json_object_array_get_idx(view->block, i);
        const char *top = tc_json_string(tc_json_get(entry, "inserted", NULL), "node-name");

        if (top && !g_strcmp0(below_filters(view, top), node))
            return entry;
    }
    return NULL;
}

/* What users call the disk of an entry: the id of its device, else its drive. Returned. */
static char *entry_name(json_object *entry)
{
    const char *qdev = tc_json_string(entry, "qdev"), *drive = tc_json_string(entry, "device");

    if (qdev && g_str_has_prefix(qdev, PERIPHERAL)) {
        qdev += strlen(PERIPHERAL);
        return g_strndup(qdev, strcspn(qdev, "/"));
    }
    return g_strdup(qdev && *qdev != '/' ? qdev : drive && *drive ? drive : qdev ? qdev : "");
}

static char *list_disks(const TcQemuView *view)
{
    GString *text = g_string_new(NULL);

    for (size_t i = 0; i < json_object_array_length(view->block); i++) {
        json_object *entry = json_object_array_get_idx(view->block, i);
        json_object *inserted = tc_json_get(entry, "inserted", NULL);
        g_autofree char *name = entry_name(entry);

        if (inserted)
            g_string_append_printf(text, "%s'%s' (node '%s')", text->len ? ", " : "", name,
                                   tc_json_string(inserted, "node-name"));
    }
    return g_string_free(text, false);
}

static bool fail_unknown(const TcQemuView *view, const char *word, GError **error)
{
    g_autofree char *disks = list_disks(view);

    return tm_error_set_class(error, TM_ERROR_DEVICE_NOT_FOUND, "QEMU has no disk '%s'%s%s", word,
                              *disks ? "; it has " : "", disks);
}

static void read_node(TcQemuDisk *disk, json_object *node)
{
    json_object *image = tc_json_get(node, "image", NULL);
    const char *compat =
        tc_json_string(tc_json_get(image, "format-specific", "data", NULL), "compat");

    disk->file = g_strdup(tc_json_string(image, "filename"));
    disk->size = tc_json_number(image, "virtual-size");
    disk->read_only = tc_json_true(node, "ro");
    disk->persistent = !disk->read_only && !g_strcmp0(tc_json_string(node, "drv"), "qcow2") &&
                       g_strcmp0(compat, "0.10");
    disk->bitmaps = tc_json_get(node, "dirty-bitmaps", NULL);
}

TcQemuDisk *tc_qemu_disk_find(const TcQemuView *view, const char *word, GError **error)
{
    g_autoptr(TcQemuDisk) disk = g_new0(TcQemuDisk, 1);
    json_object *entry = find_entry(view, word), *node;
    const char *top = word, *qdev;

    if (entry && !tc_json_get(entry, "inserted", NULL)) {
        tm_error_set(error, "device '%s' has no medium: there is nothing to back up", word);
        return NULL;
    }
    if (entry)
        top = tc_json_string(tc_json_get(entry, "inserted", NULL), "node-name");
    node = top ? tc_qemu_view_node(view, below_filters(view, top)) : NULL;
    if (!node) {
        fail_unknown(view, word, error);
        return NULL;
    }
    disk->node = g_strdup(tc_json_string(node, "node-name"));
    if (!entry)
        entry = find_above(view, disk->node);
    qdev = tc_json_string(entry, "qdev");
    disk->device = qdev ? tc_qemu_device_path(qdev) : NULL;
    read_node(disk, node);
    return check_users(view, disk, error) ? g_steal_pointer(&disk) : NULL;
}
