/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* bitmap/store/open.c: the file of a store is found, read, and taken over for its set. */
#include "bitmap/store/store_internal.h"

#include "util/error.h"

#include <errno.h>
#include <string.h>

static void report_all(BmpStore *store, const BmpRecovered *found)
{
    for (guint i = 0; i < found->reports->len; i++) {
        const BmpProblem *problem = found->reports->pdata[i];

        bmp_store_report(store, &(BmpReport){ .bitmap = problem->bitmap,
                                              .reason = problem->reason,
                                              .recovered = problem->recovered,
                                              .inconsistent = problem->inconsistent,
                                              .unfinished = problem->unfinished });
    }
}

static void report_missing(BmpStore *store, const BmpIdentity *disk)
{
    g_autofree char *uuid = bmp_uuid_text(disk->marks[0]);
    g_autofree char *reason = g_strdup_printf("the disk had a bitmap store (%s), which is not at "
                                              "'%s': its bitmaps are missing",
                                              uuid, store->path);

    bmp_store_report(store, &(BmpReport){ .reason = reason });
}

/* false: the disk may not be opened. */
static bool find_file(BmpStore *store, const BmpIdentity *disk, GError **error)
{
    g_autoptr(GError) problem = NULL;
    int fd;

    if (bmp_store_find(store, &fd, &problem)) {
        store->fd = fd;
        if (fd < 0 && disk->n_marks)
            report_missing(store, disk);
        return true;
    }
    if (!store->o.read_only) {
        g_propagate_error(error, g_steal_pointer(&problem));
        return false; /* else the disk would change and its store would not know */
    }
    bmp_store_report(store, &(BmpReport){ .reason = problem->message });
    return true;
}

/* The kernel reports a writeback error from before the last process died to the first sync only,
 * and to no descriptor that may not write: that first sync has to be ours. */
static bool sync_found(BmpStore *store)
{
    return store->o.read_only || store->mirror || tm_fsync(store->o.sys, store->fd) == 0;
}

static void load(BmpStore *store, BmpRecovered *found)
{
    for (guint i = 0; i < found->records->len; i++)
        bmp_bitmap_load(store->set, &g_array_index(found->records, BmpRecord, i));
}

static void recover(BmpStore *store, const BmpIdentity *disk, bool synced, BmpRecovered *found)
{
    BmpRecoverOptions options = {
        .sys = store->o.sys,
        .path = store->path,
        .fd = store->fd,
        .layer = store->layer,
        .disk = disk,
        .disk_size = store->set->size,
        .size_known = true,
        .boot_id = store->o.boot_id,
        .shared = store->o.shared,
        .accept_changed = store->o.accept_changed,
        .unsynced = !synced,
        .kept = store->mirror != NULL,
    };

    bmp_recover(&options, found);
    bmp_recovered_drop_unfinished(found, store->set);
    report_all(store, found);
    store->catalogue_good = found->verdict == BMP_FOUND_STORE && found->as_stored;
    store->journal_sound = store->catalogue_good; /* and nothing was marked */
    store->barred = found->verdict == BMP_FOUND_NOTHING;
    if (found->verdict == BMP_FOUND_STORE) {
        store->super = found->super;
        store->marked = found->super.disk_marked && bmp_identity_has(disk, found->super.uuid);
        store->stale_copy = found->stale_copy;
        store->other = found->other;
        store->last_epoch = found->super.journal_epoch;
        store->keep_empty = !found->records->len;
        if (store->super.disk_lossy)
            bmp_set_note_loss(store->set);
    }
}

/* A mark that is missing comes back when the store says why its bitmaps can't be used: a crash in
 * between must find it missing, and what says that it is there must be true. */
static void mark_again(BmpStore *store)
{
    g_autoptr(GError) error = NULL;
    int ret;

    if (store->fd < 0 || store->marked)
        return;
    ret = bmp_identity_mark(store->o.sys, store->disk_fd, store->super.uuid, &store->marked);
    if (ret < 0)
        bmp_store_fail(store, -ret, "the disk could not be synced");
    else if (store->marked && !bmp_store_commit(store, BMP_STORE_OPEN, &error))
        bmp_store_fail(store, 0, error->message);
}

