/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/daemon/offers.h: which bitmaps an export of a daemon offers to new clients.
 *
 * @export_ is an element of query-block-exports. Threads: main. */
#pragma once
#include "client/daemon/qmp_client.h"

/* The arguments of block-export-dirty-bitmap that make the export offer the bitmap, or not any
 * more; the others that it offers stay, also those that another client changes meanwhile. A
 * reference. @node as below. */
json_object *tc_offer_arguments(json_object *export_, const char *node, const char *bitmap,
                                bool offer);
/* Makes the export offer the bitmap, or not any more; the others that it offers stay. Nothing is
 * sent if that is so already. @node NULL: the export's, or one below it. */
bool tc_offer(TcQmp *qmp, json_object *export_, const char *node, const char *bitmap, bool offer,
              GError **error);
