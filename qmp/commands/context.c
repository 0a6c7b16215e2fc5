/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp/commands/context.c: the metadata contexts that the management attaches to exports. The work
 * is the block layer's (block/export/contexts.h); clients see them by the names of docs/nbd.md. */
#include "qmp/context.h"
#include "qmp/commands/families.h"
#include "util/error.h"

#define ON_THE_WIRE "x-tidemark:user:"

/* A reference. */
static BlkExport *export_of(QmpCall *call, GError **error)
{
    const char *id = qmp_arg_str(call->args, "id");
    BlkExport *export_ = blk_exports_find_id(qmp_context_exports(call->ctx), id);

    if (!export_)
        tm_error_set(error, "Export '%s' is not found", id);
    return export_;
}

static bool run_set(QmpCall *call, GError **error)
{
    g_autoptr(BlkExport) export_ = export_of(call, error);
    json_object *array = qmp_arg(call->args, "ranges");
    size_t n = json_object_array_length(array);
    g_autofree BlkContextRange *ranges = g_try_new(BlkContextRange, MAX(n, 1));
    BlkContextChange change = {
        .name = qmp_arg_str(call->args, "name"),
        .width = (unsigned)qmp_arg_uint(call->args, "width", 0),
        .append = qmp_arg_bool(call->args, "append", false),
        .ranges = ranges,
        .n = n,
    };

    if (!export_)
        return false;
    if (!ranges)
        return tm_error_set(error, "Metadata context '%s': out of memory for %zu ranges",
                            change.name, n);
    for (size_t i = 0; i < n; i++) {
        json_object *range = json_object_array_get_idx(array, i);

        ranges[i] = (BlkContextRange){ .offset = qmp_arg_uint(range, "offset", 0),
                                       .length = qmp_arg_uint(range, "length", 0),
                                       .value = qmp_arg_uint(range, "value", 0) };
    }
    return blk_contexts_set(blk_export_contexts(export_), blk_node_size(blk_export_node(export_)),
                            &change, error);
}

static bool run_remove(QmpCall *call, GError **error)
{
    g_autoptr(BlkExport) export_ = export_of(call, error);

    return export_ && blk_contexts_remove(blk_export_contexts(export_),
                                          qmp_arg_str(call->args, "name"), error);
}

static json_object *context_info(BlkExport *export_, BlkContext *context)
{
    g_autofree char *full = g_strconcat(ON_THE_WIRE, blk_context_name(context), NULL);
    g_autoptr(BlkContextMap) map = blk_context_map(context);
    json_object *info = json_object_new_object();

    json_object_object_add(info, "id", json_object_new_string(blk_export_id(export_)));
    json_object_object_add(info, "name", json_object_new_string(blk_context_name(context)));
    json_object_object_add(info, "context", json_object_new_string(full));
    json_object_object_add(info, "width", json_object_new_int(blk_context_wide(context) ? 64 : 32));
    json_object_object_add(info, "ranges", json_object_new_uint64(blk_context_map_count(map)));
    json_object_object_add(info, "bytes", json_object_new_uint64(blk_context_map_bytes(map)));
    return info;
}

static void add_contexts(json_object *result, BlkExport *export_)
{
    g_autoptr(GPtrArray) list = blk_contexts_list(blk_export_contexts(export_));

    for (guint i = 0; i < list->len; i++)
        json_object_array_add(result, context_info(export_, list->pdata[i]));
}

static bool run_query(QmpCall *call, GError **error)
{
    g_autoptr(GPtrArray) exports = NULL;

    if (qmp_arg(call->args, "id")) {
        g_autoptr(BlkExport) export_ = export_of(call, error);

        if (!export_)
            return false;
        call->result = json_object_new_array();
        add_contexts(call->result, export_);
        return true;
    }
    exports = blk_exports_list(qmp_context_exports(call->ctx));
    call->result = json_object_new_array();
    for (guint i = 0; i < exports->len; i++)
        add_contexts(call->result, exports->pdata[i]);
    return true;
}

/* ---- types ---- */

static const QmpType width_type = { .kind = QMP_KIND_INT, .name = "int", .min = 32, .max = 64 };

