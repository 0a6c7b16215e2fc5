/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* bitmap/bitmap_change.c: changes of named bitmaps: added, removed, enabled, cleared, merged, put
 * back, and exchanged with a store.
 *
 * The names of errors are QEMU's (block/dirty-bitmap.c and block/monitor/bitmap-qmp-cmds.c, version
 * 7.2): management tools match on them. */
#include "bitmap/store/store_internal.h"
#include "util/clock.h"
#include "util/error.h"
#include "util/range.h"
#include <string.h>

/* What the store says must follow. */
static void touch(BmpBitmap *bitmap)
{
    bitmap->set->touched |= bitmap->persistent;
}

/* ---- a disk that has lost data --------------------------------------------------------------- */

/* A record begins. Where the disk has lost data, what is read may not be what is there, and what
 * was read before may be there no more. */
static void count_all_if_lossy(BmpBitmap *bitmap)
{
    BmpSet *set = bitmap->set;
    uint64_t before;

    if (!set->lossy || !bitmap->enabled)
        return;
    before = bmp_bits_count(&bitmap->bits);
    bmp_bitmap_set_bytes(bitmap, 0, set->size);
    bitmap->recovered += (bmp_bits_count(&bitmap->bits) - before) << bitmap->shift;
    g_free(bitmap->reason);
    bitmap->reason = g_strdup(BMP_LOSS);
}

void bmp_set_note_loss(BmpSet *set)
{
    if (set->lossy)
        return;
    __atomic_store_n(&set->lossy, true, __ATOMIC_RELEASE);
    for (guint i = 0; i < set->bitmaps->len; i++) {
        BmpBitmap *bitmap = set->bitmaps->pdata[i];

        if ((bitmap->persistent && !bitmap->unfinished) || bitmap->inconsistent)
            continue;
        bmp_bitmap_fold(bitmap);
        count_all_if_lossy(bitmap);
    }
}

bool bmp_set_lossy(BmpSet *set)
{
    return __atomic_load_n(&set->lossy, __ATOMIC_ACQUIRE);
}

/* ---- for users ------------------------------------------------------------------------------- */

/* Whether the image that keeps the set's bitmaps has room for another. */
static bool check_room(BmpSet *set, const char *name, uint64_t granularity, GError **error)
{
    const BmpStore *store = set->store;
    uint64_t names = 0;
    size_t n = 0;

    if (!store->o.image)
        return true;
    for (guint i = 0; i < set->bitmaps->len; i++) {
        const BmpBitmap *bitmap = set->bitmaps->pdata[i];

        if (bitmap->persistent) {
            n++;
            names += tm_align_up(strlen(bitmap->name), 8);
        }
    }
    return store->image.may_add(store->o.opaque, name,
                                granularity ? granularity : bmp_default_granularity(0), n, names,
                                error);
}

static bool check_writable(const BmpBitmap *bitmap, GError **error)
{
    const BmpStore *store = bitmap->set->store;

    return !bitmap->persistent || !store || !store->o.read_only ||
           tm_error_set(error, "Bitmap '%s' is readonly and cannot be modified", bitmap->name);
}

static bool check_add(BmpSet *set, const char *name, const BmpAddOptions *options, GError **error)
{
    g_autoptr(BmpBitmap) taken = NULL;

    if (!*name)
        return tm_error_set(error, "Bitmap name cannot be empty");
    if (options->granularity &&
        (options->granularity < BMP_GRANULARITY_MIN || options->granularity > BMP_GRANULARITY_MAX ||
         !tm_is_pow2(options->granularity)))
        return tm_error_set(error, "Granularity must be power of 2 and at least 512");
    if (options->persistent && (!set->store || set->store->o.read_only))
        return tm_error_set(error,
                            "Can't store persistent bitmaps to %s: Operation not supported (%s)",
                            set->node_name,
                            set->store     ? "it is read-only"
                            : set->refused ? set->refused
                                           : "it has no place for them: see the option "
                                             "bitmap-store");
    taken = bmp_set_find(set, name, NULL);
    if (taken)
        return tm_error_set(error, "Bitmap already exists: %s", name);
    if (strlen(name) > BMP_NAME_MAX)
        return tm_error_set(error, "Bitmap name too long: %s", name);
    return !options->persistent || check_room(set, name, options->granularity, error);
}

