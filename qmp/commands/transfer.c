/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp/commands/transfer.c: bitmaps that leave the daemon, and that come from elsewhere. What is
 * checked is in block/bitmap_transfer.h. */
#include "block/bitmap_transfer.h"
#include "qmp/commands/families.h"
#include "qmp/context.h"
#include "qmp/transfers.h"
#include "util/error.h"
#include "util/json.h"

static QmpTransfer *add(QmpCall *call, BmpCopy *copy)
{
    return qmp_transfers_add(qmp_context_transfers(call->ctx), qmp_arg_str(call->args, "node"),
                             qmp_arg_str(call->args, "name"), call->args, copy);
}

/* The one that the call continues, or a new one. */
static QmpTransfer *transfer_of(QmpCall *call, QmpTransfer *(*begin)(QmpCall *, GError **),
                                GError **error)
{
    if (!qmp_arg(call->args, "cursor"))
        return begin(call, error);
    return qmp_transfers_find(qmp_context_transfers(call->ctx), qmp_arg_str(call->args, "node"),
                              qmp_arg_str(call->args, "name"),
                              qmp_arg_uint(call->args, "cursor", 0), error);
}

/* ---- export */

static QmpTransfer *begin_export(QmpCall *call, GError **error)
{
    BlkGraph *graph = qmp_context_graph(call->ctx);
    BlkNode *node = blk_graph_find(graph, qmp_arg_str(call->args, "node"), error);
    g_autoptr(BmpBitmap) bitmap =
        node ? bmp_set_find(blk_node_bitmaps(node), qmp_arg_str(call->args, "name"), error) : NULL;
    BmpCopy *copy;

    call->result = bitmap ? blk_bitmap_export(node, bitmap, &copy, error) : NULL;
    return call->result ? add(call, copy) : NULL;
}

static bool run_export(QmpCall *call, GError **error)
{
    QmpTransfers *transfers = qmp_context_transfers(call->ctx);
    QmpTransfer *transfer = transfer_of(call, begin_export, error);
    g_autoptr(GString) runs = g_string_new(NULL);

    if (!transfer)
        return false;
    if (!call->result)
        call->result = json_object_new_object();
    if (bmp_copy_print(transfer->copy, &transfer->at, BMP_COPY_RUNS, runs))
        tm_json_add_uint(call->result, "cursor", transfer->id);
    else
        qmp_transfers_end(transfers, transfer);
    tm_json_add_string(call->result, "runs", runs->str);
    return true;
}

/* ---- import */

static QmpTransfer *begin_import(QmpCall *call, GError **error)
{
    uint64_t size = qmp_arg_uint(call->args, "size", 0);
    BlkNode *node;
    BmpCopy *copy;

    for (unsigned i = 0; i < 2; i++) {
        const char *needed = i ? "granularity" : "size";

        if (!qmp_arg(call->args, needed)) {
            tm_error_set(error, "Parameter '%s' is missing", needed);
            return NULL;
        }
    }
    node = blk_graph_find(qmp_context_graph(call->ctx), qmp_arg_str(call->args, "node"), error);
    /* Before the runs: they take no more memory than a bitmap of the disk can. */
    if (!node || !bmp_set_check_copy(blk_node_bitmaps(node), size, error))
        return NULL;
    copy = bmp_copy_new(size, qmp_arg_uint(call->args, "granularity", 0), error);
    return copy ? add(call, copy) : NULL;
}

static bool finish(QmpCall *call, const QmpTransfer *transfer, GError **error)
{
    json_object *args = transfer->args;
    BlkNode *node = blk_graph_find(qmp_context_graph(call->ctx), qmp_arg_str(args, "node"), error);
    BlkBitmapImport import = { .name = qmp_arg_str(args, "name"),
                               .copy = transfer->copy,
                               .disk = qmp_arg(args, "disk"),
                               .granularity = qmp_arg_uint(args, "to-granularity", 0),
                               .recording = qmp_arg_bool(args, "recording", false),
                               .persistent = qmp_arg_bool(args, "persistent", false),
                               .merge = qmp_arg_bool(args, "merge", false) };

    return node && blk_bitmap_import(node, &import, error);
}

static bool run_import(QmpCall *call, GError **error)
{
    QmpTransfers *transfers = qmp_context_transfers(call->ctx);
    QmpTransfer *transfer = transfer_of(call, begin_import, error);
    bool more = qmp_arg_bool(call->args, "more", false);
    bool ok = transfer &&
              bmp_copy_parse(transfer->copy, &transfer->at, qmp_arg_str(call->args, "runs"), error);

    call->result = json_object_new_object();
    if (ok && more)
        tm_json_add_uint(call->result, "cursor", transfer->id);
    ok = ok && (more || finish(call, transfer, error));
    if (transfer && (!ok || !more))
        qmp_transfers_end(transfers, transfer);
    return ok;
}

/* ---- types */

