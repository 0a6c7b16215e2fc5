/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/bitmap_transfer.c: see the header. */
#include "block/bitmap_transfer.h"

#include "block/bitmap_changes.h"
#include "block/bitmaps.h"
#include "block/disk.h"
#include "block/node_internal.h"
#include "util/error.h"
#include "util/json.h"

#define NS UINT64_C(1000000000)

/* ---- export */

static void add_time(json_object *object, const char *key, int64_t sec, uint32_t nsec)
{
    if (sec > 0)
        tm_json_add_uint(object, key, (uint64_t)sec * NS + nsec);
}

/* What is written from now on has another time of modification, if nobody writes now. */
static bool settle(BlkNode *node)
{
    bool rest = blk_disk_at_rest(node);
    int held = rest ? blk_disk_hold(node) : -1;

    if (held >= 0) {
        bmp_identity_settle(node->graph_sys, held);
        node->graph_sys->close(held);
    }
    return rest;
}

/* What the bitmaps are of; false: without the time of modification, as somebody may have written
 * or can write. Those of an inactive node, or of one that is read-only, are of when it became so,
 * whoever has written since. */
static bool read_node(BlkNode *node, BmpIdentity *disk)
{
    bool rest = settle(node);

    if (blk_node_active(node) || !node->rest)
        blk_disk_identity(node, blk_node_read_only(node), disk);
    else
        *disk = *node->rest;
    if (!disk->known)
        blk_disk_identity(node, false, disk);
    return rest && (blk_node_active(node) || node->rest);
}

static json_object *disk_object(BlkNode *node)
{
    json_object *object = json_object_new_object();
    g_autofree char *filename = blk_node_filename(node);
    BmpIdentity disk;
    bool rest = read_node(node, &disk);

    tm_json_add_string(object, "filename", filename);
    if (!disk.known)
        return object;
    tm_json_add_uint(object, "size", disk.size);
    tm_json_add_uint(object, "inode", disk.ino);
    add_time(object, "born", disk.birth_sec, disk.birth_nsec);
    if (rest)
        add_time(object, "modified", disk.mtime_sec, disk.mtime_nsec);
    return object;
}

json_object *blk_bitmap_export(BlkNode *node, BmpBitmap *bitmap, BmpCopy **copy, GError **error)
{
    g_autoptr(GDateTime) now = g_date_time_new_now_utc();
    g_autofree char *time = g_date_time_format(now, "%Y-%m-%dT%H:%M:%SZ");
    json_object *object, *disk;
    uint64_t age;

    if (!bmp_bitmap_check_consistent(bitmap, error))
        return NULL;
    disk = disk_object(node); /* before the copy: a write in between shows in its time */
    *copy = bmp_copy_of(bitmap);
    object = json_object_new_object();
    tm_json_add_uint(object, "size", (*copy)->size);
    tm_json_add_uint(object, "granularity", bmp_copy_granularity(*copy));
    tm_json_add_uint(object, "count", bmp_copy_count(*copy));
    tm_json_add_bool(object, "recording", bmp_bitmap_enabled(bitmap));
    tm_json_add_bool(object, "persistent", bmp_bitmap_persistent(bitmap));
    tm_json_add_string(object, "time", time);
    if (bmp_bitmap_age(bitmap, &age))
        tm_json_add_uint(object, "age", age);
    json_object_object_add(object, "disk", disk);
    return object;
}

/* ---- the disk that it is of */

static uint64_t number(json_object *object, const char *key)
{
    json_object *value = NULL;

    return json_object_object_get_ex(object, key, &value) ? json_object_get_uint64(value) : 0;
}

/* *rest: nobody could write to it then. Without an inode it is not known. */
static void read_disk(json_object *object, BmpIdentity *disk, bool *rest)
{
    uint64_t born = number(object, "born"), modified = number(object, "modified");

    *rest = modified != 0;
    *disk = (BmpIdentity){ .known = number(object, "inode") != 0,
                           .size = number(object, "size"),
                           .ino = number(object, "inode"),
                           .birth_sec = (int64_t)(born / NS),
                           .birth_nsec = (uint32_t)(born % NS),
                           .mtime_sec = (int64_t)(modified / NS),
                           .mtime_nsec = (uint32_t)(modified % NS) };
}

/* ---- whether it fits */

static bool refuse(const BlkBitmapImport *import, const BlkNode *node, const char *why,
                   GError **error)
{
    return tm_error_set(error, "Bitmap '%s' can't be imported into node '%s': %s", import->name,
                        node->name, why);
}

static bool refuse_recording(const BlkBitmapImport *import, const BlkNode *node, const char *why,
                             GError **error)
{
    g_autofree char *all =
        g_strdup_printf("%s, so it would miss writes (a bitmap that does not record can be "
                        "imported, or merged into one that does)",
                        why);

    return refuse(import, node, all, error);
}

