/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp/transaction.h: actions that happen all at one instant, or not at all; internal to qmp/.
 *
 * A command on bitmaps is a transaction of one action, so that there is one implementation of each.
 * Main thread. */
#pragma once
#include "qmp/context.h"

/* @actions: [{"type": ..., "data": {...}}], checked. @grouped: as completion-mode says. */
bool qmp_transaction_run(QmpContext *ctx, json_object *actions, bool grouped, GError **error);
/* The same with one action, @type, whose data are @data (borrowed). */
bool qmp_transaction_run_one(QmpContext *ctx, const char *type, json_object *data, GError **error);

/* block-dirty-bitmap-add's and -merge's arguments: their commands' and actions'. */
extern const QmpType qmp_type_bitmap_add, qmp_type_bitmap_merge;
