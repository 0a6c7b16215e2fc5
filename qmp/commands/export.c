/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp/commands/export.c: the exports. The work is block/export's and the server's. */
#include "qmp/commands/families.h"
#include "qmp/context.h"
#include "qmp/qmp_internal.h"
#include "util/error.h"
#include "util/json.h"
#include <string.h>

/* What the newer command would be given: a reference. */
static json_object *as_export_add(const BlkExportOptions *o)
{
    json_object *given = json_object_new_object(), *bitmaps = json_object_new_array();

    tm_json_add_string(given, "type", o->type);
    tm_json_add_string(given, "id", o->id);
    tm_json_add_string(given, "node-name", o->node_name);
    tm_json_add_string(given, "name", o->name);
    tm_json_add_bool(given, "writable", o->writable);
    if (o->description)
        tm_json_add_string(given, "description", o->description);
    if (o->n_bitmaps)
        json_object_array_add(bitmaps, json_object_new_string(o->bitmaps[0].name));
    json_object_object_add(given, "bitmaps", bitmaps);
    return given;
}

static bool run_nbd_add(QmpCall *call, GError **error)
{
    const char *device = qmp_arg_str(call->args, "device");
    const char *name = qmp_arg_str(call->args, "name"), *bitmap = qmp_arg_str(call->args, "bitmap");
    BlkBitmapName bitmap_name = { NULL, bitmap };
    BlkNode *node = blk_graph_lookup(qmp_context_graph(call->ctx), device, device, error);
    BlkExportOptions options = {
        .id = name ? name : device,
        .type = "nbd",
        .node_name = device,
        .name = name ? name : device,
        .description = qmp_arg_str(call->args, "description"),
        .bitmaps = &bitmap_name,
        .n_bitmaps = bitmap ? 1 : 0,
    };

    bool ok;

    if (!node)
        return false;
    /* This old command never refused a read-only node: the export was read-only then. */
    options.writable = qmp_arg_bool(call->args, "writable", false) && !blk_node_read_only(node);
    options.given = as_export_add(&options);
    ok = blk_exports_add(qmp_context_exports(call->ctx), &options, error) != NULL;
    json_object_put(options.given);
    return ok;
}

static BlkDelMode del_mode(json_object *args)
{
    const char *mode = qmp_arg_str(args, "mode");

    if (mode && !strcmp(mode, "wait"))
        return BLK_DEL_WAIT;
    return mode && !strcmp(mode, "hard") ? BLK_DEL_HARD : BLK_DEL_SAFE;
}

static bool run_nbd_remove(QmpCall *call, GError **error)
{
    BlkExports *exports = qmp_context_exports(call->ctx);
    const char *name = qmp_arg_str(call->args, "name");
    g_autoptr(BlkExport) export_ = blk_exports_find_id(exports, name);

    if (export_ && strcmp(blk_export_type(export_), "nbd"))
        return tm_error_set(error, "Block export '%s' is not an NBD export", name);
    return blk_exports_del(exports, name, del_mode(call->args), 0, error);
}

/* ---- exports ---- */

static BlkAllowOther allow_other(json_object *args)
{
    const char *value = qmp_arg_str(args, "allow-other");

    if (!value || g_str_equal(value, "auto"))
        return BLK_ALLOW_OTHER_AUTO;
    return g_str_equal(value, "on") ? BLK_ALLOW_OTHER_ON : BLK_ALLOW_OTHER_OFF;
}