static bool check_recording(const BlkBitmapImport *import, BlkNode *node, const BmpIdentity *now,
                            GError **error)
{
    BmpIdentity was;
    bool rest;

    read_disk(import->disk, &was, &rest);
    if (!blk_disk_at_rest(node))
        return refuse_recording(import, node, "others can write to its disk now", error);
    if (now->known && was.known) {
        if (!rest)
            return refuse_recording(import, node, "its disk could be written when it was exported",
                                    error);
        return bmp_identity_unchanged(&was, now) ||
               refuse_recording(import, node, "its disk was written since it was exported", error);
    }
    if (blk_node_active(node) && blk_options_bool(node->options, "bitmap-accept-changed"))
        return true;
    return refuse_recording(import, node,
                            "nothing shows whether its disk was written since it was exported "
                            "(see the option bitmap-accept-changed)",
                            error);
}

static bool check_disk(const BlkBitmapImport *import, BlkNode *node, const BmpIdentity *now,
                       GError **error)
{
    BmpIdentity was;
    bool rest, known;

    read_disk(import->disk, &was, &rest);
    known = now->known && was.known;
    if (import->merge)
        return true;
    if (known && !bmp_identity_same(&was, now))
        return refuse(import, node, "it is of another disk", error);
    if (import->recording)
        return check_recording(import, node, now, error);
    return known || blk_options_bool(node->options, "bitmap-accept-changed") ||
           refuse(import, node,
                  "nothing shows whether it is of the same disk (see the option "
                  "bitmap-accept-changed)",
                  error);
}

/* Whether nobody has written to the disk since the export, and nobody can. */
static bool has_rested(const BlkBitmapImport *import, BlkNode *node, const BmpIdentity *now)
{
    BmpIdentity was;
    bool rest;

    read_disk(import->disk, &was, &rest);
    return !import->merge && rest && bmp_identity_unchanged(&was, now) && blk_disk_at_rest(node);
}

/* ---- the change */

/* Of an inactive node: what its bitmaps have is of the disk as it is now. Those that are there are
 * not, if it was another then. */
static void note_rest(BlkNode *node, const BmpIdentity *now)
{
    BmpBitmap *next;

    if (blk_node_active(node) || (node->rest && bmp_identity_unchanged(node->rest, now)))
        return;
    for (size_t i = 0; (next = bmp_set_nth(node->bitmaps, i)); i++) {
        bmp_bitmap_add(next, 0, blk_node_size(node));
        bmp_bitmap_unref(next);
    }
    g_free(node->rest);
    node->rest = g_memdup2(now, sizeof(*now));
}

static BmpBitmap *target(const BlkBitmapImport *import, BlkNode *node, BlkBitmapChanges *changes,
                         GError **error)
{
    BmpAddOptions o = { .granularity = import->granularity ? import->granularity
                                                           : bmp_copy_granularity(import->copy),
                        .persistent = import->persistent,
                        .disabled = !import->recording };

    if (!import->merge && !blk_bitmap_changes_add(changes, node, import->name, &o, error))
        return NULL;
    return bmp_set_find(node->bitmaps, import->name, error);
}

/* Others can't write to it since it has a bitmap, but could until then. */
static bool check_again(const BlkBitmapImport *import, BlkNode *node, const BmpIdentity *before,
                        GError **error)
{
    BmpIdentity now;

    if (!import->recording || !before->known)
        return true;
    blk_disk_identity(node, false, &now);
    return bmp_identity_unchanged(before, &now) ||
           refuse_recording(import, node, "its disk was written meanwhile", error);
}

static bool change(const BlkBitmapImport *import, BlkNode *node, const BmpIdentity *before,
                   BlkBitmapChanges *changes, GError **error)
{
    g_autoptr(BmpBitmap) bitmap = target(import, node, changes, error);

    return bitmap && check_again(import, node, before, error) &&
           blk_bitmap_changes_add_copy(changes, bitmap, import->copy, error) &&
           blk_bitmaps_commit(&node, 1, error);
}

bool blk_bitmap_import(BlkNode *node, const BlkBitmapImport *import, GError **error)
{
    g_autoptr(BlkBitmapChanges) changes = NULL;
    BmpIdentity now;
    bool rests, ok;

    blk_disk_remember_read_only(node); /* before it is compared with what was exported */
    blk_disk_identity(node, false, &now);
    if (!check_disk(import, node, &now, error))
        return false;
    rests = import->recording || has_rested(import, node, &now);
    changes = blk_bitmap_changes_new();
    blk_bitmaps_change_begin(&node, 1);
    if (rests)
        note_rest(node, &now);
    ok = change(import, node, &now, changes, error);
    if (!ok)
        blk_bitmap_changes_take_back(changes);
    blk_bitmaps_change_end(&node, 1);
    return ok;
}
