/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp/commands/configuration.c: all that a daemon is made of, as one object: what a configuration
 * file has. Each list has the arguments of the command that makes one of its items. */
#include "block/definition.h"
#include "block/filters.h"
#include "qmp/commands/families.h"
#include "qmp/context.h"
#include "util/json.h"

#include <string.h>

#define OBJECT(c_name, type_name, list)                                                            \
    const QmpType c_name = { .kind = QMP_KIND_OBJECT, .name = type_name, .members = list }
#define ARRAY(c_name, type)                                                                        \
    static const QmpType c_name = { .kind = QMP_KIND_ARRAY, .name = "array", .element = &type }

/* ---- of the process ---- */

static const QmpMember monitor_members[] = {
    { "chardev", &qmp_type_str, false, "id of the channel" },
    { "mode", &qmp_type_str, true, "control" },
    { "pretty", &qmp_type_bool, true, "indented replies (default: off)" },
    { NULL },
};
OBJECT(qmp_type_monitor, "MonitorOptions", monitor_members);

static const char *const mode_values[] = { "off", "auto", "on", NULL };
static const QmpType mode_type = { .kind = QMP_KIND_ENUM,
                                   .name = "SandboxMode",
                                   .values = mode_values };
static const char *const files_values[] = { "any", "given", NULL };
static const QmpType files_type = { .kind = QMP_KIND_ENUM,
                                    .name = "SandboxFiles",
                                    .values = files_values };
static const QmpMember sandbox_members[] = {
    { "mode", &mode_type, false, "off, on, or as far as the kernel supports it (auto)" },
    { "files", &files_type, true, "which files it may open" },
    { "paths", &qmp_type_str_array, true, "files and directories that it may also open" },
    { NULL },
};
OBJECT(qmp_type_sandbox, "SandboxOptions", sandbox_members);

static const char *const engine_values[] = { "auto", "io_uring", "threads", NULL };
static const QmpType engine_type = { .kind = QMP_KIND_ENUM,
                                     .name = "IoEngine",
                                     .values = engine_values };

/* ---- the lists ---- */

ARRAY(objects, qmp_type_object_options);
ARRAY(blockdevs, qmp_type_blockdev_options);
ARRAY(bitmaps, qmp_type_bitmap_add);
ARRAY(servers, qmp_type_nbd_server_args);
ARRAY(metrics_servers, qmp_type_metrics_args);
ARRAY(exports, qmp_type_export_options);
ARRAY(chardevs, qmp_type_chardev_add);
ARRAY(monitors, qmp_type_monitor);

static const QmpMember members[] = {
    { "log-level", &qmp_type_str, true, "the option --log-level" },
    { "io-engine", &engine_type, true, "the option --io-engine" },
    { "modules", &qmp_type_str_array, true, "the options --module" },
    { "module-dirs", &qmp_type_str_array, true, "the options --module-dir" },
    { "sandbox", &qmp_type_sandbox, true, "the option --sandbox" },
    { "user", &qmp_type_str, true, "the option --user" },
    { "daemonize", &qmp_type_bool, true, "the option --daemonize" },
    { "pidfile", &qmp_type_str, true, "the option --pidfile" },
    { "objects", &objects, true, "arguments of object-add" },
    { "blockdevs", &blockdevs, true, "arguments of blockdev-add" },
    { "bitmaps", &bitmaps, true, "arguments of block-dirty-bitmap-add" },
    { "nbd-servers", &servers, true, "arguments of nbd-server-start" },
    { "metrics", &metrics_servers, true, "arguments of metrics-server-start" },
    { "exports", &exports, true, "arguments of block-export-add" },
    { "chardevs", &chardevs, true, "arguments of chardev-add" },
    { "monitors", &monitors, true, "the options --monitor" },
    { NULL },
};
OBJECT(qmp_type_configuration, "Configuration", members);

/* ---- what there is ---- */

static json_object *objects_now(QmpContext *ctx)
{
    g_autoptr(GPtrArray) list = tm_objects_list(blk_exports_objects(qmp_context_exports(ctx)));
    json_object *all = json_object_new_array();

    for (guint i = 0; i < list->len; i++)
        json_object_array_add(all, tm_object_definition(list->pdata[i]));
    return all;
}

static json_object *blockdevs_now(QmpContext *ctx)
{
    return blk_graph_definitions(qmp_context_graph(ctx));
}