static bool run_add(QmpCall *call, GError **error)
{
    json_object *a = call->args, *status_2016 = qmp_arg(a, "block-status-2016");
    g_autofree BlkBitmapName *bitmaps = NULL;
    g_autofree const char **servers = NULL;
    BlkExportOptions options = {
        .id = qmp_arg_str(a, "id"),
        .type = qmp_arg_str(a, "type"),
        .node_name = qmp_arg_str(a, "node-name"),
        .name = qmp_arg_str(a, "name"),
        .description = qmp_arg_str(a, "description"),
        .writable = qmp_arg_bool(a, "writable", false),
        .writethrough = qmp_arg_bool(a, "writethrough", false),
        .allocation_depth = qmp_arg_bool(a, "allocation-depth", false),
        .given = a,
    };

    servers = qmp_arg_strings(a, "servers", &options.n_servers);
    options.servers = servers;
    options.iothread = qmp_arg_str(a, "iothread");
    options.hidden = qmp_arg_bool(a, "hidden", false);
    options.is_default = qmp_arg_bool(a, "default", false);
    options.allow_inactive = qmp_arg_bool(a, "allow-inactive", false);
    options.max_connections = (uint32_t)qmp_arg_uint(a, "max-connections", 0);
    options.allow[BLK_LIST] = qmp_arg_str(a, "allow-list");
    options.allow[BLK_OPEN] = qmp_arg_str(a, "allow-open");
    options.allow[BLK_WRITE] = qmp_arg_str(a, "allow-write");
    options.logical_block_size = qmp_arg_uint(a, "logical-block-size", 512);
    options.num_queues = (unsigned)qmp_arg_uint(a, "num-queues", 1);
    if (qmp_arg(a, "addr") &&
        !qmp_arg_address(call->ctx, qmp_arg(a, "addr"), &options.address, error))
        return false;
    bitmaps = qmp_arg_bitmaps(a, "bitmaps", &options.n_bitmaps);
    options.bitmaps = bitmaps;
    options.status_2016 = status_2016 != NULL;
    if (qmp_arg(status_2016, "dirty-flag"))
        options.dirty_flag_2016 = 1u << qmp_arg_uint(status_2016, "dirty-flag", 0);
    options.bitmap_2016 = qmp_arg_str(status_2016, "bitmap");
    options.mountpoint = qmp_arg_str(a, "mountpoint");
    options.growable = qmp_arg_bool(a, "growable", false);
    options.allow_other = allow_other(a);
    return blk_exports_add(qmp_context_exports(call->ctx), &options, error) != NULL;
}

static bool run_del(QmpCall *call, GError **error)
{
    BlkDelMode mode = del_mode(call->args);

    if (qmp_arg(call->args, "seconds") && mode != BLK_DEL_WAIT)
        return tm_error_set(error, "Parameter 'seconds' needs 'mode' to be 'wait'");
    return blk_exports_del(qmp_context_exports(call->ctx), qmp_arg_str(call->args, "id"), mode,
                           (uint32_t)qmp_arg_uint(call->args, "seconds", 0), error);
}

static bool has_bitmap(BlkNode *node, BmpBitmap *bitmap)
{
    g_autoptr(BmpBitmap) found =
        bmp_set_find(blk_node_bitmaps(node), bmp_bitmap_name(bitmap), NULL);

    return found == bitmap;
}

/* The name of the node that has it, mostly @exported; NULL: it has just gone. */
static const char *node_of(BlkNode *exported, BmpBitmap *bitmap)
{
    g_autoptr(GPtrArray) nodes = NULL;

    if (has_bitmap(exported, bitmap))
        return blk_node_name(exported);
    nodes = blk_graph_nodes(blk_node_graph(exported));
    for (guint i = 0; i < nodes->len; i++) {
        if (has_bitmap(nodes->pdata[i], bitmap))
            return blk_node_name(nodes->pdata[i]);
    }
    return NULL;
}

static json_object *offered_bitmaps(BlkExport *export_)
{
    BlkNode *exported = blk_export_node(export_);
    BlkSelection *selection = blk_export_selection(export_);
    json_object *all = json_object_new_array();

    for (size_t i = 0; i < selection->count; i++) {
        const char *node = node_of(exported, selection->bitmaps[i]);
        json_object *bitmap = json_object_new_object();

        tm_json_add_string(bitmap, "node", node ? node : "");
        tm_json_add_string(bitmap, "name", bmp_bitmap_name(selection->bitmaps[i]));
        json_object_array_add(all, bitmap);
    }
    blk_selection_unref(selection);
    return all;
}

