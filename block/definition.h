/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/definition.h: the nodes as blockdev-add would make them again. Main thread. */
#pragma once
#include "block/graph.h"

/* An array of BlockdevOptions, children before parents: what was given, now, after reopenings and
 * changes of the graph. A child that was defined within its parent is so here; one that its image
 * names is left out, and so are nodes that code made (a backup's). A reference. */
json_object *blk_graph_definitions(BlkGraph *graph);
