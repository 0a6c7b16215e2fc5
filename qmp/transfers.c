/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp/transfers.c: see the header. */
#include "qmp/transfers.h"

#include "util/error.h"

#define AT_ONCE 16u

struct QmpTransfers {
    GQueue queue; /* QmpTransfer, the oldest first */
    uint64_t next;
};

QmpTransfers *qmp_transfers_new(void)
{
    QmpTransfers *t = g_new0(QmpTransfers, 1);

    g_queue_init(&t->queue);
    t->next = 1;
    return t;
}

static void transfer_free(void *opaque)
{
    QmpTransfer *transfer = opaque;

    g_free(transfer->node);
    g_free(transfer->name);
    json_object_put(transfer->args);
    bmp_copy_free(transfer->copy);
    g_free(transfer);
}

void qmp_transfers_free(QmpTransfers *t)
{
    if (!t)
        return;
    g_queue_clear_full(&t->queue, transfer_free);
    g_free(t);
}

QmpTransfer *qmp_transfers_add(QmpTransfers *t, const char *node, const char *name,
                               json_object *args, BmpCopy *copy)
{
    QmpTransfer *transfer = g_new0(QmpTransfer, 1);

    transfer->id = t->next++;
    transfer->node = g_strdup(node);
    transfer->name = g_strdup(name);
    transfer->args = json_object_get(args);
    transfer->copy = copy;
    if (t->queue.length == AT_ONCE)
        transfer_free(g_queue_pop_head(&t->queue));
    g_queue_push_tail(&t->queue, transfer);
    return transfer;
}

QmpTransfer *qmp_transfers_find(QmpTransfers *t, const char *node, const char *name, uint64_t id,
                                GError **error)
{
    for (GList *l = t->queue.head; l; l = l->next) {
        QmpTransfer *transfer = l->data;

        if (transfer->id == id && g_str_equal(transfer->node, node) &&
            g_str_equal(transfer->name, name))
            return transfer;
    }
    tm_error_set(error,
                 "Bitmap '%s' of node '%s' is not on its way with cursor %" G_GUINT64_FORMAT
                 ": begin again without a cursor",
                 name, node, id);
    return NULL;
}

void qmp_transfers_end(QmpTransfers *t, QmpTransfer *transfer)
{
    g_queue_remove(&t->queue, transfer);
    transfer_free(transfer);
}
