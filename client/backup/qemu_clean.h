/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/backup/qemu_clean.h: takes down what was set up in a QEMU process for a backup.
 *
 * It goes by what QEMU has (qemu_names.h), not by what this run remembers. So it serves every end
 * of a backup, half-way set up or not, and the next run after a kill. Threads: one at a time. */
#pragma once
#include "client/daemon/qmp_client.h"

/* On success there is nothing left. Does what it can if a step fails; the first error is reported.
 * *found (may be NULL): whether there was anything. */
bool tc_qemu_clean(TcQmp *qmp, bool *found, GError **error);
