/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/export/facts.c: what an export says of itself, and what sessions do with one. */
#include "block/export/export_internal.h"

#include "block/users.h"
#include "util/error.h"

#include <errno.h>
#include <string.h>
#include <time.h>

/* ---- sessions */

int blk_export_session_begin(BlkExport *x)
{
    TM_GUARD(&x->exports->lock);

    if (blk_export_shutting_down(x))
        return -ESHUTDOWN;
    if (x->max_connections && x->sessions >= x->max_connections)
        return -EUSERS;
    x->sessions++;
    return 0;
}

void blk_export_session_end(BlkExport *x)
{
    TM_GUARD(&x->exports->lock);

    x->sessions--;
    x->left_at = g_get_monotonic_time();
}

void blk_export_remember(BlkExport *x, const BlkCounts *did)
{
    TM_GUARD(&x->exports->lock);

    blk_counts_add(&x->past, did);
}

void blk_export_add_past(BlkExport *x, BlkCounts *sum)
{
    TM_GUARD(&x->exports->lock);

    blk_counts_add(sum, &x->past);
}

void blk_export_counts(BlkExport *x, BlkCounts *counts)
{
    blk_counters_sum(&x->counters, counts);
    if (x->type->counts)
        x->type->counts(x->type->opaque, x, counts);
    else
        blk_export_add_past(x, counts);
}

BlkSelection *blk_export_selection(BlkExport *x)
{
    TM_GUARD(&x->exports->lock);

    return blk_selection_ref(x->selection);
}

BlkContexts *blk_export_contexts(const BlkExport *x)
{
    return x->contexts;
}

/* ---- facts */

const char *blk_export_id(const BlkExport *x)
{
    return x->id;
}

const char *blk_export_type(const BlkExport *x)
{
    return x->type->name;
}

bool blk_export_by_servers(const BlkExport *x)
{
    return x->type->by_servers;
}

const char *blk_export_name(const BlkExport *x)
{
    return x->name;
}

const char *blk_export_description(const BlkExport *x)
{
    return x->description;
}

BlkUser *blk_export_user(const BlkExport *x)
{
    return x->user;
}

BlkNode *blk_export_node(const BlkExport *x)
{
    return blk_user_node(x->user);
}

bool blk_export_writable(const BlkExport *x)
{
    return x->writable;
}

bool blk_export_writethrough(const BlkExport *x)
{
    return x->writethrough;
}

bool blk_export_allocation_depth(const BlkExport *x)
{
    return x->allocation_depth;
}

bool blk_export_shown_by(const BlkExport *x, const char *server)
{
    return !x->servers || g_strv_contains((const char *const *)x->servers, server);
}

const char *const *blk_export_servers(const BlkExport *x)
{
    return (const char *const *)x->servers;
}

bool blk_export_hidden(const BlkExport *x)
{
    return x->hidden;
}

bool blk_export_is_default(const BlkExport *x)
{
    return x->is_default;
}

uint32_t blk_export_max_connections(const BlkExport *x)
{
    return x->max_connections;
}

unsigned blk_export_sessions(BlkExport *x)
{
    TM_GUARD(&x->exports->lock);

    return x->sessions;
}

int64_t blk_export_left_at(BlkExport *x)
{
    TM_GUARD(&x->exports->lock);

    return x->sessions ? g_get_monotonic_time() : x->left_at;
}

bool blk_export_releases(const BlkExport *x)
{
    return x->release;
}

bool blk_export_background(const BlkExport *x)
{
    bool background = blk_node_background(blk_user_enter(x->user));

    blk_user_leave(x->user);
    return background;
}

bool blk_export_allows(const BlkExport *x, BlkAccess access, const char *identity)
{
    return !x->allow[access] || tm_authz_allowed(x->allow[access], identity);
}

bool blk_export_status_2016(const BlkExport *x)
{
    return x->status_2016;
}

unsigned blk_export_dirty_flag_2016(const BlkExport *x)
{
    return x->dirty_flag_2016;
}

const char *blk_export_bitmap_2016(const BlkExport *x)
{
    return x->bitmap_2016;
}

bool blk_export_shutting_down(const BlkExport *x)
{
    return __atomic_load_n(&x->shutting_down, __ATOMIC_ACQUIRE);
}

static void log_io_error(BlkExport *x, const char *node, bool write, int errnum)
{
    TmLogFacts facts = {
        .area = TM_LOG_BLOCK, .level = TM_LOG_WARNING, .node = node, .export = x->id
    };

    tm_log_note(blk_graph_log(x->exports->graph), &facts,
                "export '%s': a %s of a client failed: %s", x->id, write ? "write" : "read",
                tm_strerror(errnum));
}

void blk_export_io_error(BlkExport *x, bool write, int errnum)
{
    struct timespec now;
    int64_t last = __atomic_load_n(&x->last_error, __ATOMIC_RELAXED);
    g_autofree char *node = NULL;
    json_object *data;

    clock_gettime(CLOCK_MONOTONIC, &now);
    if (last != INT64_MIN && now.tv_sec - last < 1)
        return;
    if (!__atomic_compare_exchange_n(&x->last_error, &last, now.tv_sec, false, __ATOMIC_RELAXED,
                                     __ATOMIC_RELAXED))
        return;
    node = blk_user_node_name(x->exports->graph, x->user);
    data = json_object_new_object();
    json_object_object_add(data, "device", json_object_new_string(x->id));
    json_object_object_add(data, "node-name", json_object_new_string(node));
    json_object_object_add(data, "operation", json_object_new_string(write ? "write" : "read"));
    json_object_object_add(data, "action", json_object_new_string("report"));
    json_object_object_add(data, "nospace", json_object_new_boolean(errnum == ENOSPC));
    json_object_object_add(data, "reason", json_object_new_string(tm_strerror(errnum)));
    blk_graph_emit(x->exports->graph, "BLOCK_IO_ERROR", data);
    log_io_error(x, node, write, errnum);
}

json_object *blk_export_given(const BlkExport *x)
{
    return x->given;
}

void blk_export_set_given(BlkExport *x, const char *member, json_object *value)
{
    if (x->given)
        json_object_object_add(x->given, member, value);
    else
        json_object_put(value);
}

void blk_export_describe(BlkExport *x, json_object *info)
{
    if (x->type->describe)
        x->type->describe(x->type->opaque, x, info);
}

void blk_export_set_serving(BlkExport *x, void *serving)
{
    x->serving = serving;
}

void *blk_export_serving(const BlkExport *x)
{
    return x->serving;
}

void blk_export_count(BlkExport *x, const BlkRequest *request, int result)
{
    static const BlkCount counts[] = {
        [BLK_OP_READ] = BLK_COUNT_READ,          [BLK_OP_WRITE] = BLK_COUNT_WRITE,
        [BLK_OP_FLUSH] = BLK_COUNT_FLUSH,        [BLK_OP_DISCARD] = BLK_COUNT_UNMAP,
        [BLK_OP_WRITE_ZEROES] = BLK_COUNT_WRITE,
    };

    blk_counters_add(&x->counters, counts[request->op], request->offset, request->length, result,
                     request->took);
    if (result < 0)
        blk_export_io_error(x, request->op != BLK_OP_READ, -result);
}
