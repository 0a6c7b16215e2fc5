/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp/commands/snapshot.c: external snapshots. Each command is a transaction of the one action of
 * its name. */
#include "qmp/commands/families.h"
#include "qmp/qmp_internal.h"

static bool run_snapshot(QmpCall *call, GError **error)
{
    return qmp_transaction_run_one(call->ctx, "blockdev-snapshot", call->args, error);
}

static bool run_snapshot_sync(QmpCall *call, GError **error)
{
    return qmp_transaction_run_one(call->ctx, "blockdev-snapshot-sync", call->args, error);
}

static const QmpMember snapshot_members[] = {
    { "node", &qmp_type_str, false, "the node that is to stay as it is" },
    { "overlay", &qmp_type_str, false,
      "the node that takes what is written from now on: an image opened with 'backing': null" },
    { NULL },
};
const QmpType qmp_type_snapshot = { .kind = QMP_KIND_OBJECT,
                                    .name = "BlockdevSnapshot",
                                    .members = snapshot_members };

static const char *const mode_values[] = { "existing", "absolute-paths", NULL };
static const QmpType mode_type = { .kind = QMP_KIND_ENUM,
                                   .name = "NewImageMode",
                                   .values = mode_values };
static const QmpMember sync_members[] = {
    { "device", &qmp_type_str, true, "for compatibility; this daemon has no devices" },
    { "node-name", &qmp_type_str, true, "the node that is to stay as it is" },
    { "snapshot-file", &qmp_type_str, false, "the file of the overlay" },
    { "snapshot-node-name", &qmp_type_str, true, "name of the overlay's node" },
    { "format", &qmp_type_str, true, "format of the overlay (default: qcow2)" },
    { "mode", &mode_type, true,
      "whether the file exists, or is made with the absolute path of the node's file as its "
      "backing file (default: absolute-paths)" },
    { NULL },
};
const QmpType qmp_type_snapshot_sync = { .kind = QMP_KIND_OBJECT,
                                         .name = "BlockdevSnapshotSync",
                                         .members = sync_members };

static const char *const snapshot_errors[] = {
    "Cannot find device='NAME' nor node-name='NAME'",
    "Node 'NODE' is busy: node is used as backing hd of 'OVERLAY'",
    "Node 'NODE' is busy: its bitmap 'NAME' is in use and enabled, and would record nothing more",
    "The overlay is already in use",
    "Filters cannot be used as overlays",
    "The overlay already has a backing image",
    "The overlay does not support backing images",
    "The overlay 'OVERLAY' has N bytes, expected N, the size of node 'NODE', which USER relies on",
    NULL
};
static const char *const sync_errors[] = {
    "Cannot find device='NAME' nor node-name='NAME'",
    "New overlay node-name missing",
    "New overlay node-name already in use",
    "Unknown file format 'FORMAT'",
    "Backing file not supported for file format 'FORMAT'",
    "Node 'NODE' is busy: node is used as backing hd of 'OVERLAY'",
    NULL
};

static const QmpCommand commands[] = {
    { "blockdev-snapshot", "write to an overlay from now on, and leave a node as it is",
      &qmp_type_snapshot, &qmp_type_empty, run_snapshot,
      .example = "{'node': 'disk0', 'overlay': 'disk0-tuesday'}", .errors = snapshot_errors,
      .feature = "allow-write-only-overlay" },
    { "blockdev-snapshot-sync", "the same with an overlay that is made and opened first",
      &qmp_type_snapshot_sync, &qmp_type_empty, run_snapshot_sync,
      .example = "{'node-name': 'disk0', 'snapshot-file': '/images/disk0-tuesday.qcow2', "
                 "'snapshot-node-name': 'disk0-tuesday'}",
      .errors = sync_errors },
    { NULL },
};

const QmpFamily qmp_family_snapshot = { "Snapshots", commands };