BmpBitmap *bmp_set_add(BmpSet *set, const char *name, const BmpAddOptions *options, GError **error)
{
    uint64_t granularity = options->granularity;
    BmpBitmap *bitmap;

    g_assert(set->changing);
    if (!check_add(set, name, options, error))
        return NULL;
    bitmap = bmp_bitmap_new(set, name, granularity ? granularity : bmp_default_granularity(0));
    bitmap->attached = true;
    bitmap->persistent = options->persistent;
    bitmap->unfinished = options->unfinished;
    bitmap->began = tm_now_ns();
    g_ptr_array_add(set->bitmaps, bmp_bitmap_ref(bitmap));
    if (!options->disabled)
        bmp_bitmap_start(bitmap);
    if (options->dirty)
        bmp_bitmap_set_bytes(bitmap, 0, set->size);
    count_all_if_lossy(bitmap);
    touch(bitmap);
    return bitmap;
}

/* It stays in the chain until the change ends, in case it is put back. */
bool bmp_bitmap_remove(BmpBitmap *bitmap, GError **error)
{
    BmpSet *set = bitmap->set;
    guint place;

    g_assert(set->changing);
    if (!bmp_bitmap_check_not_busy(bitmap, error) || !check_writable(bitmap, error))
        return false;
    if (!g_ptr_array_find(set->bitmaps, bitmap, &place))
        return tm_error_set(error, "Dirty bitmap '%s' not found", bitmap->name);
    bmp_bitmap_fold(bitmap);
    touch(bitmap);
    bitmap->place = place;
    bitmap->attached = false;
    g_ptr_array_add(set->removed, g_ptr_array_steal_index(set->bitmaps, place));
    return true;
}

void bmp_bitmap_unremove(BmpBitmap *bitmap)
{
    BmpSet *set = bitmap->set;
    guint index;

    g_assert(set->changing);
    if (!g_ptr_array_find(set->removed, bitmap, &index))
        return;
    g_ptr_array_insert(set->bitmaps, MIN(bitmap->place, set->bitmaps->len),
                       g_ptr_array_steal_index(set->removed, index));
    bitmap->attached = true;
}

bool bmp_bitmap_enable(BmpBitmap *bitmap, GError **error)
{
    g_assert(bitmap->set->changing);
    if (!bmp_bitmap_check_usable(bitmap, error) || !check_writable(bitmap, error))
        return false;
    if (!bitmap->attached)
        return tm_error_set(error, "Dirty bitmap '%s' not found", bitmap->name);
    if (!bitmap->enabled) {
        bmp_bitmap_start(bitmap);
        count_all_if_lossy(bitmap);
        touch(bitmap);
    }
    return true;
}

bool bmp_bitmap_disable(BmpBitmap *bitmap, GError **error)
{
    g_assert(bitmap->set->changing);
    if (!bmp_bitmap_check_usable(bitmap, error) || !check_writable(bitmap, error))
        return false;
    if (bitmap->enabled) {
        bmp_bitmap_stop(bitmap);
        touch(bitmap);
    }
    return true;
}

bool bmp_bitmap_clear(BmpBitmap *bitmap, GError **error)
{
    g_assert(bitmap->set->changing);
    if (!bmp_bitmap_check_usable(bitmap, error) || !check_writable(bitmap, error))
        return false;
    bmp_bits_clear_all(&bitmap->bits);
    if (bitmap->at)
        bmp_bitmap_move_to_tail(bitmap);
    g_clear_pointer(&bitmap->reason, g_free);
    bitmap->began = tm_now_ns();
    bitmap->recovered = 0;
    count_all_if_lossy(bitmap);
    touch(bitmap);
    return true;
}