static const QmpMember disk_members[] = {
    { "filename", &qmp_type_str, true, "the file or disk, for people" },
    { "size", &qmp_type_uint64, true, "bytes of the file that has the data" },
    { "inode", &qmp_type_uint64, true, "its number (absent: it is not one file)" },
    { "born", &qmp_type_uint64, true, "when it was created, in ns since 1970" },
    { "modified", &qmp_type_uint64, true,
      "when it was last written, in ns since 1970 (absent: somebody can write to it)" },
    { NULL },
};
static const QmpType disk_type = { .kind = QMP_KIND_OBJECT,
                                   .name = "BitmapDisk",
                                   .members = disk_members };

static const QmpMember export_members[] = {
    { "node", &qmp_type_str, false, "name of the node" },
    { "name", &qmp_type_str, false, "name of the bitmap" },
    { "cursor", &qmp_type_uint64, true, "that of the answer to continue (absent: begin)" },
    { NULL },
};
static const QmpType export_args = { .kind = QMP_KIND_OBJECT,
                                     .name = "q_obj_block-dirty-bitmap-export-arg",
                                     .members = export_members };

#define RUNS_HELP                                                                                  \
    "numbers of granules that are clean and dirty in turn, beginning with clean ones, with a "     \
    "space between them, where the runs before end"

static const QmpMember exported_members[] = {
    { "runs", &qmp_type_str, false, RUNS_HELP },
    { "cursor", &qmp_type_uint64, true, "there are more runs: ask for them with this cursor" },
    { "size", &qmp_type_size, true, "bytes of the disk; this and the following only at first" },
    { "granularity", &qmp_type_uint32, true, "bytes of a granule" },
    { "count", &qmp_type_size, true, "bytes that are dirty, in all answers" },
    { "recording", &qmp_type_bool, true, "it records writes" },
    { "persistent", &qmp_type_bool, true, "it is stored" },
    { "time", &qmp_type_str, true, "the instant that the runs are of, in UTC" },
    { "age", &qmp_type_uint64, true, "seconds since it was created or last cleared, if known" },
    { "disk", &disk_type, true, "which disk it is of, and in which state" },
    { NULL },
};
static const QmpType exported_type = { .kind = QMP_KIND_OBJECT,
                                       .name = "ExportedBitmap",
                                       .members = exported_members };

static const QmpMember import_members[] = {
    { "node", &qmp_type_str, false, "name of the node" },
    { "name", &qmp_type_str, false, "name of the bitmap" },
    { "runs", &qmp_type_str, false, RUNS_HELP },
    { "more", &qmp_type_bool, true, "other runs follow, in another command (default: off)" },
    { "cursor", &qmp_type_uint64, true,
      "that of the answer to the command before; the following count only without it" },
    { "size", &qmp_type_size, true, "bytes of the disk that it is of; required at first" },
    { "granularity", &qmp_type_uint32, true, "bytes of a granule; required at first" },
    { "disk", &disk_type, true, "as it was exported" },
    { "recording", &qmp_type_bool, true,
      "record writes from now on; only if nobody has written since the export (default: off)" },
    { "persistent", &qmp_type_bool, true, "keep it across restarts of the daemon (default: off)" },
    { "to-granularity", &qmp_type_uint32, true,
      "granularity of the new bitmap (default: the same)" },
    { "merge", &qmp_type_bool, true,
      "add what is dirty to an existing bitmap instead of making one (default: off)" },
    { NULL },
};
static const QmpType import_args = { .kind = QMP_KIND_OBJECT,
                                     .name = "q_obj_block-dirty-bitmap-import-arg",
                                     .members = import_members };

static const QmpMember imported_members[] = {
    { "cursor", &qmp_type_uint64, true, "for the next command, if more runs follow" },
    { NULL },
};
static const QmpType imported_type = { .kind = QMP_KIND_OBJECT,
                                       .name = "ImportedBitmap",
                                       .members = imported_members };

static const char *const export_errors[] = {
    "Failed to find node with node-name='NAME'", "Dirty bitmap 'NAME' not found",
    "Bitmap 'NAME' is inconsistent and cannot be used",
    "Bitmap 'NAME' of node 'NODE' is not on its way with cursor N: begin again without a cursor",
    NULL
};
static const char *const import_errors[] = {
    "Failed to find node with node-name='NAME'",
    "Bitmap already exists: NAME",
    "Parameter 'size' is missing",
    "'TEXT' is no run of granules: a number of clean ones and one of dirty ones were expected",
    "The run 'TEXT' goes beyond the N granules of the disk",
    "Node 'NODE' has N bytes, and the bitmap is of a disk of N bytes",
    "Bitmap 'NAME' can't be imported into node 'NODE': REASON",
    NULL
};

static const QmpCommand commands[] = {
    { "block-dirty-bitmap-export",
      "what is dirty in a bitmap at one instant, to be imported elsewhere", &export_args,
      &exported_type, run_export, .example = "{'node': 'disk0', 'name': 'b0'}",
      .errors = export_errors },
    { "block-dirty-bitmap-import", "make a bitmap of one that was exported, or merge it into one",
      &import_args, &imported_type, run_import,
      .example = "{'node': 'disk0', 'name': 'b0', 'size': 1048576, 'granularity': 65536, "
                 "'runs': '1 1 6 8'}",
      .errors = import_errors },
    { NULL },
};

const QmpFamily qmp_family_transfer = { "Moving bitmaps", commands };