/* The place of @bitmap, a name or an object, among the first @n objects of @offered; @n: none. */
static size_t find_offered(json_object *offered, size_t n, json_object *bitmap)
{
    bool named = json_object_is_type(bitmap, json_type_string);
    const char *node = named ? NULL : qmp_arg_str(bitmap, "node");
    const char *name = named ? json_object_get_string(bitmap) : qmp_arg_str(bitmap, "name");
    size_t i;

    for (i = 0; i < n; i++) {
        json_object *one = json_object_array_get_idx(offered, i);

        if (!strcmp(qmp_arg_str(one, "name"), name) &&
            (!node || !strcmp(qmp_arg_str(one, "node"), node)))
            break;
    }
    return i;
}

static bool remove_offered(json_object *offered, json_object *args, GError **error)
{
    json_object *names = qmp_arg(args, "remove");

    for (size_t i = 0; names && i < json_object_array_length(names); i++) {
        json_object *name = json_object_array_get_idx(names, i);
        size_t n = json_object_array_length(offered), at = find_offered(offered, n, name);

        if (at == n)
            return tm_error_set(error, "Bitmap '%s' is not offered by export '%s'",
                                json_object_get_string(name), qmp_arg_str(args, "id"));
        json_object_array_del_idx(offered, at, 1);
    }
    return true;
}

static void add_offered(json_object *offered, json_object *args)
{
    json_object *bitmaps = qmp_arg(args, "add");
    size_t n = json_object_array_length(offered);

    for (size_t i = 0; bitmaps && i < json_object_array_length(bitmaps); i++) {
        json_object *bitmap = json_object_array_get_idx(bitmaps, i);

        if (find_offered(offered, n, bitmap) == n)
            json_object_array_add(offered, json_object_get(bitmap));
    }
}

/* The bitmaps that are named, or those that are offered now, with the change. A reference. */
static json_object *wanted(BlkExport *export_, json_object *args, GError **error)
{
    json_object *bitmaps = qmp_arg(args, "bitmaps"), *offered;
    bool change = qmp_arg(args, "add") || qmp_arg(args, "remove");

    if (bitmaps ? change : !change) {
        tm_error_set(error, bitmaps ? "Parameter 'bitmaps' excludes 'add' and 'remove'"
                                    : "Parameter 'bitmaps' is missing");
        return NULL;
    }
    if (bitmaps)
        return json_object_get(bitmaps);
    offered = offered_bitmaps(export_);
    if (!remove_offered(offered, args, error)) {
        json_object_put(offered);
        return NULL;
    }
    add_offered(offered, args);
    return offered;
}

static bool run_select(QmpCall *call, GError **error)
{
    BlkExports *exports = qmp_context_exports(call->ctx);
    const char *id = qmp_arg_str(call->args, "id");
    g_autoptr(BlkExport) export_ = blk_exports_find_id(exports, id);
    g_autofree BlkBitmapName *names = NULL;
    json_object *bitmaps, *copy = NULL;
    size_t n;

    if (!export_)
        return tm_error_set(error, "Export '%s' is not found", id);
    bitmaps = wanted(export_, call->args, error);
    if (!bitmaps)
        return false;
    names = qmp_bitmap_names(bitmaps, &n);
    if (blk_exports_select(exports, id, names, n, error)) {
        json_object_deep_copy(bitmaps, &copy, NULL);
        blk_export_set_given(export_, "bitmaps", copy);
    }
    json_object_put(bitmaps);
    return copy != NULL;
}

static json_object *export_info(BlkExport *export_)
{
    json_object *info = json_object_new_object();
    BlkNode *node = blk_export_node(export_);

    tm_json_add_string(info, "node-name", blk_node_name(node));
    tm_json_add_bool(info, "shutting-down", blk_export_shutting_down(export_));
    tm_json_add_string(info, "type", blk_export_type(export_));
    tm_json_add_string(info, "id", blk_export_id(export_));
    tm_json_add_string(info, "name", blk_export_name(export_));
    tm_json_add_bool(info, "writable", blk_export_writable(export_));
    json_object_object_add(info, "bitmaps", offered_bitmaps(export_));
    blk_export_describe(export_, info);
    return info;
}

static const char *id_of(const void *export_)
{
    return blk_export_id(export_);
}