void bmp_bitmap_finish(BmpBitmap *bitmap)
{
    g_assert(bitmap->set->changing);
    if (bitmap->unfinished)
        touch(bitmap);
    bitmap->unfinished = false;
}

bool bmp_bitmap_merge(BmpBitmap *target, BmpBitmap *source, GError **error)
{
    g_assert(target->set->changing && source->set->changing);
    if (!bmp_bitmap_check_usable(source, error))
        return false;
    if (target->set->size != source->set->size)
        return tm_error_set(error,
                            "Bitmaps are of different sizes (destination size is %" G_GUINT64_FORMAT
                            ", source size is %" G_GUINT64_FORMAT ") and can't be merged",
                            target->set->size, source->set->size);
    if (!bmp_bitmap_check_usable(target, error))
        return false;
    bmp_bitmap_fold(source);
    return bmp_bitmap_add_bits(target, &source->bits, error);
}

bool bmp_bitmap_add_bits(BmpBitmap *bitmap, const BmpBits *bits, GError **error)
{
    g_assert(bitmap->set->changing);
    if (!check_writable(bitmap, error))
        return false;
    bmp_bits_or(&bitmap->bits, bits);
    touch(bitmap);
    return true;
}

/* ---- for the store --------------------------------------------------------------------------- */

void bmp_bitmap_load(BmpSet *set, BmpRecord *record)
{
    g_autoptr(BmpBitmap) bitmap = bmp_bitmap_new(set, record->name, UINT64_C(1) << record->shift);

    bmp_bits_clear_all(&bitmap->bits);
    bitmap->bits = record->bits;
    record->bits.root = NULL;
    bitmap->reason = g_steal_pointer(&record->reason);
    bitmap->recovered = record->recovered;
    bitmap->attached = true;
    bitmap->persistent = true;
    bitmap->inconsistent = record->inconsistent;
    g_ptr_array_add(set->bitmaps, bmp_bitmap_ref(bitmap));
    bitmap->was_enabled = record->enabled && record->inconsistent;
    if (record->enabled && !record->inconsistent)
        bmp_bitmap_start(bitmap);
}

void bmp_bitmap_confirm(BmpBitmap *bitmap, const BmpRecord *record)
{
    bmp_bitmap_fold(bitmap);
    if (bmp_bits_same_geometry(&bitmap->bits, &record->bits))
        bmp_bits_or(&bitmap->bits, &record->bits);
    if (bitmap->frozen && bmp_bits_same_geometry(&bitmap->later, &record->bits))
        bmp_bits_or(&bitmap->later, &record->bits);
    if (record->inconsistent && !bitmap->inconsistent) {
        bitmap->was_enabled = bitmap->enabled;
        if (bitmap->enabled)
            bmp_bitmap_stop(bitmap);
        bitmap->inconsistent = true;
    }
    g_free(bitmap->reason);
    bitmap->reason = g_strdup(record->reason);
    bitmap->recovered = record->recovered;
}

void bmp_set_distrust(BmpSet *set, bool stored, const char *why)
{
    BmpRecord record = { .inconsistent = true, .reason = (char *)why };

    for (guint i = 0; i < set->bitmaps->len; i++) {
        BmpBitmap *bitmap = set->bitmaps->pdata[i];

        if (!bitmap->enabled || bitmap->inconsistent || (bitmap->persistent && !stored))
            continue;
        bmp_bitmap_confirm(bitmap, &record);
        bmp_bitmap_set_bytes(bitmap, 0, set->size); /* for whoever is still reading it */
        if (bitmap->persistent && set->store) {
            set->store->catalogue_good = false;
            set->store->doubted = true;
        }
    }
}

void bmp_set_refuse_store(BmpSet *set, const char *why)
{
    g_free(set->refused);
    set->refused = g_strdup(why);
}

