/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/backup/backup.c: the list of backups: what becomes of each in time, and what is reported of
 * them. */
#include "block/backup/backup_internal.h"

#include "util/error.h"
#include "util/json.h"
#include "util/trace.h"

#define ENDED_MAX 64u /* how many are remembered that have ended */

/* ---- the list */

BlkBackups *blk_backups_new(BlkExports *exports, GMainContext *main)
{
    BlkBackups *backups = g_new0(BlkBackups, 1);

    backups->exports = exports;
    backups->main = main;
    backups->list = g_ptr_array_new();
    backups->lingering = g_ptr_array_new();
    g_queue_init(&backups->ended);
    return backups;
}

static void ended_free(void *opaque)
{
    Ended *e = opaque;

    g_free(e->id);
    g_free(e->how);
    g_free(e);
}

void blk_backups_free(BlkBackups *backups)
{
    if (!backups)
        return;
    g_ptr_array_unref(backups->list);
    g_ptr_array_unref(backups->lingering);
    g_queue_clear_full(&backups->ended, ended_free);
    g_free(backups);
}

Backup *blk_backups_find(BlkBackups *backups, const char *id)
{
    for (guint i = 0; i < backups->list->len; i++) {
        Backup *b = backups->list->pdata[i];

        if (g_str_equal(b->id, id))
            return b;
    }
    return NULL;
}

static GList *find_ended(BlkBackups *backups, const char *id)
{
    GList *link = backups->ended.head;

    while (link && !g_str_equal(((Ended *)link->data)->id, id))
        link = link->next;
    return link;
}

void blk_backups_drop(BlkBackups *backups, const char *id)
{
    GList *link = find_ended(backups, id);

    if (!link)
        return;
    ended_free(link->data);
    g_queue_delete_link(&backups->ended, link);
}

/* ---- ends */

static void remember(BlkBackups *backups, const char *id, char *how)
{
    Ended *e = g_new0(Ended, 1);

    e->id = g_strdup(id);
    e->how = how;
    g_queue_push_head(&backups->ended, e);
    if (g_queue_get_length(&backups->ended) > ENDED_MAX)
        ended_free(g_queue_pop_tail(&backups->ended));
}

/* Its bitmaps are settled. @reason NULL: a user has ended it. */
static void gone(Backup *b, bool success, const char *reason)
{
    BlkGraph *graph = blk_exports_graph(b->backups->exports);
    json_object *data = json_object_new_object();

    tm_json_add_string(data, "id", b->id);
    if (reason)
        tm_json_add_string(data, "reason", reason);
    else
        tm_json_add_bool(data, "success", success);
    for (size_t i = 0; success && i < b->n; i++)
        blk_node_note_backup(b->disks[i].node);
    blk_graph_emit(graph, reason ? "BACKUP_ABORTED" : "BACKUP_ENDED", data);
    TM_TRACE(backup_end, b->id, success);
    tm_log_note(
        blk_graph_log(graph),
        &(TmLogFacts){ .area = TM_LOG_BACKUP, .level = success ? TM_LOG_DEBUG : TM_LOG_WARNING },
        "backup '%s' has ended with%s success%s%s", b->id, success ? "" : "out", reason ? ": " : "",
        reason ? reason : "");
    remember(b->backups, b->id,
             reason ? g_strdup_printf("without success: %s", reason)
                    : g_strdup(success ? "with success" : "without success"));
    g_ptr_array_remove(b->backups->list, b);
    if (blk_backup_exported(b)) {
        g_ptr_array_add(b->backups->lingering, b);
        return;
    }
    blk_backup_detach(b);
    blk_backup_free(b);
}

static void try_abort(Backup *b)
{
    if (blk_backup_settle(b, false, true, NULL)) /* else the next tick tries again */
        gone(b, false, b->aborted);
}

void blk_backup_abort(Backup *b, const char *reason)
{
    if (b->aborted)
        return;
    b->aborted = g_strdup(reason);
    blk_backup_break(b);
    try_abort(b);
}

/* Closes those that have ended and have no clients any more, and those that match, whose clients
 * are cut off. */
static void close_lingering(BlkBackups *backups, bool (*match)(const Backup *b, const void *opaque),
                            const void *opaque)
{
    for (guint i = backups->lingering->len; i-- > 0;) {
        Backup *b = backups->lingering->pdata[i];

        if (!match(b, opaque) && blk_backup_exported(b))
            continue;
        g_ptr_array_remove_index(backups->lingering, i);
        blk_backup_detach(b);
        blk_backup_free(b);
    }
}

static bool always(const Backup *b, const void *opaque)
{
    return true;
}

static bool never(const Backup *b, const void *opaque)
{
    return false;
}

static bool is_called(const Backup *b, const void *id)
{
    return g_str_equal(b->id, id);
}

static bool is_of_disk(const Backup *b, const void *node)
{
    for (size_t i = 0; i < b->n; i++) {
        if (b->disks[i].node == node)
            return true;
    }
    return false;
}

void blk_backups_make_way(BlkBackups *backups, const BlkNode *node)
{
    close_lingering(backups, is_of_disk, node);
}

bool blk_backups_end(BlkBackups *backups, const char *id, bool success, bool keep_from,
                     GError **error)
{
    Backup *b = blk_backups_find(backups, id);
    GList *ended = b ? NULL : find_ended(backups, id);

    if (ended) {
        close_lingering(backups, is_called, id);
        return tm_error_set(error, "Backup '%s' has ended already, %s", id,
                            ((Ended *)ended->data)->how);
    }
    if (!b)
        return tm_error_set(error, "Backup '%s' not found", id);
    if (b->aborted && success)
        return tm_error_set(error, "Backup '%s' is ending without success: %s", id, b->aborted);
    if (success && __atomic_load_n(&b->error, __ATOMIC_ACQUIRE)) {
        g_source_set_ready_time(b->failing, 0);
        return tm_error_set(error,
                            "Backup '%s' is ending without success: a copy before a write "
                            "failed",
                            id);
    }
    blk_backup_detach(b);
    if (!blk_backup_settle(b, success, keep_from, error))
        return false;
    gone(b, success, b->aborted);
    return true;
}

void blk_backups_end_all(BlkBackups *backups, const char *reason)
{
    for (guint i = backups->list->len; i-- > 0;) {
        blk_backup_detach(backups->list->pdata[i]);
        blk_backup_abort(backups->list->pdata[i], reason);
    }
    while (backups->list->len) /* what could not be stored: as after a crash */
        blk_backup_free(g_ptr_array_steal_index(backups->list, 0));
    close_lingering(backups, always, NULL);
}

/* ---- time */

static bool timed_out(Backup *b)
{
    int64_t left = b->began_at, seconds = b->timeout;

    for (size_t i = 0; i < b->n; i++) {
        const char *id = b->disks[i].export_id;
        g_autoptr(BlkExport) x = id ? blk_exports_find_id(b->backups->exports, id) : NULL;

        if (x)
            left = MAX(left, blk_export_left_at(x));
    }
    return left < g_get_monotonic_time() - seconds * G_USEC_PER_SEC;
}

void blk_backups_tick(BlkBackups *backups)
{
    close_lingering(backups, never, NULL);
    for (guint i = backups->list->len; i-- > 0;) {
        Backup *b = backups->list->pdata[i];
        g_autofree char *reason = NULL;

        if (b->aborted) {
            try_abort(b);
        } else if (b->timeout && timed_out(b)) {
            reason = g_strdup_printf("no client for %u seconds", b->timeout);
            blk_backup_abort(b, reason);
        }
    }
}
