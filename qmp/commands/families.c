/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp/commands/families.c: the list of all families of commands. A new one is entered here and
 * nowhere else. */
#include "qmp/commands/families.h"

const QmpFamily *const qmp_families[] = {
    &qmp_family_core,
    &qmp_family_blockdev,
    &qmp_family_server,
    &qmp_family_export,
    &qmp_family_context,
    &qmp_family_object,
    &qmp_family_qom,
    &qmp_family_stats,
    &qmp_family_bitmap,
    &qmp_family_transfer,
    &qmp_family_map,
    &qmp_family_transaction,
    &qmp_family_snapshot,
    &qmp_family_job,
    &qmp_family_block_job,
    &qmp_family_backup,
    &qmp_family_backup_session,
    &qmp_family_chardev,
    &qmp_family_log,
    &qmp_family_configuration,
    &qmp_family_metrics,
    NULL,
};
