/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp/commands/bitmap.c: the dirty bitmaps. Each command is a transaction of the one action of its
 * name. */
#include "qmp/commands/families.h"
#include "qmp/context.h"
#include "qmp/qmp_internal.h"
#include "util/error.h"

static bool run_add(QmpCall *call, GError **error)
{
    return qmp_transaction_run_one(call->ctx, "block-dirty-bitmap-add", call->args, error);
}

static bool run_remove(QmpCall *call, GError **error)
{
    return qmp_transaction_run_one(call->ctx, "block-dirty-bitmap-remove", call->args, error);
}

static bool run_clear(QmpCall *call, GError **error)
{
    return qmp_transaction_run_one(call->ctx, "block-dirty-bitmap-clear", call->args, error);
}

static bool run_enable(QmpCall *call, GError **error)
{
    return qmp_transaction_run_one(call->ctx, "block-dirty-bitmap-enable", call->args, error);
}

static bool run_disable(QmpCall *call, GError **error)
{
    return qmp_transaction_run_one(call->ctx, "block-dirty-bitmap-disable", call->args, error);
}

static bool run_merge(QmpCall *call, GError **error)
{
    return qmp_transaction_run_one(call->ctx, "block-dirty-bitmap-merge", call->args, error);
}

static bool run_sha256(QmpCall *call, GError **error)
{
    g_autoptr(BmpBitmap) bitmap =
        blk_graph_find_bitmap(qmp_context_graph(call->ctx), qmp_arg_str(call->args, "node"),
                              qmp_arg_str(call->args, "name"), error);
    g_autofree char *digest = NULL;

    if (!bitmap)
        return false;
    digest = bmp_bitmap_sha256(bitmap);
    call->result = json_object_new_object();
    json_object_object_add(call->result, "sha256", json_object_new_string(digest));
    return true;
}

static const QmpMember add_members[] = {
    { "node", &qmp_type_str, false, "name of the node to record" },
    { "name", &qmp_type_str, false, "name of the bitmap, unique in the node" },
    { "granularity", &qmp_type_uint32, true,
      "bytes that one bit stands for, a power of two from 512 (default: 64 KiB, or the image's "
      "cluster size from 4 KiB to 64 KiB)" },
    { "persistent", &qmp_type_bool, true, "keep it across restarts of the daemon (default: off)" },
    { "disabled", &qmp_type_bool, true, "don't record writes yet (default: off)" },
    { NULL },
};
const QmpType qmp_type_bitmap_add = { .kind = QMP_KIND_OBJECT,
                                      .name = "BlockDirtyBitmapAdd",
                                      .members = add_members };

static const QmpMember merge_members[] = {
    { "node", &qmp_type_str, false, "the target's node" },
    { "target", &qmp_type_str, false, "name of the bitmap to merge into" },
    { "bitmaps", &qmp_type_bitmaps, false, "the bitmaps to merge, of the same node or of others" },
    { NULL },
};
const QmpType qmp_type_bitmap_merge = { .kind = QMP_KIND_OBJECT,
                                        .name = "BlockDirtyBitmapMerge",
                                        .members = merge_members };

static const QmpMember sha256_members[] = {
    { "sha256", &qmp_type_str, false, "the digest, in hexadecimal" }, { NULL }
};
static const QmpType sha256_type = { .kind = QMP_KIND_OBJECT,
                                     .name = "BlockDirtyBitmapSha256",
                                     .members = sha256_members };

static const QmpMember degraded_members[] = {
    { "node-name", &qmp_type_str, false, "the node" },
    { "bitmap", &qmp_type_str, true, "the bitmap (absent: all persistent bitmaps of the node)" },
    { "reason", &qmp_type_str, false, "a message for people" },
    { "recovered", &qmp_type_uint64, true, "bytes that are dirty only for this reason" },
    { "inconsistent", &qmp_type_bool, false, "the bitmap can't be used, only removed" },
    { NULL },
};
static const QmpType degraded_data = { .kind = QMP_KIND_OBJECT,
                                       .name = "q_obj_BITMAP_DEGRADED-arg",
                                       .members = degraded_members };
