/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/parents.h: how the content of a node shows in those that stand on it, and what
 * follows: whose bitmaps a change concerns, and who must be held while bitmaps change.
 *
 * A node's own requests mark its bitmaps, and those of the nodes that they pass on their way down.
 * A change that enters further down, by another parent or an export of its own, is seen by the
 * others above it, too: it marks their bitmaps where they show it. Below a format nobody else
 * changes anything (block/permissions.h), so there is nothing to mark.
 *
 * Threads: main, but for what says otherwise. */
#pragma once
#include "block/node.h"
#include "block/registry.h"

/* What the node's child number @index is to it. Any thread. */
BlkChildRole blk_node_child_role(const BlkNode *node, unsigned index);
/* Whether what is in that child shows in the node. Any thread. */
bool blk_node_shows(const BlkNode *node, unsigned index);
/* The node whose content it shows, be it where it has none of its own; borrowed, or NULL. */
BlkNode *blk_node_shown_below(const BlkNode *node);
/* The same, where it has nothing of its own: no backing. */
BlkNode *blk_node_same_below(const BlkNode *node);

/* Whether it is that node, or has it below, as whatever. */
bool blk_node_stands_on(const BlkNode *node, const BlkNode *below);

/* The node sees changes of its children from now on, or no longer: its children or its options are
 * others then, or it goes. */
void blk_parents_connect(BlkNode *node);
void blk_parents_disconnect(BlkNode *node);

/* Whether marks of @node, and of those that show it, can be stored where they have to be. */
bool blk_parents_check_marks(BlkNode *node, GError **error);

/* Whether @fn is true of one of those that show it. */
bool blk_parents_any_up(BlkNode *node, bool (*fn)(BlkNode *parent));

/* Whether a change of @node is seen by another one above it than @from (NULL: none is excepted).
 * The caller holds a stripe of @node. Any thread. */
bool blk_parents_beside(BlkNode *node, const BlkNode *from, uint64_t offset, uint64_t length);

/* Marks in the bitmaps of all nodes above, and once more after the change. The caller holds stripes
 * of @node, of the range, in between. May wait as bmp_set_mark_begin(). Any thread. */
typedef struct BlkMarked BlkMarked;
BlkMarked *blk_parents_mark_begin(BlkNode *node, uint64_t offset, uint64_t length);
void blk_parents_mark_end(BlkMarked *marked); /* NULL is fine */

/* What the node shows may have changed without a write: dirty, in its bitmaps and above. */
void blk_parents_mark(BlkNode *node, uint64_t offset, uint64_t length);

/* Calls @fn for each range of a held node, in order: whether its backing shows there (or would, if
 * it had one), and whether the node has something of its own there. Both: it is not known. */
typedef void (*BlkRangeFn)(void *opaque, uint64_t offset, uint64_t length, bool backing, bool own);
void blk_node_each_range(BlkNode *node, BlkRangeFn fn, void *opaque);

/* @n nodes, and those below through which changes of what they show can come. Parents first: a
 * request there may wait for its child. */
GPtrArray *blk_nodes_below(BlkNode *const *nodes, size_t n);
/* Drains @n nodes, and those below through which changes of what they show can come: no request is
 * in flight, and only the caller's own can come. Several nodes are quiesced as well, because a
 * flush would write from one into the other. Returned: for blk_nodes_release(). */
GPtrArray *blk_nodes_hold(BlkNode *const *nodes, size_t n);
void blk_nodes_release(GPtrArray *held);
