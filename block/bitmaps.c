/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/bitmaps.c: nodes and their stores of bitmaps; see the header.
 *
 * A node is drained parents first: a request in the parent may be waiting for its child.
 *
 * A driver may hold locks of its own while what is below it grows or is marked, which takes the set
 * there. So an image is flushed, and told where its bitmaps are, before sets are locked; it follows
 * when they are not any more. */
#include "block/bitmaps_internal.h"
#include "block/disk.h"
#include "block/losses.h"
#include "block/parents.h"
#include "util/error.h"
#include "util/sync.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define HEAL_MAX 60u /* seconds between attempts, at most */

struct BlkBitmaps {
    BlkNode *node; /* borrowed */
    BlkWork work;
    pthread_mutex_t lock; /* guards ticking; a leaf */
    pthread_cond_t ticked;
    bool ticking;        /* bmp_set_tick() is queued or running */
    bool in_place;       /* there is something where its store is, or about to be */
    bool dropped;        /* resting: everything is in the image */
    bool flushed;        /* it was, as drained as it is: @flush_error is how it went */
    int held;            /* what keeps the disk's locks until the store is closed; or -1 */
    int flush_error;     /* -errno, or 0 */
    GPtrArray *removed;  /* within a change of an image's: names that it is to forget */
    GError *unannounced; /* within a change: the image could not be told of its store; or NULL */
    unsigned wait, interval; /* seconds to the next attempt to heal; and after it */
};

/* ---- where */

/* Absolute, as other stores may refer to it; g_free. */
static char *real_path(const char *path)
{
    char *resolved = realpath(path, NULL);
    char *real = resolved ? g_strdup(resolved) : g_canonicalize_filename(path, NULL);

    free(resolved);
    return real;
}

/* Whose bitmaps are there, or are about to be, but for the node's: those of the file below, or of
 * another part; or NULL. */
static BlkNode *holder(BlkNode *node, const char *path)
{
    g_autoptr(GPtrArray) nodes = blk_graph_nodes(node->graph);

    for (guint i = 0; i < nodes->len; i++) {
        BlkNode *other = nodes->pdata[i];

        if (other != node && other->store && other->store->in_place &&
            !g_strcmp0(bmp_set_store_path(other->bitmaps), path))
            return other;
    }
    return NULL;
}

/* Not within a change, where the sets of others are not to be locked. */
static void note_place(BlkNode *node)
{
    node->store->in_place =
        bmp_set_store_exists(node->bitmaps) || bmp_set_has_persistent(node->bitmaps);
}

bool blk_bitmaps_may_add(BlkNode *node, GError **error)
{
    const char *path = bmp_set_store_path(node->bitmaps);
    BlkNode *other = path && !bmp_set_store_exists(node->bitmaps) ? holder(node, path) : NULL;

    if (node->store)
        node->store->in_place |= !other;
    return !other ||
           tm_error_set(error,
                        "Node '%s' can't keep persistent bitmaps in '%s', which has those of "
                        "node '%s': see the option bitmap-store",
                        node->name, path, other->name);
}

/* With what is appended while it is written. */
static bool fits(const char *path)
{
    static const size_t more = sizeof(".tmp") - 1;

    return strlen(strrchr(path, '/') + 1) + more <= NAME_MAX && strlen(path) + more < PATH_MAX;
}

/* g_free; NULL: the node has no place for a store. */
static char *store_path(BlkNode *node, const char *disk, bool regular, bool by_default)
{
    g_autofree char *real = NULL, *path = NULL;

    if (blk_options_is_set(node->options, "bitmap-store"))
        return real_path(blk_options_string(node->options, "bitmap-store"));
    if (!by_default || !regular)
        return NULL;
    real = real_path(disk);
    path = g_strconcat(real, BMP_STORE_SUFFIX, NULL);
    if (!fits(path)) {
        bmp_set_refuse_store(node->bitmaps,
                             "the name of the disk is too long for a store beside it: "
                             "see the option bitmap-store");
        return NULL;
    }
    return holder(node, path) ? NULL : g_steal_pointer(&path);
}