/* Newest first, as QEMU. */
static bool run_query(QmpCall *call, GError **error)
{
    g_autoptr(GPtrArray) exports = blk_exports_list(qmp_context_exports(call->ctx));
    g_autoptr(GPtrArray) page = qmp_arg_page(call->args, exports, true, id_of);

    call->result = json_object_new_array();
    for (guint i = 0; i < page->len; i++)
        json_object_array_add(call->result, export_info(page->pdata[i]));
    return true;
}

/* ---- types ---- */

static const QmpMember query_members[] = { QMP_PAGE_MEMBERS("id"), { NULL } };
static const QmpType query_args = { .kind = QMP_KIND_OBJECT,
                                    .name = "q_obj_query-block-exports-arg",
                                    .members = query_members };

static const char *const mode_values[] = { "safe", "hard", "wait", NULL };
static const QmpType mode_type = { .kind = QMP_KIND_ENUM,
                                   .name = "BlockExportRemoveMode",
                                   .values = mode_values };

static const QmpMember nbd_add_members[] = {
    { "name", &qmp_type_str, true, "export name, and id (default: the node name)" },
    { "description", &qmp_type_str, true, "free text, shown to clients that list the exports" },
    { "device", &qmp_type_str, false, "the node to export" },
    { "writable", &qmp_type_bool, true, "clients may write (default: off)" },
    { "bitmap", &qmp_type_str, true, "a dirty bitmap to offer" },
    { NULL },
};
static const QmpType nbd_add_args = { .kind = QMP_KIND_OBJECT,
                                      .name = "NbdServerAddOptions",
                                      .members = nbd_add_members };
static const QmpMember nbd_remove_members[] = {
    { "name", &qmp_type_str, false, "the id of the export" },
    { "mode", &mode_type, true,
      "safe (default): fail if it has clients; hard: disconnect them; wait: accept no new ones" },
    { NULL },
};
static const QmpType nbd_remove_args = { .kind = QMP_KIND_OBJECT,
                                         .name = "q_obj_nbd-server-remove-arg",
                                         .members = nbd_remove_members };
static const QmpMember del_members[] = {
    { "id", &qmp_type_str, false, "the id of the export" },
    { "mode", &mode_type, true,
      "safe (default): fail if it has clients; hard: disconnect them; wait: accept no new ones" },
    { "seconds", &qmp_type_uint32, true,
      "with mode=wait: disconnect the remaining clients after this time (default: 0, never)" },
    { NULL },
};
static const QmpType del_args = { .kind = QMP_KIND_OBJECT,
                                  .name = "q_obj_block-export-del-arg",
                                  .members = del_members };
static const QmpMember select_members[] = {
    { "id", &qmp_type_str, false, "the id of the export" },
    { "bitmaps", &qmp_type_bitmaps, true, "the dirty bitmaps to offer from now on" },
    { "add", &qmp_type_bitmaps, true, "without bitmaps: offer these, too" },
    { "remove", &qmp_type_str_array, true,
      "without bitmaps: do not offer these any more, by name" },
    { NULL },
};
static const QmpType select_args = { .kind = QMP_KIND_OBJECT,
                                     .name = "q_obj_block-export-dirty-bitmap-arg",
                                     .members = select_members };

static const QmpType offered_array = { .kind = QMP_KIND_ARRAY,
                                       .name = "array",
                                       .element = &qmp_type_bitmap };
static const QmpMember client_members[] = {
    { "id", &qmp_type_uint64, false, "the id of the session; of nbd, as in query-nbd-sessions" },
    { "server", &qmp_type_str, true, "nbd: the id of the server" },
    { "peer", &qmp_type_str, false, "the other end of the connection" },
    { "tls", &qmp_type_bool, false, "the connection is encrypted" },
    { "identity", &qmp_type_str, true, "the client's identity, as in query-nbd-sessions" },
    { "writable", &qmp_type_bool, false, "the client may write" },
    { NULL },
};
static const QmpType client_type = { .kind = QMP_KIND_OBJECT,
                                     .name = "NbdClient",
                                     .members = client_members };
static const QmpType client_array = { .kind = QMP_KIND_ARRAY,
                                      .name = "array",
                                      .element = &client_type };
