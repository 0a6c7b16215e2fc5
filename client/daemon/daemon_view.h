/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/daemon/daemon_view.h: what a daemon reports of its nodes, bitmaps and exports, as tables.
 *
 * The JSON is the daemon's own (query-named-block-nodes, query-block-exports): here it is only read
 * leniently, so that any QEMU's answers do. Threads: main. */
#pragma once
#include "client/daemon/qmp_client.h"
#include "client/table.h"

/* query-named-block-nodes, flat. A new reference. */
json_object *tc_view_nodes(TcQmp *qmp, GError **error);
/* query-block-exports. A new reference. */
json_object *tc_view_exports(TcQmp *qmp, GError **error);

/* The bitmaps of @nodes, or of the one called @node, or the one of those called @name (NULL: any)
 * as an array of objects: the daemon's own with "node" and "size" (of the disk) added, by node and
 * name. A new reference. False names in @node or @name are errors with a suggestion. */
json_object *tc_view_bitmaps(json_object *nodes, const char *node, const char *name,
                             GError **error);

/* "no WHAT 'NAME': did you mean 'OTHER'?" of the names in @known (borrowed), to which it adds the
 * NULL at their end. Returns false. */
bool tc_view_fail_name(const char *what, const char *name, GPtrArray *known, GError **error);

/* The bitmaps that an export offers, "monday, tuesday"; NULL if there is none. Returned. */
char *tc_view_offered(json_object *export_);
TcTable *tc_view_node_table(json_object *nodes, const char *title);
TcTable *tc_view_export_table(json_object *exports, const char *title);
TcTable *tc_view_bitmap_table(json_object *bitmaps, const char *title);
/* Where clients reach the exports, and which have opened them; nothing of a QEMU program, which
 * does not say. */
void tc_view_print_reach(json_object *exports, FILE *out, bool colors);
/* A line for each bitmap that has a reason for its state; nothing if there is none. */
void tc_view_print_reasons(json_object *bitmaps, FILE *out);
