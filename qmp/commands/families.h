/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp/commands/families.h: the families of commands, a file each. Constant. */
#pragma once
#include "block/node.h"
#include "qmp/schema/table.h"

extern const QmpFamily qmp_family_core, qmp_family_blockdev, qmp_family_server, qmp_family_export,
    qmp_family_context, qmp_family_bitmap, qmp_family_object, qmp_family_job,
    qmp_family_transaction, qmp_family_block_job, qmp_family_qom, qmp_family_stats,
    qmp_family_backup, qmp_family_backup_session, qmp_family_snapshot, qmp_family_chardev,
    qmp_family_log, qmp_family_configuration, qmp_family_metrics, qmp_family_map,
    qmp_family_transfer;

/* Of jobs: what both their families say. */
extern const QmpType qmp_type_job_status, qmp_type_job_type;

/* Of what query-named-block-nodes says of a node. blockdev.c */
extern const QmpType qmp_type_node_info;