static json_object *bitmap_now(BlkNode *node, BmpBitmap *bitmap)
{
    json_object *definition = json_object_new_object();

    tm_json_add_string(definition, "node", blk_node_name(node));
    tm_json_add_string(definition, "name", bmp_bitmap_name(bitmap));
    tm_json_add_uint(definition, "granularity", bmp_bitmap_granularity(bitmap));
    tm_json_add_bool(definition, "persistent", bmp_bitmap_persistent(bitmap));
    tm_json_add_bool(definition, "disabled", !bmp_bitmap_enabled(bitmap));
    return definition;
}

/* Not those that can only be removed, nor those of nodes that nobody can name again. */
static json_object *bitmaps_now(QmpContext *ctx)
{
    g_autoptr(GPtrArray) nodes = blk_graph_nodes(qmp_context_graph(ctx));
    json_object *all = json_object_new_array();

    for (guint i = 0; i < nodes->len; i++) {
        BlkNode *node = nodes->pdata[i];
        BmpSet *set = blk_node_bitmaps(node);

        for (size_t k = 0; *blk_node_name(node) != '#' && k < bmp_set_length(set); k++) {
            g_autoptr(BmpBitmap) bitmap = bmp_set_nth(set, k);

            if (bitmap && !bmp_bitmap_inconsistent(bitmap))
                json_object_array_add(all, bitmap_now(node, bitmap));
        }
    }
    return all;
}

static json_object *servers_now(QmpContext *ctx)
{
    const BlkServer *server = blk_exports_server(qmp_context_exports(ctx));

    return server->definitions ? server->definitions(server->opaque) : json_object_new_array();
}

static json_object *metrics_now(QmpContext *ctx)
{
    const QmpMetrics *metrics = qmp_context_metrics(ctx);
    json_object *all = json_object_new_array();

    if (metrics && metrics->given(metrics->opaque))
        json_object_array_add(all, json_object_get(metrics->given(metrics->opaque)));
    return all;
}

static json_object *exports_now(QmpContext *ctx)
{
    g_autoptr(GPtrArray) list = blk_exports_list(qmp_context_exports(ctx));
    json_object *all = json_object_new_array();

    for (guint i = 0; i < list->len; i++) {
        const BlkExport *x = list->pdata[i];
        json_object *copy = NULL;
        const char *node;

        if (!blk_export_given(x) || blk_export_shutting_down(x) ||
            json_object_deep_copy(blk_export_given(x), &copy, NULL) < 0)
            continue;
        node = blk_node_name(blk_filters_below(blk_export_node(x)));
        tm_json_add_string(copy, "node-name", node);
        if (blk_export_by_servers(x) && !json_object_object_get_ex(copy, "name", NULL) &&
            strcmp(node, blk_export_name(x)))
            tm_json_add_string(copy, "name", blk_export_name(x)); /* that of its first node */
        json_object_array_add(all, copy);
    }
    return all;
}

static json_object *chardevs_now(QmpContext *ctx)
{
    g_autoptr(GPtrArray) list = qmp_chardevs_list(qmp_context_chardevs(ctx));
    json_object *all = json_object_new_array();

    for (guint i = 0; i < list->len; i++) {
        json_object *copy = NULL;

        if (qmp_chardev_given(list->pdata[i]) &&
            json_object_deep_copy(qmp_chardev_given(list->pdata[i]), &copy, NULL) == 0)
            json_object_array_add(all, copy);
    }
    return all;
}

static const struct {
    const char *member;
    json_object *(*now)(QmpContext *ctx);
} lists[] = {
    { "objects", objects_now },     { "blockdevs", blockdevs_now }, { "bitmaps", bitmaps_now },
    { "nbd-servers", servers_now }, { "exports", exports_now },     { "chardevs", chardevs_now },
    { "metrics", metrics_now },
};

/* In the order of the members. Lists that are empty are left out. */
static bool run_query(QmpCall *call, GError **error)
{
    json_object *process = qmp_context_process(call->ctx);

    call->result = json_object_new_object();
    for (const QmpMember *m = members; m->name; m++) {
        json_object *value = json_object_get(json_object_object_get(process, m->name));

        for (size_t i = 0; !value && i < G_N_ELEMENTS(lists); i++) {
            if (!strcmp(lists[i].member, m->name))
                value = lists[i].now(call->ctx);
        }
        if (value &&
            (!json_object_is_type(value, json_type_array) || json_object_array_length(value)))
            json_object_object_add(call->result, m->name, value);
        else
            json_object_put(value);
    }
    json_object_put(process);
    return true;
}

static const QmpCommand commands[] = {
    { "query-configuration", "all that there is, as a configuration file, without secrets",
      &qmp_type_empty, &qmp_type_configuration, run_query },
    { NULL },
};

const QmpFamily qmp_family_configuration = { "Configuration", commands };
