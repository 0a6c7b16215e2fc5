/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp/commands/transaction.c: the command transaction, and the types of its actions. */
#include "qmp/commands/families.h"
#include "qmp/qmp_internal.h"
#include <string.h>

static bool run_transaction(QmpCall *call, GError **error)
{
    const char *mode = qmp_arg_str(call->args, "properties.completion-mode");

    return qmp_transaction_run(call->ctx, qmp_arg(call->args, "actions"),
                               mode && !strcmp(mode, "grouped"), error);
}

/* An action's variant wraps the data of the command of its name. */
static const QmpMember abort_members[] = { { "data", &qmp_type_empty, false, "empty" }, { NULL } };
static const QmpMember add_members[] = {
    { "data", &qmp_type_bitmap_add, false, "the arguments of that command" }, { NULL }
};
static const QmpMember bitmap_members[] = {
    { "data", &qmp_type_bitmap, false, "the arguments of that command" }, { NULL }
};
static const QmpMember merge_members[] = {
    { "data", &qmp_type_bitmap_merge, false, "the arguments of that command" }, { NULL }
};
static const QmpMember backup_members[] = {
    { "data", &qmp_type_blockdev_backup, false, "the arguments of that command" }, { NULL }
};
static const QmpMember snapshot_members[] = {
    { "data", &qmp_type_snapshot, false, "the arguments of that command" }, { NULL }
};
static const QmpMember snapshot_sync_members[] = {
    { "data", &qmp_type_snapshot_sync, false, "the arguments of that command" }, { NULL }
};
static const QmpType snapshot_wrapper = { .kind = QMP_KIND_OBJECT,
                                          .name = "BlockdevSnapshotWrapper",
                                          .members = snapshot_members };
static const QmpType snapshot_sync_wrapper = { .kind = QMP_KIND_OBJECT,
                                               .name = "BlockdevSnapshotSyncWrapper",
                                               .members = snapshot_sync_members };
static const QmpType backup_wrapper = { .kind = QMP_KIND_OBJECT,
                                        .name = "BlockdevBackupWrapper",
                                        .members = backup_members };
static const QmpType abort_wrapper = { .kind = QMP_KIND_OBJECT,
                                       .name = "AbortWrapper",
                                       .members = abort_members };
static const QmpType add_wrapper = { .kind = QMP_KIND_OBJECT,
                                     .name = "BlockDirtyBitmapAddWrapper",
                                     .members = add_members };
static const QmpType bitmap_wrapper = { .kind = QMP_KIND_OBJECT,
                                        .name = "BlockDirtyBitmapWrapper",
                                        .members = bitmap_members };
static const QmpType merge_wrapper = { .kind = QMP_KIND_OBJECT,
                                       .name = "BlockDirtyBitmapMergeWrapper",
                                       .members = merge_members };

static const char *const action_values[] = {
    "abort",
    "block-dirty-bitmap-add",
    "block-dirty-bitmap-remove",
    "block-dirty-bitmap-clear",
    "block-dirty-bitmap-enable",
    "block-dirty-bitmap-disable",
    "block-dirty-bitmap-merge",
    "blockdev-backup",
    "blockdev-snapshot",
    "blockdev-snapshot-sync",
    NULL,
};
static const QmpType action_kind = { .kind = QMP_KIND_ENUM,
                                     .name = "TransactionActionKind",
                                     .values = action_values };
static const QmpMember action_members[] = {
    { "type", &action_kind, false, "the kind of action" },
    { NULL },
};
static const QmpVariant action_variants[] = {
    { "abort", &abort_wrapper },
    { "block-dirty-bitmap-add", &add_wrapper },
    { "block-dirty-bitmap-remove", &bitmap_wrapper },
    { "block-dirty-bitmap-clear", &bitmap_wrapper },
    { "block-dirty-bitmap-enable", &bitmap_wrapper },
    { "block-dirty-bitmap-disable", &bitmap_wrapper },
    { "block-dirty-bitmap-merge", &merge_wrapper },
    { "blockdev-backup", &backup_wrapper },
    { "blockdev-snapshot", &snapshot_wrapper },
    { "blockdev-snapshot-sync", &snapshot_sync_wrapper },
    { NULL },
};
static const QmpType action = {
    .kind = QMP_KIND_OBJECT,
    .name = "TransactionAction",
    .members = action_members,
    .tag = "type",
    .variants = action_variants,
};
static const QmpType action_array = { .kind = QMP_KIND_ARRAY, .name = "array", .element = &action };

static const char *const mode_values[] = { "individual", "grouped", NULL };
static const QmpType completion_mode = { .kind = QMP_KIND_ENUM,
                                         .name = "ActionCompletionMode",
                                         .values = mode_values };
static const QmpMember property_members[] = {
    { "completion-mode", &completion_mode, true,
      "whether jobs that it starts succeed or fail together (default: individual)" },
    { NULL },
};
static const QmpType properties = { .kind = QMP_KIND_OBJECT,
                                    .name = "TransactionProperties",
                                    .members = property_members };

static const QmpMember transaction_members[] = {
    { "actions", &action_array, false, "the actions, in order" },
    { "properties", &properties, true, "options of the transaction" },
    { NULL },
};
static const QmpType transaction_args = { .kind = QMP_KIND_OBJECT,
                                          .name = "q_obj_transaction-arg",
                                          .members = transaction_members };

static const char *const transaction_errors[] = { "Transaction aborted using Abort action", NULL };

static const QmpCommand commands[] = {
    { "transaction", "do several actions at one moment, or none of them", &transaction_args,
      &qmp_type_empty, run_transaction,
      .example =
          "{'actions': [{'type': 'block-dirty-bitmap-disable', 'data': {'node': 'disk0', 'name': "
          "'b0'}}, {'type': 'block-dirty-bitmap-add', 'data': {'node': 'disk0', 'name': 'b1'}}]}",
      .errors = transaction_errors },
    { NULL },
};

const QmpFamily qmp_family_transaction = { "Transactions", commands };
