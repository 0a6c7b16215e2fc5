/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/graph.c: the nodes by name, and what they all have from the graph.
 *
 * Invariants:
 *  - names are unique; nodes made by blockdev-add are owned by the monitor, nested ones by their
 *    users: they go with the last of these;
 *  - in the list children stand before their parents: it is in order of creation, but for nodes
 *    that a reopening has given to older ones. */
#include "block/graph_internal.h"

#include "util/boot.h"
#include "util/error.h"

#include <string.h>

BlkGraph *blk_graph_new(BlkRegistry *registry, BlkEngine *engine, const TmSys *sys)
{
    BlkGraph *graph = g_new0(BlkGraph, 1);

    graph->registry = registry;
    graph->engine = engine;
    graph->sys = sys;
    graph->nodes = g_ptr_array_new();
    graph->names = g_hash_table_new(g_str_hash, g_str_equal);
    graph->places =
        g_hash_table_new_full(g_str_hash, g_str_equal, g_free, (GDestroyNotify)g_ptr_array_unref);
    tm_boot_id(graph->boot_id);
    pthread_mutex_init(&graph->permissions, NULL);
    return graph;
}

void blk_graph_set_unsaved(BlkGraph *graph)
{
    graph->unsaved = true;
}

void blk_graph_set_events(BlkGraph *graph, BlkEventFn emit, void *opaque)
{
    graph->emit = emit;
    graph->emit_opaque = opaque;
}

void blk_graph_emit(BlkGraph *graph, const char *name, json_object *data)
{
    if (graph->emit)
        graph->emit(graph->emit_opaque, name, data);
    else
        json_object_put(data);
}

void blk_graph_set_log(BlkGraph *graph, TmLog *log)
{
    graph->log = log;
}

void blk_graph_set_names_files(BlkGraph *graph)
{
    graph->names_files = true;
}

bool blk_graph_names_files(const BlkGraph *graph)
{
    return graph->names_files;
}

void blk_graph_set_heal(BlkGraph *graph, void (*heal)(void *opaque), void *opaque)
{
    graph->heal = heal;
    graph->heal_opaque = opaque;
}

void blk_graph_ask_heal(BlkGraph *graph)
{
    if (graph->heal)
        graph->heal(graph->heal_opaque);
}

TmLog *blk_graph_log(const BlkGraph *graph)
{
    return graph->log;
}

void blk_graph_set_stores(BlkGraph *graph, bool by_default)
{
    graph->without_stores = !by_default;
}

bool blk_graph_has_stores(const BlkGraph *graph)
{
    return !graph->without_stores;
}

void blk_graph_set_boot_id(BlkGraph *graph, const uint8_t id[16])
{
    memcpy(graph->boot_id, id, sizeof(graph->boot_id));
}

const uint8_t *blk_graph_boot_id(const BlkGraph *graph)
{
    return graph->boot_id;
}

BlkEngine *blk_graph_engine(BlkGraph *graph)
{
    return graph->engine;
}

pthread_mutex_t *blk_graph_permissions(BlkGraph *graph)
{
    return &graph->permissions;
}

GHashTable *blk_graph_places(BlkGraph *graph)
{
    return graph->places;
}

unsigned *blk_graph_idle_tick(BlkGraph *graph)
{
    return &graph->idle_tick;
}

BlkRegistry *blk_graph_registry(BlkGraph *graph)
{
    return graph->registry;
}

void blk_graph_await(BlkGraph *graph, int change)
{
    __atomic_add_fetch(&graph->traffic.awaited, change, __ATOMIC_RELEASE);
}

bool blk_graph_awaited(const BlkGraph *graph)
{
    return __atomic_load_n(&graph->traffic.drains, __ATOMIC_ACQUIRE) ||
           __atomic_load_n(&graph->traffic.awaited, __ATOMIC_ACQUIRE);
}

BlkTraffic *blk_graph_traffic(BlkGraph *graph)
{
    return &graph->traffic;
}

void blk_graph_set_objects(BlkGraph *graph, TmObjects *objects)
{
    graph->objects = objects;
}

TmObjects *blk_graph_objects(BlkGraph *graph)
{
    return graph->objects;
}

const TmSys *blk_graph_sys(BlkGraph *graph)
{
    return graph->sys;
}

unsigned blk_graph_chain(BlkGraph *graph, int change)
{
    return graph->chain += (unsigned)change;
}

/* ---- names */

void blk_graph_list(BlkGraph *graph, BlkNode *node)
{
    node->rank = ++graph->last_rank;
    g_ptr_array_add(graph->nodes, node);
    g_hash_table_insert(graph->names, node->name, node);
}

void blk_graph_unlist(BlkGraph *graph, BlkNode *node)
{
    node->rank = 0;
    g_ptr_array_remove(graph->nodes, node);
    g_hash_table_remove(graph->names, node->name);
}

static BlkNode *find(BlkGraph *graph, const char *name)
{
    return g_hash_table_lookup(graph->names, name);
}

BlkNode *blk_graph_find(BlkGraph *graph, const char *node_name, GError **error)
{
    BlkNode *node = find(graph, node_name);

    if (!node)
        tm_error_set(error, "Failed to find node with node-name='%s'", node_name);
    return node;
}

BlkNode *blk_graph_lookup(BlkGraph *graph, const char *device, const char *node_name,
                          GError **error)
{
    BlkNode *node = node_name ? find(graph, node_name) : NULL;

    if (!node)
        tm_error_set(error, "Cannot find device='%s' nor node-name='%s'", device ? device : "",
                     node_name ? node_name : "");
    return node;
}

BmpBitmap *blk_graph_find_bitmap(BlkGraph *graph, const char *node_name, const char *name,
                                 GError **error)
{
    BlkNode *node = find(graph, node_name);

    if (node)
        return bmp_set_find(node->bitmaps, name, error);
    tm_error_set(error, "Node '%s' not found", node_name);
    return NULL;
}

GPtrArray *blk_graph_nodes(BlkGraph *graph)
{
    return g_ptr_array_copy(graph->nodes, NULL, NULL);
}