static const QmpMember info_members[] = {
    { "id", &qmp_type_str, false, "the id of the export" },
    { "type", &qmp_type_export_type, false, "the protocol" },
    { "node-name", &qmp_type_str, false, "the node" },
    { "shutting-down", &qmp_type_bool, false,
      "it accepts no new clients and ends with its last one" },
    { "name", &qmp_type_str, false, "the name under which clients open it; without names, its id" },
    { "writable", &qmp_type_bool, false, "clients may write" },
    { "bitmaps", &offered_array, false, "the dirty bitmaps that it offers to new clients" },
    { "uris", &qmp_type_str_array, true, "the NBD URIs of the export, one for each address" },
    { "clients", &client_array, true, "the clients that have opened it; not of fuse" },
    { "mountpoint", &qmp_type_str, true, "fuse: the file" },
    { "open-files", &qmp_type_uint64, true, "fuse: how often the file is open" },
    { NULL },
};
static const QmpType info_type = { .kind = QMP_KIND_OBJECT,
                                   .name = "BlockExportInfo",
                                   .members = info_members };
static const QmpType info_array = { .kind = QMP_KIND_ARRAY,
                                    .name = "array",
                                    .element = &info_type };

static const char *const nbd_server_add_errors[] = {
    "Cannot find device='NAME' nor node-name='NAME'", "NBD server not running",
    "Block export id 'ID' is already in use", NULL
};
static const char *const nbd_server_remove_errors[] = { "Export 'ID' is not found",
                                                        "Block export 'ID' is not an NBD export",
                                                        "export 'ID' still in use", NULL };
static const char *const block_export_add_errors[] = {
    "Invalid block export id",
    "Block export id 'ID' is already in use",
    "Cannot find device='' nor node-name='NAME'",
    "Cannot export read-only node as writable",
    "Failed to automatically activate inactive node: REASON",
    "NBD server not running",
    "NBD server 'ID' not running",
    "NBD server already has export named 'NAME'",
    "NBD server already has a default export: 'ID'",
    "export name 'NAME' too long",
    "description 'TEXT' too long",
    "There already is a FUSE export on 'FILE'",
    "Failed to stat 'FILE': REASON",
    "'FILE' is not a regular file",
    "Failed to mount FUSE session to export 'ID' at 'FILE': REASON",
    "Bitmap 'NAME' is not found",
    "Node 'NODE' not found",
    "Enabled bitmap 'NAME' incompatible with readonly export",
    "Bitmap 'NAME' is inconsistent and cannot be used",
    NULL
};
static const char *const block_export_del_errors[] = {
    "Export 'ID' is not found", "Export 'ID' is already shutting down", "export 'ID' still in use",
    "Parameter 'seconds' needs 'mode' to be 'wait'", NULL
};
static const char *const block_export_dirty_bitmap_errors[] = {
    "Export 'ID' is not found",
    "Bitmap 'NAME' is not found",
    "Node 'NODE' not found",
    "Bitmap 'NAME' is named twice",
    "Bitmap 'NAME' is inconsistent and cannot be used",
    "Bitmap 'NAME' is not offered by export 'ID'",
    "Parameter 'bitmaps' excludes 'add' and 'remove'",
    NULL
};

static const QmpCommand commands[] = {
    { "nbd-server-add", "export a node over NBD; use block-export-add", &nbd_add_args,
      &qmp_type_empty, run_nbd_add, QMP_COMMAND_DEPRECATED, .example = "{'device': 'disk0'}",
      .errors = nbd_server_add_errors },
    { "nbd-server-remove", "remove an NBD export; use block-export-del", &nbd_remove_args,
      &qmp_type_empty, run_nbd_remove, QMP_COMMAND_DEPRECATED, .example = "{'name': 'disk0'}",
      .errors = nbd_server_remove_errors },
    { "block-export-add", "export a node", &qmp_type_export_options, &qmp_type_empty, run_add,
      .example = "{'type': 'nbd', 'id': 'exp0', 'node-name': 'disk0', 'writable': true, 'bitmaps': "
                 "['b0']}",
      .errors = block_export_add_errors },
    { "block-export-del", "remove an export", &del_args, &qmp_type_empty, run_del,
      .example = "{'id': 'exp0', 'mode': 'wait', 'seconds': 60}",
      .errors = block_export_del_errors },
    { "block-export-dirty-bitmap", "select the dirty bitmaps that an export offers to new clients",
      &select_args, &qmp_type_empty, run_select,
      .example = "{'id': 'exp0', 'bitmaps': ['b0', {'node': 'base', 'name': 'b1'}]}",
      .errors = block_export_dirty_bitmap_errors },
    { "query-block-exports", "the exports", &query_args, &info_array, run_query,
      .example = "{'limit': 100, 'after': 'exp0'}" },
    { NULL },
};

