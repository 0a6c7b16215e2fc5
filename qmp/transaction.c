/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp/transaction.c: see the header.
 *
 * All disks that the actions name are sealed together, so that what the actions do takes effect at
 * one instant of the write stream of each, and stored together. Then each action is done in turn
 * and noted; at the first that fails, those before it are taken back in reverse order, still within
 * the seal: nobody has seen them. */
#include "block/bitmap_changes.h"
#include "block/bitmaps.h"
#include "block/filters.h"
#include "block/parents.h"
#include "block/snapshot.h"
#include "qmp/qmp_internal.h"
#include "util/error.h"
#include <string.h>

typedef struct Transaction {
    QmpContext *ctx;
    GPtrArray *nodes; /* BlkNode references, each once */
    BlkBitmapChanges *changes;
    bool grouped;
    bool instant;         /* an action needs the disks at rest */
    GPtrArray *jobs;      /* BlkJob, borrowed: that are to start */
    GPtrArray *snapshots; /* QmpSnapshot, in the order of their actions */
    guint taken;          /* how many of them */
    BlkJobTxn *joined;    /* grouped: what they belong to */
} Transaction;

typedef bool (*ActionFn)(Transaction *t, json_object *data, GError **error);

/* ---- what actions name ---- */

static void involve_node(Transaction *t, BlkNode *node)
{
    if (!g_ptr_array_find(t->nodes, node, NULL))
        g_ptr_array_add(t->nodes, blk_node_ref(node));
}

static void involve(Transaction *t, const char *node_name)
{
    BlkNode *node = node_name ? blk_graph_find(qmp_context_graph(t->ctx), node_name, NULL) : NULL;

    /* A node that does not exist is for its action to complain of, in its turn. */
    if (node)
        involve_node(t, node);
}

static void involve_action(Transaction *t, json_object *data)
{
    size_t n;
    g_autofree BlkBitmapName *bitmaps = qmp_arg_bitmaps(data, "bitmaps", &n);

    involve(t, qmp_arg_str(data, "node"));
    involve(t, qmp_arg_str(data, "device"));
    for (size_t i = 0; i < n; i++)
        involve(t, bitmaps[i].node);
}

static BmpBitmap *find(Transaction *t, const char *node_name, const char *name, GError **error)
{
    return blk_graph_find_bitmap(qmp_context_graph(t->ctx), node_name, name, error);
}

static BmpBitmap *find_target(Transaction *t, json_object *data, const char *key, GError **error)
{
    return find(t, qmp_arg_str(data, "node"), qmp_arg_str(data, key), error);
}

/* ---- the actions ---- */

static bool add(Transaction *t, json_object *data, bool dirty, GError **error)
{
    const char *node_name = qmp_arg_str(data, "node"), *name = qmp_arg_str(data, "name");
    BmpAddOptions options = { .granularity = qmp_arg_uint(data, "granularity", 0),
                              .persistent = qmp_arg_bool(data, "persistent", false),
                              .disabled = qmp_arg_bool(data, "disabled", false),
                              .dirty = dirty };
    BlkNode *node = blk_graph_lookup(qmp_context_graph(t->ctx), node_name, node_name, error);

    if (!node)
        return false;
    if (!*name)
        return tm_error_set(error, "Bitmap name cannot be empty");
    /* To the set 0 means the default; a given 0 is a mistake. */
    if (qmp_arg(data, "granularity") && options.granularity == 0)
        return tm_error_set(error, "Granularity must be power of 2 and at least 512");
    return blk_bitmap_changes_add(t->changes, node, name, &options, error);
}

static bool act_add(Transaction *t, json_object *data, GError **error)
{
    return add(t, data, false, error);
}

static bool act_add_dirty(Transaction *t, json_object *data, GError **error)
{
    return add(t, data, true, error);
}

static bool act_remove(Transaction *t, json_object *data, GError **error)
{
    g_autoptr(BmpBitmap) bitmap = find_target(t, data, "name", error);

    return bitmap && blk_bitmap_changes_remove(t->changes, bitmap, error);
}

static bool alter(Transaction *t, json_object *data, bool (*fn)(BmpBitmap *, GError **),
                  GError **error)
{
    g_autoptr(BmpBitmap) bitmap = find_target(t, data, "name", error);

    return bitmap && blk_bitmap_changes_apply(t->changes, bitmap, fn, error);
}

static bool act_clear(Transaction *t, json_object *data, GError **error)
{
    return alter(t, data, bmp_bitmap_clear, error);
}

static bool act_enable(Transaction *t, json_object *data, GError **error)
{
    return alter(t, data, bmp_bitmap_enable, error);
}

static bool act_disable(Transaction *t, json_object *data, GError **error)
{
    return alter(t, data, bmp_bitmap_disable, error);
}

static bool merge_one(Transaction *t, BmpBitmap *target, const char *node_name, const char *name,
                      GError **error)
{
    g_autoptr(BmpBitmap) source = find(t, node_name, name, error);

    return source && blk_bitmap_changes_merge(t->changes, target, source, error);
}

