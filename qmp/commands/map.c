/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp/commands/map.c: a disk as cells, for people. The work is the block layer's
 * (block/io/overview.h). */
#include "block/io/overview.h"
#include "qmp/commands/families.h"
#include "qmp/context.h"
#include "util/json.h"

static bool run_map(QmpCall *call, GError **error)
{
    BlkGraph *graph = qmp_context_graph(call->ctx);
    const char *name = qmp_arg_str(call->args, "node-name");
    const char *bitmap_name = qmp_arg_str(call->args, "bitmap");
    BlkNode *node = blk_graph_find(graph, name, error);
    g_autoptr(BmpBitmap) bitmap =
        node && bitmap_name ? blk_graph_find_bitmap(graph, name, bitmap_name, error) : NULL;
    BlkOverview o;

    if (!node || (bitmap_name && !bitmap))
        return false;
    blk_node_overview(node, bitmap, qmp_arg_uint(call->args, "offset", 0), &o);
    call->result = json_object_new_object();
    tm_json_add_uint(call->result, "size", o.size);
    tm_json_add_uint(call->result, "cell-size", o.cell);
    tm_json_add_uint(call->result, "first", o.first);
    tm_json_add_string(call->result, "cells", o.cells);
    if (bitmap)
        tm_json_add_string(call->result, "dirty", o.dirty);
    if (o.next < o.size)
        tm_json_add_uint(call->result, "next", o.next);
    return true;
}

/* ---- types */

static const QmpMember map_members[] = {
    { "node-name", &qmp_type_str, false, "name of the node" },
    { "bitmap", &qmp_type_str, true, "name of a bitmap of the node, to show what is dirty in it" },
    { "offset", &qmp_type_size, true, "the \"next\" of the answer to continue (default: 0)" },
    { NULL },
};
static const QmpType map_args = { .kind = QMP_KIND_OBJECT,
                                  .name = "q_obj_x-query-node-map-arg",
                                  .members = map_members };

static const QmpMember info_members[] = {
    { "size", &qmp_type_size, false, "bytes of the disk" },
    { "cell-size", &qmp_type_size, false, "bytes of a cell, a power of two; at most 512 cells" },
    { "first", &qmp_type_uint32, false, "number of the first cell that is described, from 0" },
    { "cells", &qmp_type_str, false,
      "a character for each cell, for what matters most in it: \"=\" data, \"o\" zeroes, \".\" a "
      "hole; \"?\" if that is not known, or another server would have to be asked" },
    { "dirty", &qmp_type_str, true,
      "a character for each of the same cells: \"#\" for one that is dirty anywhere, else \".\"" },
    { "next", &qmp_type_size, true,
      "there is more: the offset to ask for. If it is inside of a cell, the next answer describes "
      "the rest of that cell" },
    { NULL },
};
static const QmpType info_type = { .kind = QMP_KIND_OBJECT,
                                   .name = "NodeMapInfo",
                                   .members = info_members };

static const char *const map_errors[] = { "Failed to find node with node-name='NAME'",
                                          "Dirty bitmap 'NAME' not found", NULL };

static const QmpCommand commands[] = {
    { "x-query-node-map",
      "which parts of a disk are allocated, and dirty in a bitmap, roughly: as much as a few "
      "milliseconds of work show",
      &map_args, &info_type, run_map, QMP_COMMAND_UNSTABLE,
      .example = "{'node-name': 'disk0', 'bitmap': 'b0'}", .errors = map_errors },
    { NULL },
};

const QmpFamily qmp_family_map = { "Maps", commands };
