/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/bitmaps.c: the store of bitmaps of a node, from its opening to its end; see the header. */
#include "bitmap/copy.h"
#include "block/bitmaps_internal.h"
#include "block/disk.h"
#include "block/losses.h"
#include "util/error.h"

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- reports */

static void report(void *opaque, const BmpReport *r)
{
    BlkNode *node = opaque;
    TmLog *log = blk_graph_log(node->graph);
    TmLogFacts facts = { .area = r->healed ? TM_LOG_STORE : TM_LOG_BITMAP,
                         .level = r->healed ? TM_LOG_INFO : TM_LOG_WARNING,
                         .node = node->name };
    json_object *data = json_object_new_object();
    g_autofree char *who = blk_node_said(node);

    json_object_object_add(data, "node-name", json_object_new_string(node->name));
    if (r->healed) {
        tm_log_note(log, &facts, "the bitmaps of %s are stored again", who);
        blk_graph_emit(node->graph, "BITMAP_HEALED", data);
        return;
    }
    if (r->unfinished) {
        json_object_object_add(data, "checkpoint", json_object_new_string(r->bitmap));
        json_object_object_add(data, "reason", json_object_new_string(r->reason));
        tm_log_note(log, &facts, "%s, bitmap '%s': %s, and it is removed", who, r->bitmap,
                    r->reason);
        blk_graph_emit(node->graph, "BACKUP_ABORTED", data);
        return;
    }
    if (r->bitmap)
        json_object_object_add(data, "bitmap", json_object_new_string(r->bitmap));
    json_object_object_add(data, "reason", json_object_new_string(r->reason));
    if (r->recovered)
        json_object_object_add(data, "recovered", json_object_new_int64((int64_t)r->recovered));
    json_object_object_add(data, "inconsistent", json_object_new_boolean(r->inconsistent));
    tm_log_note(log, &facts, "%s%s%s%s: %s%s", who, r->bitmap ? ", bitmap '" : "",
                r->bitmap ? r->bitmap : "", r->bitmap ? "'" : "", r->reason,
                r->inconsistent ? "; it is inconsistent" : "");
    blk_graph_emit(node->graph, "BITMAP_DEGRADED", data);
    blk_graph_ask_heal(node->graph);
}

/* ---- opening and closing */

static BlkBitmaps *bitmaps_new(BlkNode *node)
{
    BlkBitmaps *b = g_new0(BlkBitmaps, 1);

    b->node = node;
    b->work.run = blk_bitmaps_tick_run;
    b->interval = 1;
    b->held = -1;
    pthread_mutex_init(&b->lock, NULL);
    pthread_cond_init(&b->ticked, NULL);
    return b;
}

static BmpDurability durability(BlkNode *node)
{
    return g_str_equal(blk_options_string(node->options, "bitmap-durability"), "process-death")
               ? BMP_DURABLE_PROCESS
               : BMP_DURABLE_POWER;
}

/* Whether the file below is an image that keeps bitmaps itself: when that is written says nothing
 * of when the node's data is. */
static bool check_place(BlkNode *node, bool *has_place, GError **error)
{
    BlkNode *image = blk_bitmaps_kept(node) ? NULL : blk_bitmaps_image_below(node);
    g_autofree char *why = NULL;

    *has_place = !image && blk_node_active(node);
    if (!blk_node_active(node))
        bmp_set_refuse_store(node->bitmaps, "the node is inactive");
    if (*has_place || !image)
        return true;
    why = g_strdup_printf("its data is in the image of node '%s', which keeps bitmaps itself",
                          image->name);
    if (blk_options_is_set(node->options, "bitmap-store"))
        return tm_error_set(error, "Node '%s' can't have a bitmap-store: %s", node->name, why);
    bmp_set_refuse_store(node->bitmaps, why);
    return true;
}

/* Nobody else may write before a store is read, because it would soon say that we did. Where we
 * only read, they may, and what they write is not in the bitmaps. */
static bool may_have_bitmaps(BlkNode *node, const BmpStoreOptions *options, GError **error)
{
    bool has = options->path && (options->keeper || access(options->path, F_OK) == 0);

    if (options->read_only && (has || options->image))
        blk_disk_remember_read_only(node);
    return !has || options->read_only || blk_permissions_guard(node, true, error);
}