static bool act_merge(Transaction *t, json_object *data, GError **error)
{
    g_autoptr(BmpBitmap) target = find_target(t, data, "target", error);
    size_t n;
    g_autofree BlkBitmapName *sources = qmp_arg_bitmaps(data, "bitmaps", &n);

    if (!target || !bmp_bitmap_check_usable(target, error))
        return false;
    for (size_t i = 0; i < n; i++) {
        const char *node = sources[i].node ? sources[i].node : qmp_arg_str(data, "node");

        if (!merge_one(t, target, node, sources[i].name, error))
            return false;
    }
    return true;
}

static bool act_backup(Transaction *t, json_object *data, GError **error)
{
    BlkJob *job = qmp_backup_new(t->ctx, t->changes, t->joined, data, error);

    if (job)
        g_ptr_array_add(t->jobs, job);
    return job != NULL;
}

/* ---- snapshots: their overlays are there before anything is held */

static bool prepare_snapshot(Transaction *t, QmpSnapshot *snapshot, GError **error)
{
    if (!snapshot)
        return false;
    g_ptr_array_add(t->snapshots, snapshot);
    involve_node(t, snapshot->overlay);
    /* The bitmaps of all that show the same are read within the change. */
    for (BlkNode *node = snapshot->node; node; node = blk_node_same_below(node))
        involve_node(t, node);
    return qmp_snapshot_inactivate(snapshot, error);
}

static bool prepare_named(Transaction *t, json_object *data, GError **error)
{
    return prepare_snapshot(t, qmp_snapshot_find(t->ctx, data, error), error);
}

static bool prepare_made(Transaction *t, json_object *data, GError **error)
{
    return prepare_snapshot(t, qmp_snapshot_make(t->ctx, data, error), error);
}

static bool act_snapshot(Transaction *t, json_object *data, GError **error)
{
    QmpSnapshot *s = t->snapshots->pdata[t->taken];
    int ret;

    if (s->refused) {
        g_propagate_error(error, g_steal_pointer(&s->refused));
        return false;
    }
    ret = blk_node_read_only(s->node) ? 0 : blk_node_flush(s->node);
    if (ret < 0)
        return tm_error_set_errno(error, -ret, "Could not flush node '%s'", blk_node_name(s->node));
    s->taken = blk_snapshot_take(s->node, s->overlay, error);
    t->taken += s->taken != NULL;
    return s->taken != NULL;
}

/* Those who use the node of number @n when its snapshot is taken may use another one now, with an
 * earlier snapshot of the same transaction. */
static BlkNode *used_now(const Transaction *t, guint n)
{
    BlkNode *node = ((QmpSnapshot *)t->snapshots->pdata[n])->node;

    while (n-- > 0) {
        const QmpSnapshot *earlier = t->snapshots->pdata[n];

        if (earlier->overlay == node)
            node = earlier->node;
    }
    return node;
}

/* Before the bitmaps change, so that those that begin with the snapshot are clean. One that is
 * refused marks nothing, and is not taken even if an earlier action has removed the reason. The
 * others are checked again when they are taken, as earlier actions may have added a reason. */
static void mark_snapshots(const Transaction *t)
{
    for (guint i = 0; i < t->snapshots->len; i++) {
        QmpSnapshot *s = t->snapshots->pdata[i];

        if (blk_snapshot_check(s->node, s->overlay, &s->refused))
            blk_snapshot_mark(used_now(t, i), s->overlay);
    }
}

static void take_back_snapshots(Transaction *t)
{
    while (t->taken > 0) {
        QmpSnapshot *s = t->snapshots->pdata[--t->taken];

        blk_snapshot_take_back(g_steal_pointer(&s->taken));
    }
}

static bool act_abort(Transaction *t, json_object *data, GError **error)
{
    return tm_error_set(error, "Transaction aborted using Abort action");
}

typedef struct Action {
    const char *type;
    ActionFn act;
    ActionFn prepare; /* before the disks are at rest; or NULL */
    bool rest;        /* the disks must be */
    bool grouped;     /* knows completion-mode grouped */
} Action;

#define ADD_DIRTY "add-dirty" /* not of QMP */

static const Action actions_table[] = {
    { "abort", act_abort, .grouped = true },
    { ADD_DIRTY, act_add_dirty },
    { "block-dirty-bitmap-add", act_add },
    { "block-dirty-bitmap-remove", act_remove },
    { "block-dirty-bitmap-clear", act_clear },
    { "block-dirty-bitmap-enable", act_enable },
    { "block-dirty-bitmap-disable", act_disable },
    { "block-dirty-bitmap-merge", act_merge },
    { "blockdev-backup", act_backup, .rest = true, .grouped = true },
    { "blockdev-snapshot", act_snapshot, prepare_named, .rest = true },
    { "blockdev-snapshot-sync", act_snapshot, prepare_made, .rest = true },
};