/* Where the node's data begins in the file. */
static uint64_t data_offset(BlkNode *node)
{
    uint64_t offset = 0;

    while (node) {
        const struct tidemark_option *o = node->driver->options;
        BlkNode *below = NULL;

        for (; o && o->name; o++) {
            if (g_str_equal(o->name, "offset") && o->type == TIDEMARK_OPTION_SIZE &&
                blk_options_is_set(node->options, "offset"))
                offset += blk_options_uint(node->options, "offset");
        }
        for (unsigned i = 0; i < node->n_children && !below; i++) {
            if (node->children[i] && (int)i != node->backing)
                below = node->children[i]->node;
        }
        node = below;
    }
    return offset;
}

/* What the bitmaps are of: of another part of the same file they say nothing. At most 31 bytes;
 * g_free. */
static char *layer_name(BlkNode *node)
{
    uint64_t offset = data_offset(node);

    return offset ? g_strdup_printf("%.14s+%" G_GINT64_MODIFIER "x", node->driver->name, offset)
                  : g_strndup(node->driver->name, 31);
}

/* ---- reports */

static void report(void *opaque, const BmpReport *r)
{
    BlkNode *node = opaque;
    json_object *data = json_object_new_object();

    json_object_object_add(data, "node-name", json_object_new_string(node->name));
    if (r->healed) {
        blk_graph_log(node->graph, "the bitmaps of node '%s' are stored again", node->name);
        blk_graph_emit(node->graph, "BITMAP_HEALED", data);
        return;
    }
    if (r->bitmap)
        json_object_object_add(data, "bitmap", json_object_new_string(r->bitmap));
    json_object_object_add(data, "reason", json_object_new_string(r->reason));
    if (r->recovered)
        json_object_object_add(data, "recovered", json_object_new_int64((int64_t)r->recovered));
    json_object_object_add(data, "inconsistent", json_object_new_boolean(r->inconsistent));
    blk_graph_log(node->graph, "node '%s'%s%s%s: %s%s", node->name, r->bitmap ? ", bitmap '" : "",
                  r->bitmap ? r->bitmap : "", r->bitmap ? "'" : "", r->reason,
                  r->inconsistent ? "; it is inconsistent" : "");
    blk_graph_emit(node->graph, "BITMAP_DEGRADED", data);
    blk_graph_ask_heal(node->graph);
}

/* ---- flushing */

/* All that the node shows: also what others have written to backings, which it does not flush. */
static int flush_shown(BlkNode *node)
{
    g_autoptr(GPtrArray) shown = blk_nodes_below(&node, 1);
    int ret = blk_node_flush(node);

    for (guint i = 0; ret == 0 && i < shown->len; i++) {
        BlkNode *backing = blk_node_backing(shown->pdata[i]);

        if (backing && backing->open && !blk_node_read_only(backing))
            ret = blk_node_flush(backing);
    }
    return ret;
}

/* Notes how it went: what follows until the node is let go of rests on this flush. */
static void flush_now(BlkNode *node)
{
    node->store->flush_error = blk_node_read_only(node) ? 0 : flush_shown(node);
    node->store->flushed = true;
}

/* Of the node's set: before a commit. */
static bool flush(void *opaque, GError **error)
{
    BlkNode *node = opaque;
    int ret = node->store && node->store->flushed ? node->store->flush_error : flush_shown(node);

    return ret == 0 ||
           tm_error_set_errno(error, -ret, "Could not flush node '%s' before its bitmaps change",
                              node->name);
}

/* ---- opening and closing */

static void tick_run(BlkWork *work)
{
    BlkBitmaps *b = (BlkBitmaps *)((char *)work - offsetof(BlkBitmaps, work));

    bmp_set_tick(b->node->bitmaps);
    TM_GUARD(&b->lock);
    b->ticking = false;
    pthread_cond_broadcast(&b->ticked);
}