bool blk_bitmaps_open(BlkNode *node, GError **error)
{
    const char *disk = blk_disk_path(node);
    BmpStoreOptions options = { .sys = node->graph_sys,
                                .durability = durability(node),
                                .read_only = blk_node_read_only(node),
                                .flush = blk_bitmaps_flush,
                                .report = report,
                                .opaque = node };
    const BlkKeptBitmaps *kept = blk_bitmaps_kept(node);
    BmpImage image = { .beside = false };
    BmpKeeper keeper;
    g_autofree char *path = NULL, *layer = NULL;
    bool by_default = node->monitor_owned && blk_graph_has_stores(node->graph);
    bool has_place, regular, ok;

    if (!check_place(node, &has_place, error))
        return false;
    if (!has_place)
        return true;
    if (blk_bitmaps_beside(node)) {
        if (!blk_bitmaps_keeper(node, &keeper, error))
            return false;
        options.keeper = &keeper;
    }
    if (kept) {
        image = blk_bitmaps_image(node);
        options.image = &image;
    }

    options.layer = layer = blk_bitmaps_layer(node);
    options.disk_fd = blk_disk_open(node, &regular);
    options.path = path = blk_bitmaps_store_path(node, disk, regular, by_default || image.beside);
    options.shared = blk_disk_is_shared(node);
    options.accept_changed = blk_options_bool(node->options, "bitmap-accept-changed");
    memcpy(options.boot_id, blk_graph_boot_id(node->graph), sizeof(options.boot_id));
    ok = (!path && !kept) ||
         (may_have_bitmaps(node, &options, error) &&
          bmp_set_open_store(node->bitmaps, &options, error) && blk_bitmaps_guard(node, error));
    if (options.disk_fd >= 0)
        node->graph_sys->close(options.disk_fd);
    if (ok && kept && !blk_node_read_only(node))
        ok = blk_disk_claim(node, error) && blk_bitmaps_image_begin(node, error);
    if (ok && (path || kept)) {
        node->store = bitmaps_new(node);
        blk_bitmaps_note_place(node);
    }
    return ok;
}

static void let_go_of_disk(BlkBitmaps *b)
{
    if (b->held >= 0)
        close(b->held);
    b->held = -1;
}

bool blk_bitmaps_settle(BlkNode *node)
{
    BlkBitmaps *b = node->store;

    if (!b || blk_node_read_only(node))
        return true;
    blk_bitmaps_tick_wait(b);
    blk_bitmaps_flush_now(node);
    blk_losses_apply(node->graph);
    let_go_of_disk(b);
    b->held = blk_disk_hold(node); /* others must not write before it is known how it was left */
    bmp_identity_settle(node->graph_sys, b->held);
    if (!blk_bitmaps_kept(node))
        return true;
    b->dropped = node->open && blk_bitmaps_image_keep(node, b->flush_error);
    return b->dropped || !bmp_set_length(node->bitmaps);
}

/* A file's times show what was written since; nothing of a device lasts that does. */
static bool is_left(const BlkBitmaps *b, const GPtrArray *going)
{
    struct stat st;

    return b->held >= 0 && b->node->graph_sys->fstat(b->held, &st) == 0 && S_ISBLK(st.st_mode) &&
           blk_disk_written_beside(b->node, going);
}

bool blk_bitmaps_rest(BlkNode *node)
{
    bool ok = true;

    if (!node->store)
        return true;
    if (node->store->flushed && !blk_bitmaps_kept(node))
        ok = bmp_set_rest_store(node->bitmaps, is_left(node->store, NULL));
    let_go_of_disk(node->store);
    return ok;
}

static bool wake_image(BlkNode *node, GError **error)
{
    BmpImage image = blk_bitmaps_image(node);
    bool dropped = node->store->dropped;

    node->store->dropped = false;
    if (!dropped && !image.beside && bmp_set_store_sound(node->bitmaps))
        blk_bitmaps_distrust(node, true,
                             "the image was written by a program that does not know its store");
    return bmp_set_wake_image(node->bitmaps, &image, blk_node_read_only(node), dropped, error) &&
           (blk_node_read_only(node) ||
            (blk_disk_claim(node, error) && blk_bitmaps_image_begin(node, error)));
}

bool blk_bitmaps_wake(BlkNode *node, GError **error)
{
    bool regular, ok;
    int disk;

    if (!node->store)
        return true;
    blk_bitmaps_tick_wait(node->store);
    node->store->flushed = false;
    let_go_of_disk(node->store);
    disk = blk_disk_open(node, &regular);
    bmp_set_change_disk(node->bitmaps, disk);
    if (disk >= 0)
        node->graph_sys->close(disk);
    ok = blk_bitmaps_kept(node)
             ? wake_image(node, error)
             : bmp_set_wake_store(node->bitmaps, blk_node_read_only(node),
                                  blk_options_bool(node->options, "bitmap-accept-changed"), error);
    blk_bitmaps_note_place(node);
    return ok;
}