static const QmpMember range_members[] = {
    { "offset", &qmp_type_size, false, "start of the range, in bytes" },
    { "length", &qmp_type_size, false, "length of the range in bytes, at least 1" },
    { "value", &qmp_type_uint64, false, "the value of the range; 0 is the same as no range" },
    { NULL },
};
static const QmpType range_type = { .kind = QMP_KIND_OBJECT,
                                    .name = "BlockExportContextRange",
                                    .members = range_members };
static const QmpType range_array = { .kind = QMP_KIND_ARRAY,
                                     .name = "array",
                                     .element = &range_type };

static const QmpMember set_members[] = {
    { "id", &qmp_type_str, false, "the id of the export" },
    { "name", &qmp_type_str, false, "name of the context; clients see x-tidemark:user:NAME" },
    { "width", &width_type, true,
      "bits of a value: 32 (default), or 64, which only clients with extended headers see" },
    { "ranges", &range_array, false,
      "the ranges, in any order, within the disk and without overlaps; the rest has the value 0" },
    { "append", &qmp_type_bool, true,
      "change only these ranges (default: off, replace all ranges)" },
    { NULL },
};
static const QmpType set_args = { .kind = QMP_KIND_OBJECT,
                                  .name = "q_obj_block-export-context-set-arg",
                                  .members = set_members };

static const QmpMember remove_members[] = {
    { "id", &qmp_type_str, false, "the id of the export" },
    { "name", &qmp_type_str, false, "name of the context" },
    { NULL },
};
static const QmpType remove_args = { .kind = QMP_KIND_OBJECT,
                                     .name = "q_obj_block-export-context-remove-arg",
                                     .members = remove_members };

static const QmpMember query_members[] = {
    { "id", &qmp_type_str, true, "the id of the export (default: all exports)" },
    { NULL },
};
static const QmpType query_args = { .kind = QMP_KIND_OBJECT,
                                    .name = "q_obj_query-block-export-contexts-arg",
                                    .members = query_members };

static const QmpMember info_members[] = {
    { "id", &qmp_type_str, false, "the id of the export" },
    { "name", &qmp_type_str, false, "name of the context" },
    { "context", &qmp_type_str, false, "the name that clients see" },
    { "width", &width_type, false, "bits of a value" },
    { "ranges", &qmp_type_uint64, false,
      "number of ranges; neighbours of equal value count as one" },
    { "bytes", &qmp_type_size, false, "bytes in these ranges" },
    { NULL },
};
static const QmpType info_type = { .kind = QMP_KIND_OBJECT,
                                   .name = "BlockExportContextInfo",
                                   .members = info_members };
static const QmpType info_array = { .kind = QMP_KIND_ARRAY,
                                    .name = "array",
                                    .element = &info_type };

static const char *const block_export_context_set_errors[] = {
    "Export 'ID' is not found", "Metadata context name cannot be empty",
    "Metadata context 'NAME' not found",
    "Metadata context 'NAME': the width is 32 or 64, not WIDTH", NULL
};
static const char *const block_export_context_remove_errors[] = {
    "Export 'ID' is not found", "Metadata context 'NAME' not found", NULL
};
static const char *const query_block_export_contexts_errors[] = { "Export 'ID' is not found",
                                                                  NULL };

static const QmpCommand commands[] = {
    { "block-export-context-set",
      "set the ranges and values of a metadata context of an export; a new name adds the context",
      &set_args, &qmp_type_empty, run_set,
      .example = "{'id': 'exp0', 'name': 'owner', 'ranges': [{'offset': 0, 'length': 1048576, "
                 "'value': 7}]}",
      .errors = block_export_context_set_errors },
    { "block-export-context-remove",
      "remove a metadata context that was added to an export; sessions that selected it keep its "
      "last values",
      &remove_args, &qmp_type_empty, run_remove, .example = "{'id': 'exp0', 'name': 'owner'}",
      .errors = block_export_context_remove_errors },
    { "query-block-export-contexts", "the metadata contexts that were added to exports",
      &query_args, &info_array, run_query, .example = "{'id': 'exp0'}",
      .errors = query_block_export_contexts_errors },
    { NULL },
};

const QmpFamily qmp_family_context = { "Metadata contexts", commands, NULL };