/* NULL: there is no such action. */
static const Action *find_action(json_object *action)
{
    const char *type = qmp_arg_str(action, "type");

    for (size_t i = 0; i < G_N_ELEMENTS(actions_table); i++) {
        if (!strcmp(actions_table[i].type, type))
            return &actions_table[i];
    }
    return NULL;
}

static bool act(Transaction *t, json_object *action, GError **error)
{
    const char *type = qmp_arg_str(action, "type");
    const Action *a = find_action(action);

    if (!a)
        return tm_error_set(error, "Parameter 'type' does not accept value '%s'", type);
    if (t->grouped && !a->grouped)
        return tm_error_set(error,
                            "Action '%s' does not support Transaction property "
                            "completion-mode = grouped",
                            type);
    return a->act(t, qmp_arg(action, "data"), error);
}

/* What an action needs before the disks are held, and whose disks these are. */
static bool prepare(Transaction *t, json_object *actions, GError **error)
{
    for (size_t i = 0; i < json_object_array_length(actions); i++) {
        json_object *action = json_object_array_get_idx(actions, i);
        const Action *a = find_action(action);

        if (a && a->prepare && !t->grouped && !a->prepare(t, qmp_arg(action, "data"), error))
            return false;
        t->instant |= a && a->rest;
        involve_action(t, qmp_arg(action, "data"));
    }
    return true;
}

/* ---- the whole ---- */

static bool perform(Transaction *t, json_object *actions, GError **error)
{
    size_t n = json_object_array_length(actions);

    for (size_t i = 0; i < n; i++)
        if (!act(t, json_object_array_get_idx(actions, i), error))
            goto fail;
    if (blk_bitmaps_commit((BlkNode *const *)t->nodes->pdata, t->nodes->len, error))
        return true;
fail:
    blk_bitmap_changes_take_back(t->changes);
    return false;
}

/* Within the hold, so that of what has failed nothing was copied. */
static bool change(Transaction *t, json_object *actions, GError **error)
{
    BlkNode *const *nodes = (BlkNode *const *)t->nodes->pdata;
    bool ok;

    blk_bitmaps_change_begin(nodes, t->nodes->len);
    ok = perform(t, actions, error);
    blk_bitmaps_change_end(nodes, t->nodes->len);
    for (guint i = 0; !ok && i < t->jobs->len; i++)
        blk_job_drop(t->jobs->pdata[i]);
    if (!ok)
        take_back_snapshots(t);
    return ok;
}

/* What is flushed before need not be while all is at rest. */
static bool change_at_rest(Transaction *t, json_object *actions, GError **error)
{
    BlkNode *const *nodes = (BlkNode *const *)t->nodes->pdata;
    BlkHold *hold;
    bool ok;

    for (guint i = 0; i < t->nodes->len; i++) {
        if (!blk_node_read_only(nodes[i]))
            blk_node_flush(nodes[i]);
    }
    hold = blk_hold_begin(nodes, t->nodes->len);
    mark_snapshots(t);
    ok = change(t, actions, error);
    blk_hold_end(hold);
    for (guint i = 0; ok && i < t->jobs->len; i++)
        blk_job_start(t->jobs->pdata[i]);
    return ok;
}

bool qmp_transaction_run(QmpContext *ctx, json_object *actions, bool grouped, GError **error)
{
    Transaction t = { .ctx = ctx, .grouped = grouped };
    bool ok;

    t.nodes = g_ptr_array_new_with_free_func((GDestroyNotify)blk_node_unref);
    t.snapshots = g_ptr_array_new_with_free_func(qmp_snapshot_free);
    t.jobs = g_ptr_array_new();
    t.changes = blk_bitmap_changes_new();
    t.joined = grouped ? blk_job_txn_new() : NULL;
    ok = prepare(&t, actions, error) &&
         (t.instant && t.nodes->len ? change_at_rest(&t, actions, error)
                                    : change(&t, actions, error));
    blk_job_txn_unref(t.joined);
    blk_bitmap_changes_free(t.changes);
    g_ptr_array_unref(t.jobs);
    g_ptr_array_unref(t.nodes);
    g_ptr_array_unref(t.snapshots);
    return ok;
}

bool qmp_transaction_run_one(QmpContext *ctx, const char *type, json_object *data, GError **error)
{
    json_object *actions = json_object_new_array(), *action = json_object_new_object();
    bool ok;

    json_object_object_add(action, "type", json_object_new_string(type));
    json_object_object_add(action, "data", json_object_get(data));
    json_object_array_add(actions, action);
    ok = qmp_transaction_run(ctx, actions, false, error);
    json_object_put(actions);
    return ok;
}

bool qmp_bitmap_provide(QmpContext *ctx, json_object *args, bool *made, GError **error)
{
    BlkNode *node = blk_graph_find(qmp_context_graph(ctx), qmp_arg_str(args, "node"), NULL);
    g_autoptr(BmpBitmap) there =
        node ? bmp_set_find(blk_node_bitmaps(node), qmp_arg_str(args, "name"), NULL) : NULL;

    *made = !there;
    return there || qmp_transaction_run_one(ctx, ADD_DIRTY, args, error);
}