bool blk_bitmaps_close(BlkNode *node, const GPtrArray *going)
{
    BlkBitmaps *b = node->store;
    bool ok;

    if (!b)
        return true;
    blk_bitmaps_tick_wait(b);
    if (!is_left(b, going)) {
        ok = bmp_set_close_store(node->bitmaps);
    } else {
        if (bmp_set_store_exists(node->bitmaps))
            report(node,
                   &(BmpReport){ .reason = "another node writes to its disk, so its bitmaps "
                                           "will be dirty everywhere when it is opened again" });
        ok = bmp_set_leave_store(node->bitmaps);
    }
    let_go_of_disk(b);
    blk_bitmaps_leave_place(node);
    node->store = NULL;
    pthread_mutex_destroy(&b->lock);
    pthread_cond_destroy(&b->ticked);
    g_free(b);
    return ok;
}

bool blk_bitmaps_close_beside(BlkNode *node, const GPtrArray *going)
{
    return !node->open || !blk_bitmaps_beside(node) || blk_bitmaps_close(node, going);
}

/* A bitmap that is not persistent, of a set that goes. */
typedef struct Kept {
    char *name;
    BmpAddOptions options;
    BmpCopy *copy;
} Kept;

static void kept_clear(void *data)
{
    Kept *kept = data;

    g_free(kept->name);
    bmp_copy_free(kept->copy);
}

static GArray *list_kept(BmpSet *set)
{
    GArray *kept = g_array_new(FALSE, FALSE, sizeof(Kept));
    BmpBitmap *next;

    g_array_set_clear_func(kept, kept_clear);
    for (size_t i = 0; (next = bmp_set_nth(set, i)); i++) {
        g_autoptr(BmpBitmap) was = next;
        Kept k = { .options = { .granularity = bmp_bitmap_granularity(was),
                                .disabled = !bmp_bitmap_enabled(was) } };

        if (bmp_bitmap_persistent(was))
            continue;
        k.name = g_strdup(bmp_bitmap_name(was));
        k.copy = bmp_bitmap_inconsistent(was) ? NULL : bmp_copy_of(was);
        g_array_append_val(kept, k);
    }
    return kept;
}

/* Unless nobody wrote to the disk, what was recorded is of another one, or lacks that. */
static void keep(BmpSet *to, const Kept *was, bool same, uint64_t size)
{
    g_autoptr(BmpBitmap) bitmap = bmp_set_add(to, was->name, &was->options, NULL);

    if (bitmap && !(same && was->copy && bmp_bitmap_add_copy(bitmap, was->copy, NULL)))
        bmp_bitmap_add(bitmap, 0, size);
}

/* Whether the node's data is as it was when it became inactive, which is so far. */
static bool has_rested(BlkNode *node)
{
    BmpIdentity now;
    bool same;

    blk_disk_identity(node, false, &now);
    same = node->rest && bmp_identity_unchanged(node->rest, &now);
    if (!same || blk_node_active(node))
        g_clear_pointer(&node->rest, g_free);
    return same;
}

void blk_bitmaps_note_rest(BlkNode *node)
{
    if (!node->rest)
        node->rest = g_new0(BmpIdentity, 1);
    blk_disk_identity(node, true, node->rest);
}

bool blk_bitmaps_renew(BlkNode *node, GError **error)
{
    g_autoptr(GArray) had = list_kept(node->bitmaps);
    bool same = has_rested(node), ok;

    bmp_set_free(node->bitmaps); /* with the lock of its store, which may be the same */
    node->bitmaps = bmp_set_new(node->name, blk_node_size(node));
    ok = blk_bitmaps_open(node, error);
    bmp_set_change_begin(&node->bitmaps, 1);
    for (guint i = 0; i < had->len; i++)
        keep(node->bitmaps, &g_array_index(had, Kept, i), same, blk_node_size(node));
    bmp_set_change_end(&node->bitmaps, 1);
    node->bitmaps_closed = !ok || !blk_node_active(node);
    return ok && blk_bitmaps_guard(node, error);
}

void blk_bitmaps_distrust(BlkNode *node, bool stored, const char *why)
{
    BmpBitmap *next;

    for (size_t i = 0; (next = bmp_set_nth(node->bitmaps, i)); i++) {
        g_autoptr(BmpBitmap) bitmap = next;

        if (bmp_bitmap_enabled(bitmap) && !bmp_bitmap_inconsistent(bitmap) &&
            (stored || !bmp_bitmap_persistent(bitmap)))
            report(node, &(BmpReport){ .bitmap = bmp_bitmap_name(bitmap),
                                       .reason = why,
                                       .inconsistent = true });
    }
    bmp_set_change_begin(&node->bitmaps, 1);
    bmp_set_distrust(node->bitmaps, stored, why);
    bmp_set_change_end(&node->bitmaps, 1);
}