/* What was found is in the set; from now on the store says that somebody has it open. */
static void take_over(BmpStore *store, BmpRecovered *found, bool synced)
{
    g_autoptr(GError) error = NULL;

    load(store, found);
    if (found->verdict == BMP_FOUND_NOTHING || store->o.read_only) {
        if (store->fd >= 0 && found->verdict == BMP_FOUND_NOTHING) {
            store->o.sys->close(store->fd);
            store->fd = -1;
        }
        store->set->touched = false;
        return;
    }
    if (found->verdict == BMP_FOUND_DAMAGED) { /* to be written anew */
        store->o.sys->close(store->fd);
        store->fd = -1;
    }
    if (found->verdict == BMP_FOUND_DAMAGED && !found->records->len) {
        store->replace = true;
        store->set->touched = false;
        return;
    }
    store->replace = found->verdict == BMP_FOUND_DAMAGED;
    if (!synced) /* to be written anew, too */
        bmp_store_fail(store, EIO, "it could not be synced when it was opened");
    if (bmp_store_commit(store, BMP_STORE_OPEN, &error))
        mark_again(store);
    else
        bmp_store_fail(store, 0, error->message);
}

/* Of a reader: what a writer is changing can't be read, and is not shown. */
static bool is_written(BmpStore *store)
{
    g_autofree char *reason = NULL;

    if (!store->o.read_only || !bmp_store_is_written(store))
        return false;
    reason = g_strdup_printf("bitmap store '%s' is in use by another process, which writes to the "
                             "disk: its bitmaps are not shown",
                             store->path);
    bmp_store_report(store, &(BmpReport){ .reason = reason });
    store->o.sys->close(store->fd);
    store->fd = -1;
    return true;
}

bool bmp_store_has_persistent(const BmpSet *set)
{
    for (guint i = 0; i < set->bitmaps->len; i++) {
        if (((BmpBitmap *)set->bitmaps->pdata[i])->persistent)
            return true;
    }
    return false;
}

void bmp_store_confirm(BmpSet *set, GArray *records)
{
    for (guint i = 0; i < set->bitmaps->len; i++) {
        BmpBitmap *bitmap = set->bitmaps->pdata[i];
        BmpRecord missing = { .inconsistent = true, .reason = (char *)"it is not in its store" };
        guint k = 0;

        if (!bitmap->persistent)
            continue;
        while (k < records->len && strcmp(g_array_index(records, BmpRecord, k).name, bitmap->name))
            k++;
        bmp_bitmap_confirm(bitmap,
                           k < records->len ? &g_array_index(records, BmpRecord, k) : &missing);
        if (k < records->len)
            g_array_remove_index(records, k); /* cleared by the array */
    }
}

bool bmp_store_open_file(BmpStore *store, bool *present, GError **error)
{
    BmpIdentity disk;
    BmpRecovered found;
    bool synced, written;

    *present = false;
    synced = bmp_identity_sync(store->o.sys, store->disk_fd) == 0;
    bmp_identity_read(store->o.sys, store->disk_fd, &disk);
    if (!find_file(store, &disk, error))
        return false;
    if (store->fd < 0)
        return true;
    *present = is_written(store);
    if (*present)
        return true;
    synced = sync_found(store) && synced;
    recover(store, &disk, synced, &found);
    written = is_written(store); /* since it began to be read */
    *present = written || !store->o.image || found.verdict == BMP_FOUND_STORE;
    if (*present && !written) {
        if (bmp_set_length(store->set))
            bmp_store_confirm(store->set, found.records);
        take_over(store, &found, synced);
    } else if (!written) {
        store->o.sys->close(store->fd);
        store->fd = -1;
    }
    bmp_recovered_clear(&found);
    return true;
}