/* ---- events ---- */

static const QmpMember deleted_members[] = {
    { "id", &qmp_type_str, false, "the id that it had" },
    { NULL },
};
static const QmpType deleted_data = { .kind = QMP_KIND_OBJECT,
                                      .name = "q_obj_BLOCK_EXPORT_DELETED-arg",
                                      .members = deleted_members };

static const char *const operation_values[] = { "read", "write", NULL };
static const QmpType operation_type = { .kind = QMP_KIND_ENUM,
                                        .name = "IoOperationType",
                                        .values = operation_values };
static const char *const action_values[] = { "ignore", "report", "stop", NULL };
static const QmpType action_type = { .kind = QMP_KIND_ENUM,
                                     .name = "BlockErrorAction",
                                     .values = action_values };
static const QmpMember io_error_members[] = {
    { "device", &qmp_type_str, false, "empty, or the id of the export" },
    { "node-name", &qmp_type_str, true, "the node" },
    { "operation", &operation_type, false, "the kind of request that failed" },
    { "action", &action_type, false, "what was done after the error" },
    { "nospace", &qmp_type_bool, true, "the cause was a lack of space" },
    { "reason", &qmp_type_str, false, "the error message, for people" },
    { NULL },
};
static const QmpType io_error_data = { .kind = QMP_KIND_OBJECT,
                                       .name = "q_obj_BLOCK_IO_ERROR-arg",
                                       .members = io_error_members };

static const QmpMember guest_connected_members[] = {
    { "id", &qmp_type_uint64, false, "the id of the session; the export counts them" },
    { "peer", &qmp_type_str, false, "the other end of the connection" },
    { "export", &qmp_type_str, false, "the id of the export" },
    { "writable", &qmp_type_bool, false, "the client may write" },
    { NULL },
};
static const QmpType guest_connected_data = { .kind = QMP_KIND_OBJECT,
                                              .name = "q_obj_VHOST_USER_BLK_CLIENT_CONNECTED-arg",
                                              .members = guest_connected_members };
static const char *const guest_reason_values[] = { "closed", "error", "export-removed", NULL };
static const QmpType guest_reason = { .kind = QMP_KIND_ENUM,
                                      .name = "VhostDisconnectReason",
                                      .values = guest_reason_values };
static const QmpMember guest_disconnected_members[] = {
    { "id", &qmp_type_uint64, false, "the id that the session had" },
    { "peer", &qmp_type_str, false, "the other end of the connection" },
    { "export", &qmp_type_str, false, "the id of the export" },
    { "reason", &guest_reason, false, "why it ended" },
    { NULL },
};
static const QmpType guest_disconnected_data = { .kind = QMP_KIND_OBJECT,
                                                 .name =
                                                     "q_obj_VHOST_USER_BLK_CLIENT_DISCONNECTED-arg",
                                                 .members = guest_disconnected_members };

static const QmpEvent events[] = {
    { "BLOCK_EXPORT_DELETED", "an export and its sessions have ended", &deleted_data },
    { "VHOST_USER_BLK_CLIENT_CONNECTED", "the client of an export of vhost-user-blk has connected",
      &guest_connected_data },
    { "VHOST_USER_BLK_CLIENT_DISCONNECTED",
      "the client of an export of vhost-user-blk has disconnected", &guest_disconnected_data },
    { "BLOCK_IO_ERROR", "a request of a client failed; at most one event a second for each export",
      &io_error_data },
    { NULL },
};

const QmpFamily qmp_family_export = { "Exports", commands, events };