static const QmpMember healed_members[] = {
    { "node-name", &qmp_type_str, false, "the node" },
    { NULL },
};
static const QmpType healed_data = { .kind = QMP_KIND_OBJECT,
                                     .name = "q_obj_BITMAP_HEALED-arg",
                                     .members = healed_members };

static const QmpEvent events[] = {
    { "BITMAP_DEGRADED",
      "persistent bitmaps have more dirty bytes than were written, or can't be stored",
      &degraded_data },
    { "BITMAP_HEALED", "the persistent bitmaps of a node are stored again", &healed_data },
    { NULL },
};

static const char *const block_dirty_bitmap_add_errors[] = {
    "Cannot find device='NODE' nor node-name='NODE'",
    "Bitmap name cannot be empty",
    "Bitmap name too long: NAME",
    "Bitmap already exists: NAME",
    "Granularity must be power of 2 and at least 512",
    NULL
};
static const char *const block_dirty_bitmap_remove_errors[] = {
    "Node 'NODE' not found", "Dirty bitmap 'NAME' not found",
    "Bitmap 'NAME' is currently in use by another operation and cannot be used", NULL
};
static const char *const block_dirty_bitmap_clear_errors[] = {
    "Node 'NODE' not found",
    "Dirty bitmap 'NAME' not found",
    "Bitmap 'NAME' is currently in use by another operation and cannot be used",
    "Bitmap 'NAME' is readonly and cannot be modified",
    "Bitmap 'NAME' is inconsistent and cannot be used",
    NULL
};
static const char *const block_dirty_bitmap_enable_errors[] = {
    "Node 'NODE' not found", "Dirty bitmap 'NAME' not found",
    "Bitmap 'NAME' is currently in use by another operation and cannot be used",
    "Bitmap 'NAME' is inconsistent and cannot be used", NULL
};
static const char *const x_debug_block_dirty_bitmap_sha256_errors[] = {
    "Node 'NODE' not found", "Dirty bitmap 'NAME' not found", NULL
};

static const QmpCommand commands[] = {
    { "block-dirty-bitmap-add", "add a bitmap to a node and record writes in it",
      &qmp_type_bitmap_add, &qmp_type_empty, run_add,
      .example = "{'node': 'disk0', 'name': 'b0', 'persistent': true}",
      .errors = block_dirty_bitmap_add_errors },
    { "block-dirty-bitmap-remove", "remove a bitmap", &qmp_type_bitmap, &qmp_type_empty, run_remove,
      .example = "{'node': 'disk0', 'name': 'b0'}", .errors = block_dirty_bitmap_remove_errors },
    { "block-dirty-bitmap-clear", "clear all bits of a bitmap", &qmp_type_bitmap, &qmp_type_empty,
      run_clear, .example = "{'node': 'disk0', 'name': 'b0'}",
      .errors = block_dirty_bitmap_clear_errors },
    { "block-dirty-bitmap-enable", "start recording writes in a bitmap", &qmp_type_bitmap,
      &qmp_type_empty, run_enable, .example = "{'node': 'disk0', 'name': 'b0'}",
      .errors = block_dirty_bitmap_enable_errors },
    { "block-dirty-bitmap-disable", "stop recording writes in a bitmap", &qmp_type_bitmap,
      &qmp_type_empty, run_disable, .example = "{'node': 'disk0', 'name': 'b0'}",
      .errors = block_dirty_bitmap_enable_errors },
    { "block-dirty-bitmap-merge", "add what is dirty in other bitmaps to a bitmap",
      &qmp_type_bitmap_merge, &qmp_type_empty, run_merge,
      .example =
          "{'node': 'disk0', 'target': 'b0', 'bitmaps': ['b1', {'node': 'disk1', 'name': 'b2'}]}",
      .errors = block_dirty_bitmap_clear_errors },
    { "x-debug-block-dirty-bitmap-sha256", "the SHA-256 of a bitmap's content", &qmp_type_bitmap,
      &sha256_type, run_sha256, QMP_COMMAND_UNSTABLE, .example = "{'node': 'disk0', 'name': 'b0'}",
      .errors = x_debug_block_dirty_bitmap_sha256_errors },
    { NULL },
};

const QmpFamily qmp_family_bitmap = { "Dirty bitmaps", commands, events };
