/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* bitmap/store/image.c: sets whose bitmaps an image keeps while nobody has it open for writing: I1
 * and I2 of store.h. */
#include "bitmap/store/store_internal.h"

#include "util/error.h"
#include "util/sync.h"

#include <errno.h>
#include <string.h>

/* ---- opening */

/* Bitmaps that only a store has which does not count any more don't vanish without a word. (They
 * may have been on their way into it when a crash came: they don't come back either.) */
static void report_lost(BmpStore *store, const GArray *records, const GArray *found)
{
    for (guint i = 0; i < found->len; i++) {
        const char *name = g_array_index(found, BmpRecord, i).name;
        guint k = 0;

        while (k < records->len && strcmp(g_array_index(records, BmpRecord, k).name, name))
            k++;
        if (k == records->len)
            bmp_store_report(store,
                             &(BmpReport){ .bitmap = name,
                                           .reason = "it is lost: only the store had it, and the "
                                                     "image does not refer to that store" });
    }
}

/* Of a writable set: the path is free, or what lies there is not ours and stays. false: somebody
 * has it open. */
static bool clear_the_way(BmpStore *store, GArray *records, GError **error)
{
    const TmSys *sys = store->o.sys;
    g_autoptr(GError) problem = NULL;
    BmpRecovered found;
    BmpIdentity disk;
    uint8_t uuid[16];
    int fd = -1;

    if (!store->path)
        return true;
    if (!bmp_store_file_open(sys, store->path, store->o.read_only, &fd, &problem)) {
        if (fd == -EAGAIN) {
            g_propagate_error(error, g_steal_pointer(&problem));
            return false;
        }
        bmp_store_report(store, &(BmpReport){ .reason = problem->message });
        store->barred = true;
        return true;
    }
    if (fd < 0)
        return true;
    if (store->o.read_only && bmp_store_file_locked(sys, fd)) {
        sys->close(fd);
        return true;
    }
    bmp_identity_read(sys, store->disk_fd, &disk);
    bmp_recover(&(BmpRecoverOptions){ .sys = sys,
                                      .path = store->path,
                                      .fd = fd,
                                      .layer = store->layer,
                                      .disk = &disk,
                                      .disk_size = store->set->size,
                                      .size_known = true,
                                      .boot_id = store->o.boot_id },
                &found);
    bmp_recovered_drop_unfinished(&found, NULL);
    store->barred = found.verdict == BMP_FOUND_NOTHING;
    memcpy(uuid, found.super.uuid, sizeof(uuid));
    report_lost(store, records, found.records);
    bmp_recovered_clear(&found);
    if (store->o.read_only) {
        sys->close(fd);
        return true;
    }
    if (!store->barred && !bmp_store_file_remove(sys, store->path, &problem)) {
        bmp_store_report(store, &(BmpReport){ .reason = problem->message });
        store->barred = true;
    }
    if (!store->barred)
        bmp_identity_unmark(sys, store->disk_fd, uuid);
    sys->close(fd);
    return true;
}

static void report_records(BmpStore *store, const GArray *records, const GPtrArray *problems)
{
    for (guint i = 0; i < problems->len; i++)
        bmp_store_report(store, &(BmpReport){ .reason = problems->pdata[i] });
    for (guint i = 0; i < records->len; i++) {
        const BmpRecord *r = &g_array_index(records, BmpRecord, i);

        if (r->reason)
            bmp_store_report(store, &(BmpReport){ .bitmap = r->name,
                                                  .reason = r->reason,
                                                  .recovered = r->recovered,
                                                  .inconsistent = r->inconsistent });
    }
}

static void store_them(BmpStore *store)
{
    g_autoptr(GError) error = NULL;

    if (store->path && bmp_store_has_persistent(store->set) &&
        !bmp_store_commit(store, BMP_STORE_OPEN, &error))
        bmp_store_fail(store, 0, error->message);
    store->set->touched = false;
}

