/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/graph.h: the nodes by name, and what happens to all of them.
 *
 * Main thread, except blk_graph_engine(), blk_graph_ask_heal(), blk_graph_emit() and
 * blk_graph_log(). */
#pragma once
#include "block/engine/engine.h"
#include "block/node.h"
#include "block/registry.h"
#include "object/objects.h"
#include "util/log.h"
#include <glib.h>
#include <json-c/json.h>

/* Called from any thread; takes @data (a reference; may be NULL). */
typedef void (*BlkEventFn)(void *opaque, const char *name, json_object *data);

/* All borrowed, must outlive the graph. */
BlkGraph *blk_graph_new(BlkRegistry *registry, BlkEngine *engine, const TmSys *sys);
/* Closes every node, parents first; all users must be gone. NULL is fine. false: bitmaps or
 * the image of a node that was closed, now or before, could not be kept as they were, which was
 * reported. */
bool blk_graph_free(BlkGraph *graph);
void blk_graph_set_events(BlkGraph *graph, BlkEventFn emit, void *opaque);
void blk_graph_emit(BlkGraph *graph, const char *name, json_object *data);
/* Where is logged what nobody is returned, from any thread. Borrowed, outlives the graph; NULL, as
 * at first: nowhere. */
void blk_graph_set_log(BlkGraph *graph, TmLog *log);
/* Messages of the log name the files of nodes, whose own names nobody has chosen. Before nodes are
 * added. */
void blk_graph_set_names_files(BlkGraph *graph);
bool blk_graph_names_files(const BlkGraph *graph);
TmLog *blk_graph_log(const BlkGraph *graph);
/* Called from any thread, perhaps under locks, when bitmaps were degraded: @heal has the main
 * thread call blk_bitmaps_heal() soon. */
void blk_graph_set_heal(BlkGraph *graph, void (*heal)(void *opaque), void *opaque);
void blk_graph_ask_heal(BlkGraph *graph);
/* Whether nodes that are added have a store of bitmaps beside their disk by default (they do unless
 * this says not). */
void blk_graph_set_stores(BlkGraph *graph, bool by_default);
bool blk_graph_has_stores(const BlkGraph *graph);
/* The kernel's identity of this boot (util/boot.h), by which stores of bitmaps distinguish a killed
 * process from lost power. Set: for tests that lose it. 16 bytes. */
void blk_graph_set_boot_id(BlkGraph *graph, const uint8_t id[16]);
const uint8_t *blk_graph_boot_id(const BlkGraph *graph);
BlkEngine *blk_graph_engine(BlkGraph *graph);
BlkRegistry *blk_graph_registry(BlkGraph *graph);
const TmSys *blk_graph_sys(BlkGraph *graph);
/* Those that options of nodes name; borrowed. None before they are set. */
void blk_graph_set_objects(BlkGraph *graph, TmObjects *objects);
TmObjects *blk_graph_objects(BlkGraph *graph);

/* blockdev-add: opens the node that @options (BlockdevOptions of QMP) describes, and the children
 * that it defines. On failure nothing is left open. Borrowed result. */
BlkNode *blk_graph_add(BlkGraph *graph, json_object *options, GError **error);
/* blockdev-del. Errors as QEMU's: "Failed to find node with node-name='x'", "Node x is in use" (by
 * an export), "Block device x is in use" (by a node), ... */
bool blk_graph_del(BlkGraph *graph, const char *node_name, GError **error);
/* blockdev-reopen: opens the nodes that the array @list describes (BlockdevOptions) with these
 * options, all of them or none: what fails is as it was. A node that can't even be opened as it was
 * fails every request from then on, and the error says so. block/reopen.c */
bool blk_graph_reopen(BlkGraph *graph, json_object *list, GError **error);
/* Nobody is going to write to the node: it is opened anew as read-only, with the nodes that were
 * defined within it, if nobody does and their files are still where they were. Else it stays as it
 * is, which is logged. block/reopen_state.c */
void blk_graph_make_read_only(BlkNode *node);
/* blockdev-set-active: a node (NULL: all) becomes active, with all that it stands on, or inactive,
 * with what nobody else needs active, so that another process can write to the image. All or
 * none. */
bool blk_graph_set_active(BlkGraph *graph, BlkNode *node, bool active, GError **error);
/* The node of that name, borrowed; else NULL and what QEMU says there, word for word, which depends
 * on who asks:
 *   find         what manages nodes (blockdev-del, -reopen): "Failed to find node with
 *                node-name='N'"
 *   lookup       what uses a node (children, exports, block_resize, a new bitmap): "Cannot find
 *                device='D' nor node-name='N'". D is what stands where QEMU takes a guest's device,
 *                too; it names no node here. Either may be NULL, shown as ''.
 *   find_bitmap  what uses a bitmap: "Node 'N' not found", and bmp_set_find()'s; a reference */
BlkNode *blk_graph_find(BlkGraph *graph, const char *node_name, GError **error);
BlkNode *blk_graph_lookup(BlkGraph *graph, const char *device, const char *node_name,
                          GError **error);
BmpBitmap *blk_graph_find_bitmap(BlkGraph *graph, const char *node_name, const char *name,
                                 GError **error);
/* Children before their parents, else in order of creation; borrowed nodes in a returned array
 * (g_ptr_array_unref). */
GPtrArray *blk_graph_nodes(BlkGraph *graph);

/* block_resize: drains the node, resizes, and grows its bitmaps. */
bool blk_graph_resize(BlkGraph *graph, BlkNode *node, uint64_t size, GError **error);
/* Somebody else than a drain waits for requests to end (+1), or no longer (-1): what servers
 * elsewhere owe nodes is not waited for for ever. */
void blk_graph_await(BlkGraph *graph, int change);
/* Whether a drain or somebody else does. Any thread. */
bool blk_graph_awaited(const BlkGraph *graph);
/* The end is near: what servers elsewhere owe nodes is waited for a little longer only. */
void blk_graph_hurry(BlkGraph *graph);
/* Flushes every writable node, also after one that fails, which the error names. */
bool blk_graph_flush_all(BlkGraph *graph, GError **error);