static BlkBitmaps *bitmaps_new(BlkNode *node)
{
    BlkBitmaps *b = g_new0(BlkBitmaps, 1);

    b->node = node;
    b->work.run = tick_run;
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

    *has_place = !image;
    if (!image)
        return true;
    why = g_strdup_printf("its data is in the image of node '%s', which keeps bitmaps itself",
                          image->name);
    if (blk_options_is_set(node->options, "bitmap-store"))
        return tm_error_set(error, "Node '%s' can't have a bitmap-store: %s", node->name, why);
    bmp_set_refuse_store(node->bitmaps, why);
    return true;
}

/* Nobody else may write before a store is read, because it would soon say that we did. */
static bool may_have_bitmaps(BlkNode *node, const char *path, GError **error)
{
    return !path || blk_node_read_only(node) || access(path, F_OK) != 0 ||
           blk_permissions_guard(node, true, error);
}

bool blk_bitmaps_guard(BlkNode *node, GError **error)
{
    return blk_permissions_guard(
        node, !blk_node_read_only(node) && bmp_set_length(node->bitmaps) > 0, error);
}

bool blk_bitmaps_open(BlkNode *node, bool by_default, GError **error)
{
    const char *disk = blk_disk_path(node);
    BmpStoreOptions options = { .sys = node->graph_sys,
                                .durability = durability(node),
                                .read_only = blk_node_read_only(node),
                                .flush = flush,
                                .report = report,
                                .opaque = node };
    const BlkKeptBitmaps *kept = blk_bitmaps_kept(node);
    BmpImage image = { .beside = false };
    g_autofree char *path = NULL, *layer = NULL;
    bool has_place, regular, ok;

    if (!check_place(node, &has_place, error))
        return false;
    if (!has_place)
        return true;
    if (kept) {
        image = blk_bitmaps_image(node);
        options.image = &image;
    }

    options.layer = layer = layer_name(node);
    options.disk_fd = blk_disk_open(node, &regular);
    options.path = path = store_path(node, disk, regular, by_default || image.beside);
    options.accept_changed = blk_options_bool(node->options, "bitmap-accept-changed");
    memcpy(options.boot_id, blk_graph_boot_id(node->graph), sizeof(options.boot_id));
    ok = (!path && !kept) ||
         (may_have_bitmaps(node, path, error) &&
          bmp_set_open_store(node->bitmaps, &options, error) && blk_bitmaps_guard(node, error));
    if (options.disk_fd >= 0)
        node->graph_sys->close(options.disk_fd);
    if (ok && kept && !blk_node_read_only(node))
        ok = blk_disk_claim(node, error) && blk_bitmaps_image_begin(node, error);
    if (ok && (path || kept)) {
        node->store = bitmaps_new(node);
        note_place(node);
    }
    return ok;
}

