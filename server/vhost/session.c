/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/vhost/session.c: how long a session and what it has live. */
#include "server/vhost/vhost_internal.h"

#include "util/json.h"
#include "util/sync.h"

#include <stdarg.h>
#include <sys/socket.h>
#include <unistd.h>

void vhost_export_unref(VhostExport *x)
{
    if (!tm_unref(&x->refs))
        return;
    g_array_unref(x->sockets);
    g_free(x);
}

void vhost_session_fail(VhostSession *s, const char *format, ...)
{
    const char *id = blk_export_id(s->export_->blk);
    TmLogFacts facts = {
        .area = TM_LOG_BLOCK, .level = TM_LOG_WARNING, .export = id, .client = s->peer
    };
    g_autofree char *text = NULL;
    va_list ap;

    if (__atomic_exchange_n(&s->cut, true, __ATOMIC_ACQ_REL))
        return;
    va_start(ap, format);
    text = g_strdup_vprintf(format, ap);
    va_end(ap);
    tm_log_note(s->export_->log, &facts, "export '%s': disconnecting client %s: %s", id, s->peer,
                text);
    shutdown(s->fd, SHUT_RDWR);
}

static void announce(const VhostSession *s, const char *event, json_object *data)
{
    tm_json_add_uint(data, "id", s->id);
    tm_json_add_string(data, "peer", s->peer);
    tm_json_add_string(data, "export", blk_export_id(s->export_->blk));
    blk_graph_emit(blk_node_graph(blk_export_node(s->export_->blk)), event, data);
}

static void note(const VhostSession *s, const char *text)
{
    const char *id = blk_export_id(s->export_->blk);
    TmLogFacts facts = {
        .area = TM_LOG_BLOCK, .level = TM_LOG_DEBUG, .export = id, .client = s->peer
    };

    tm_log_note(s->export_->log, &facts, "export '%s': client %s: %s", id, s->peer, text);
}

void vhost_session_opened(const VhostSession *s)
{
    json_object *data = json_object_new_object();

    note(s, "connected");
    tm_json_add_bool(data, "writable", blk_export_writable(s->export_->blk));
    announce(s, "VHOST_USER_BLK_CLIENT_CONNECTED", data);
}

void vhost_session_closed(const VhostSession *s, const char *reason)
{
    json_object *data = json_object_new_object();

    note(s, reason);
    tm_json_add_string(data, "reason", reason);
    announce(s, "VHOST_USER_BLK_CLIENT_DISCONNECTED", data);
}

VhostSession *vhost_session_ref(VhostSession *s)
{
    tm_ref(&s->refs);
    return s;
}

static void queue_free(VhostQueue *q)
{
    vhost_event_free(q->call);
    vhost_event_free(q->err);
    for (unsigned i = 0; q->requests && i < q->size; i++) {
        if (q->requests[i].parts != q->requests[i].few)
            g_free(q->requests[i].parts);
    }
    g_free(q->requests);
    g_free(q->again);
    pthread_mutex_destroy(&q->lock);
}

void vhost_session_unref(VhostSession *s)
{
    VhostExport *x = s->export_;
    BlkExport *blk = x->blk;

    if (!tm_unref(&s->refs))
        return;
    for (unsigned i = 0; i < s->n_queues; i++)
        queue_free(&s->queues[i]);
    vhost_memory_clear(&s->memory);
    tm_mapping_close(&s->inflight);
    for (unsigned i = 0; i < s->n_fds; i++)
        vhost_close(s->fds[i]);
    vhost_close(s->req_fd);
    close(s->fd);
    g_free(s->peer);
    g_free(s);
    blk_export_session_end(blk);
    __atomic_store_n(&x->vacant, 1, __ATOMIC_RELEASE);
    blk_export_unref(blk);
    vhost_export_unref(x);
}