bool bmp_store_open_image(BmpStore *store, GError **error)
{
    g_autoptr(GArray) records = bmp_records_new();
    g_autoptr(GPtrArray) problems = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GError) problem = NULL;

    if (!store->image.load(store->o.opaque, records, problems, &problem)) {
        if (!store->o.read_only) {
            g_propagate_error(error, g_steal_pointer(&problem));
            return false;
        }
        g_ptr_array_add(problems, g_strdup(problem->message));
    }
    if (!clear_the_way(store, records, error))
        return false;
    report_records(store, records, problems);
    if (store->set->bitmaps->len)
        bmp_store_confirm(store->set, records);
    for (guint i = 0; i < records->len; i++)
        bmp_bitmap_load(store->set, &g_array_index(records, BmpRecord, i));
    if (!store->o.read_only)
        store_them(store);
    store->set->touched = false;
    return true;
}

/* ---- closing and coming back */

GArray *bmp_set_records(BmpSet *set)
{
    GArray *records = bmp_records_new();

    bmp_set_change_begin(&set, 1);
    bmp_set_fold_all(set);
    for (guint i = 0; i < set->bitmaps->len; i++) {
        BmpBitmap *bitmap = set->bitmaps->pdata[i];
        BmpRecord record;

        if (!bitmap->persistent)
            continue;
        bmp_bitmap_save(bitmap, &record);
        g_array_append_val(records, record);
    }
    bmp_set_change_end(&set, 1);
    return records;
}

GPtrArray *bmp_set_removed_names(BmpSet *set)
{
    GPtrArray *names = g_ptr_array_new_with_free_func(g_free);

    for (guint i = 0; i < set->removed->len; i++) {
        const BmpBitmap *bitmap = set->removed->pdata[i];

        if (bitmap->persistent)
            g_ptr_array_add(names, g_strdup(bitmap->name));
    }
    return names;
}

void bmp_set_drop_store(BmpSet *set)
{
    BmpStore *store = set->store;
    g_autoptr(GError) error = NULL;

    if (!store || !store->path || store->o.read_only)
        return;
    bmp_set_change_begin(&set, 1);
    pthread_mutex_lock(&store->ticking);
    bmp_store_set_journal(store, NULL);
    if (store->fd >= 0) {
        if (!bmp_store_file_remove(store->o.sys, store->path, &error))
            bmp_store_report(store, &(BmpReport){ .reason = error->message });
        else
            bmp_identity_unmark(store->o.sys, store->disk_fd, store->super.uuid);
        store->o.sys->close(store->fd);
        store->fd = -1;
    }
    store->super = (BmpSuper){ .disk_size = store->super.disk_size };
    store->last_epoch = 0;
    bmp_store_clear_failure(store);
    pthread_mutex_unlock(&store->ticking);
    bmp_set_change_end(&set, 1);
}

bool bmp_set_store_sound(BmpSet *set)
{
    bool sound;

    bmp_set_lock(set);
    sound = set->store && set->store->fd >= 0 && !set->store->o.read_only &&
            !bmp_store_has_failed(set->store);
    bmp_set_unlock(set);
    return sound;
}

/* It was read-only: what there is now is compared with what there was. */
static bool take_for_writing(BmpStore *store, GError **error)
{
    bool present = false, ok = true;

    if (store->fd >= 0)
        store->o.sys->close(store->fd);
    store->fd = -1;
    store->o.read_only = false;
    if (store->image.beside && store->path)
        ok = bmp_store_open_file(store, &present, error);
    if (ok && !present)
        ok = bmp_store_open_image(store, error);
    if (!ok)
        store->o.read_only = true;
    return ok;
}

bool bmp_set_wake_image(BmpSet *set, const BmpImage *image, bool read_only, bool dropped,
                        GError **error)
{
    BmpStore *store = set->store;
    bool ok = true;

    if (!store)
        return true;
    bmp_set_change_begin(&set, 1);
    store->image = *image;
    if (read_only) {
        store->o.read_only = true;
    } else if (store->o.read_only) {
        ok = take_for_writing(store, error);
    } else if (dropped) {
        store_them(store);
    }
    bmp_set_change_end(&set, 1);
    return ok;
}

void bmp_set_report(BmpSet *set, const BmpReport *report)
{
    if (set->store)
        bmp_store_report(set->store, report);
}