static void wait_for_tick(BlkBitmaps *b)
{
    TM_GUARD(&b->lock);

    while (b->ticking)
        pthread_cond_wait(&b->ticked, &b->lock);
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
    wait_for_tick(b);
    flush_now(node);
    blk_losses_tell(node->graph);
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
        blk_bitmaps_distrust(node,
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
    wait_for_tick(node->store);
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
    note_place(node);
    return ok;
}

bool blk_bitmaps_close(BlkNode *node, const GPtrArray *going)
{
    BlkBitmaps *b = node->store;
    bool ok;

    if (!b)
        return true;
    wait_for_tick(b);
    if (!is_left(b, going)) {
        ok = bmp_set_close_store(node->bitmaps);
    } else {
        if (bmp_set_store_exists(node->bitmaps))
            report(node,
                   &(BmpReport){ .reason = "another node writes to its disk: when it is opened "
                                           "again, all of it is dirty" });
        ok = bmp_set_leave_store(node->bitmaps);
    }
    let_go_of_disk(b);
    node->store = NULL;
    pthread_mutex_destroy(&b->lock);
    pthread_cond_destroy(&b->ticked);
    g_free(b);
    return ok;
}

void blk_bitmaps_distrust(BlkNode *node, const char *why)
{
    BmpBitmap *next;

    for (size_t i = 0; (next = bmp_set_nth(node->bitmaps, i)); i++) {
        g_autoptr(BmpBitmap) bitmap = next;

        if (bmp_bitmap_enabled(bitmap) && !bmp_bitmap_inconsistent(bitmap))
            report(node, &(BmpReport){ .bitmap = bmp_bitmap_name(bitmap),
                                       .reason = why,
                                       .inconsistent = true });
    }
    bmp_set_change_begin(&node->bitmaps, 1);
    bmp_set_distrust(node->bitmaps, why);
    bmp_set_change_end(&node->bitmaps, 1);
}

/* ---- changes */

static bool has_image(const BlkNode *node)
{
    return node->store && !blk_node_read_only(node) && node->open && blk_bitmaps_kept(node);
}

/* Those with a store. */
static GPtrArray *hold(BlkNode *const *nodes, size_t n)
{
    g_autoptr(GPtrArray) stored = g_ptr_array_new();

    for (size_t i = 0; i < n; i++) {
        if (nodes[i]->store)
            g_ptr_array_add(stored, nodes[i]);
    }
    return blk_nodes_hold((BlkNode *const *)stored->pdata, stored->len);
}

static BmpSet **sets_of(BlkNode *const *nodes, size_t n)
{
    BmpSet **sets = g_new(BmpSet *, n + 1);

    for (size_t i = 0; i < n; i++)
        sets[i] = nodes[i]->bitmaps;
    return sets;
}

/* Whether a commit of the change will call something clean. One of several nodes may write into
 * another one. A single one that has nothing persistent yet leaves its flush to the commit; but not
 * an image, whose locks come before its set's. */
static bool wants_flush(const BlkNode *node, size_t n)
{
    return node->store && !blk_node_read_only(node) &&
           (n > 1 || blk_bitmaps_kept(node) || bmp_set_store_exists(node->bitmaps));
}

/* Flushes when nothing is in flight any more, parents first, as they write into their children;
 * most of it before, while requests still run. */
static void hold_flushed(BlkNode *const *nodes, size_t n)
{
    GPtrArray *held;

    for (size_t i = 0; i < n; i++) {
        if (wants_flush(nodes[i], n) && nodes[i]->open)
            blk_node_flush(nodes[i]); /* how it went is asked again */
    }
    held = nodes[0]->held = hold(nodes, n);
    for (guint i = 0; i < held->len; i++) {
        for (size_t k = 0; k < n; k++) {
            if (held->pdata[i] == nodes[k] && wants_flush(nodes[k], n))
                flush_now(nodes[k]);
        }
    }
}

/* What a crash leaves of the change is decided by the stores: also by those about to come. */
static void announce(BlkNode *node)
{
    if (!has_image(node))
        return;
    node->store->removed = g_ptr_array_new();
    if (!bmp_set_store_exists(node->bitmaps))
        blk_bitmaps_image_announce(node, &node->store->unannounced);
}

void blk_bitmaps_change_begin(BlkNode *const *nodes, size_t n)
{
    g_autofree BmpSet **sets = sets_of(nodes, n);

    if (!n)
        return;
    hold_flushed(nodes, n);
    blk_losses_tell(nodes[0]->graph);
    for (size_t i = 0; i < n; i++)
        announce(nodes[i]);
    bmp_set_change_begin(sets, n);
}

static bool was_announced(const BlkNode *node, GError **error)
{
    const GError *why = node->store ? node->store->unannounced : NULL;

    return !why || tm_error_set(error, "%s", why->message);
}

bool blk_bitmaps_commit(BlkNode *const *nodes, size_t n, GError **error)
{
    g_autofree BmpSet **sets = sets_of(nodes, n);

    for (size_t i = 0; i < n; i++) {
        if (!was_announced(nodes[i], error))
            return false;
    }
    if (!bmp_set_commit(sets, n, error))
        return false;
    for (size_t i = 0; i < n; i++) {
        if (!has_image(nodes[i]))
            continue;
        g_ptr_array_unref(nodes[i]->store->removed);
        nodes[i]->store->removed = bmp_set_removed_names(nodes[i]->bitmaps);
    }
    return true;
}

/* The image follows its store. It may grow meanwhile, and with it the file below, whose bitmaps may
 * have been part of the change: so that is over. */
static void follow(BlkNode *node)
{
    g_autoptr(GPtrArray) removed = NULL;

    if (!node->store || !node->store->removed)
        return;
    removed = g_steal_pointer(&node->store->removed);
    g_clear_error(&node->store->unannounced);
    blk_bitmaps_image_follow(node, removed);
}

void blk_bitmaps_change_end(BlkNode *const *nodes, size_t n)
{
    g_autofree BmpSet **sets = sets_of(nodes, n);

    if (!n)
        return;
    bmp_set_change_end(sets, n);
    for (size_t i = 0; i < n; i++) {
        blk_bitmaps_guard(nodes[i], NULL); /* whoever has some has been guarded since the first */
        follow(nodes[i]);
        if (!nodes[i]->store)
            continue;
        nodes[i]->store->flushed = false;
        note_place(nodes[i]);
    }
    blk_nodes_release(g_steal_pointer(&nodes[0]->held));
}

void blk_bitmaps_store(BlkNode *node, bool resized)
{
    g_autoptr(GError) error = NULL;
    bool image = has_image(node) && !node->store->flushed;

    if (image)
        flush_now(node);
    bmp_set_change_begin(&node->bitmaps, 1);
    if (resized)
        bmp_set_resize(node->bitmaps, blk_node_size(node));
    if (!bmp_set_commit(&node->bitmaps, 1, &error))
        bmp_set_distrust_store(node->bitmaps, error->message);
    bmp_set_change_end(&node->bitmaps, 1);
    if (image)
        node->store->flushed = false;
}

/* ---- time */

static void heal(BlkNode *node)
{
    BlkBitmaps *b = node->store;

    if (!bmp_set_wants_commit(node->bitmaps)) {
        b->wait = 0;
        b->interval = 1;
        return;
    }
    if (b->wait) {
        b->wait--;
        return;
    }
    b->wait = b->interval;
    b->interval = MIN(b->interval * 2, HEAL_MAX);
    blk_bitmaps_change_begin(&node, 1);
    blk_bitmaps_commit(&node, 1, NULL);
    blk_bitmaps_change_end(&node, 1);
}

/* Whether time passes for the node's bitmaps. */
static bool is_kept(BlkNode *node)
{
    return node->store && !blk_node_read_only(node) && bmp_set_store_path(node->bitmaps);
}

void blk_bitmaps_heal(BlkGraph *graph)
{
    g_autoptr(GPtrArray) nodes = blk_graph_nodes(graph);

    blk_losses_tell(graph);
    for (guint i = 0; i < nodes->len; i++) {
        if (is_kept(nodes->pdata[i]))
            heal(nodes->pdata[i]);
    }
}

static void tick(BlkNode *node)
{
    BlkBitmaps *b = node->store;

    heal(node);
    if (has_image(node))
        blk_bitmaps_image_tick(node);
    TM_GUARD(&b->lock);
    if (b->ticking)
        return;
    b->ticking = true;
    blk_engine_work(blk_graph_engine(node->graph), &b->work);
}

void blk_bitmaps_tick(BlkGraph *graph)
{
    g_autoptr(GPtrArray) nodes = blk_graph_nodes(graph);

    for (guint i = 0; i < nodes->len; i++) {
        BlkNode *node = nodes->pdata[i];

        if (is_kept(node))
            tick(node);
    }
}