void bmp_bitmap_save(BmpBitmap *bitmap, BmpRecord *record)
{
    *record = (BmpRecord){ .name = g_strdup(bitmap->name),
                           .shift = bitmap->shift,
                           .enabled = bitmap->enabled || bitmap->was_enabled,
                           .inconsistent = bitmap->inconsistent,
                           .unfinished = bitmap->unfinished,
                           .reason = g_strdup(bitmap->reason),
                           .recovered = bitmap->recovered };
    bmp_bits_clone(&record->bits, &bitmap->bits);
}

/* ---- backup ---------------------------------------------------------------------------------- */

BmpBackup *bmp_bitmap_backup(BmpBitmap *bitmap)
{
    BmpBackup *backup = g_new0(BmpBackup, 1);

    g_assert(bitmap->set->changing);
    backup->bitmap = bmp_bitmap_ref(bitmap);
    backup->enabled = bitmap->enabled;
    backup->unfinished = bitmap->unfinished;
    backup->since = bitmap->since;
    backup->at = bmp_chain_hold(bitmap->at);
    bmp_bits_clone(&backup->bits, &bitmap->bits);
    backup->reason = g_strdup(bitmap->reason);
    backup->recovered = bitmap->recovered;
    backup->began = bitmap->began;
    return backup;
}

void bmp_bitmap_restore(BmpBitmap *bitmap, BmpBackup *backup)
{
    BmpDelta *at = bitmap->at;
    BmpBits bits = bitmap->bits;

    g_assert(bitmap->set->changing && backup->bitmap == bitmap);
    bitmap->at = backup->at;
    bitmap->bits = backup->bits;
    bitmap->since = backup->since;
    bmp_bitmap_set_enabled(bitmap, backup->enabled);
    bitmap->unfinished = backup->unfinished;
    g_free(bitmap->reason);
    bitmap->reason = g_steal_pointer(&backup->reason);
    bitmap->recovered = backup->recovered;
    bitmap->began = backup->began;
    backup->at = at;
    backup->bits = bits;
    bmp_backup_free(backup);
}

void bmp_backup_free(BmpBackup *backup)
{
    if (!backup)
        return;
    bmp_set_lock(backup->bitmap->set);
    bmp_chain_release(backup->bitmap->set, backup->at);
    bmp_set_unlock(backup->bitmap->set);
    bmp_bits_clear_all(&backup->bits);
    bmp_bitmap_unref(backup->bitmap);
    g_free(backup->reason);
    g_free(backup);
}

/* ---- freezing ------------------------------------------------------------------------------- */

bool bmp_bitmap_freeze(BmpBitmap *bitmap, bool to_change, GError **error)
{
    g_assert(bitmap->set->changing);
    if (!bmp_bitmap_check_usable(bitmap, error) || (to_change && !check_writable(bitmap, error)))
        return false;
    bmp_bitmap_fold(bitmap);
    bmp_bits_clone(&bitmap->shown, &bitmap->bits);
    bmp_bits_init(&bitmap->later, bitmap->set->size, bitmap->shift);
    bitmap->frozen = true;
    bitmap->frozen_at = tm_now_ns();
    bmp_bitmap_busy_begin(bitmap);
    return true;
}

void bmp_bitmap_thaw(BmpBitmap *bitmap, bool whole)
{
    g_assert(bitmap->set->changing && bitmap->frozen);
    bmp_bitmap_fold(bitmap);
    if (!whole) {
        bmp_bits_clear_all(&bitmap->bits);
        bitmap->bits = bitmap->later;
        bitmap->later.root = NULL;
        g_clear_pointer(&bitmap->reason, g_free);
        bitmap->began = bitmap->frozen_at; /* it has what was marked since */
        bitmap->recovered = 0;
        count_all_if_lossy(bitmap);
        touch(bitmap);
    }
    bmp_bitmap_drop_frozen(bitmap);
    bmp_bitmap_busy_end(bitmap);
}

void bmp_bitmap_add(BmpBitmap *bitmap, uint64_t offset, uint64_t length)
{
    g_assert(bitmap->set->changing);
    bmp_bits_set_bytes(&bitmap->bits, offset, length);
    touch(bitmap);
}
