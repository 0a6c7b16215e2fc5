/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp/snapshot.c: the nodes of a snapshot: those that the arguments name, or an overlay that is
 * made. */
#include "qmp/qmp_internal.h"
#include "util/error.h"
#include "util/log.h"

#include <string.h>

static QmpSnapshot *snapshot_new(BlkNode *node, BlkNode *overlay, BlkOverlay *made)
{
    QmpSnapshot *s = g_new0(QmpSnapshot, 1);

    s->node = blk_node_ref(node);
    s->overlay = blk_node_ref(overlay);
    s->made = made;
    return s;
}

bool qmp_snapshot_inactivate(QmpSnapshot *s, GError **error)
{
    if (blk_node_active(s->node) || !blk_node_active(s->overlay))
        return true;
    s->inactivated = blk_graph_set_active(blk_node_graph(s->overlay), s->overlay, false, error);
    return s->inactivated;
}

static void activate(BlkNode *overlay)
{
    const char *name = blk_node_name(overlay);
    g_autoptr(GError) error = NULL;

    if (!blk_graph_set_active(blk_node_graph(overlay), overlay, true, &error))
        tm_log_note(blk_graph_log(blk_node_graph(overlay)),
                    &(TmLogFacts){ .area = TM_LOG_BLOCK, .level = TM_LOG_WARNING, .node = name },
                    "node '%s' stays inactive: %s", name, error->message);
}

void qmp_snapshot_free(void *data)
{
    QmpSnapshot *s = data;

    if (s->inactivated && !s->taken && !s->made)
        activate(s->overlay);
    blk_node_unref(s->node);
    blk_node_unref(s->overlay);
    blk_overlay_end(s->made, s->taken != NULL);
    if (s->taken)
        blk_snapshot_keep(s->taken);
    g_clear_error(&s->refused);
    g_free(s);
}

QmpSnapshot *qmp_snapshot_find(QmpContext *ctx, json_object *args, GError **error)
{
    const char *name = qmp_arg_str(args, "node"), *above = qmp_arg_str(args, "overlay");
    BlkNode *node = blk_graph_lookup(qmp_context_graph(ctx), name, name, error), *overlay = NULL;

    if (node)
        overlay = blk_graph_lookup(qmp_context_graph(ctx), above, above, error);
    return overlay ? snapshot_new(node, overlay, NULL) : NULL;
}

QmpSnapshot *qmp_snapshot_make(QmpContext *ctx, json_object *args, GError **error)
{
    const char *mode = qmp_arg_str(args, "mode"), *format = qmp_arg_str(args, "format");
    BlkOverlayOptions options = { .file = qmp_arg_str(args, "snapshot-file"),
                                  .format = format ? format : "qcow2",
                                  .node_name = qmp_arg_str(args, "snapshot-node-name"),
                                  .existing = mode && !strcmp(mode, "existing") };
    /* "device" names a guest's device in QEMU; a storage daemon has none. */
    BlkNode *node = blk_graph_lookup(qmp_context_graph(ctx), qmp_arg_str(args, "device"),
                                     qmp_arg_str(args, "node-name"), error);
    BlkOverlay *made;

    if (!node)
        return NULL;
    if (!options.node_name) {
        tm_error_set(error, "New overlay node-name missing");
        return NULL;
    }
    made = blk_overlay_new(node, &options, error);
    return made ? snapshot_new(node, blk_overlay_node(made), made) : NULL;
}
