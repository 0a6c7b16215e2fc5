/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* bitmap/store/store.c: the life of a store: opened with a disk, failing, ticking, closed. */
#include "bitmap/store/store_internal.h"

#include "util/error.h"
#include "util/sync.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

/* ---- life */

static BmpStore *store_new(BmpSet *set, const BmpStoreOptions *options)
{
    BmpStore *store = g_new0(BmpStore, 1);

    store->o = *options;
    store->o.path = store->path = g_strdup(options->path);
    store->o.layer = store->layer = g_strdup(options->layer);
    if (options->image) {
        store->image = *options->image;
        store->o.image = &store->image;
    }
    store->fd = -1;
    store->disk_fd = options->disk_fd < 0 ? -1 : fcntl(options->disk_fd, F_DUPFD_CLOEXEC, 0);
    store->o.disk_fd = store->disk_fd;
    store->set = set;
    pthread_mutex_init(&store->ticking, NULL);
    pthread_mutex_init(&store->lock, NULL);
    return store;
}

void bmp_store_free(BmpStore *store)
{
    if (!store)
        return;
    bmp_store_set_journal(store, NULL);
    if (store->fd >= 0)
        store->o.sys->close(store->fd);
    if (store->disk_fd >= 0)
        close(store->disk_fd);
    pthread_mutex_destroy(&store->ticking);
    pthread_mutex_destroy(&store->lock);
    g_free(store->failure);
    g_free(store->path);
    g_free(store->layer);
    g_free(store);
}

void bmp_store_set_journal(BmpStore *store, BmpJournal *journal)
{
    BmpJournal *old;

    if (!store->set)
        return;
    old = __atomic_exchange_n(&store->set->journal, journal, __ATOMIC_ACQ_REL);
    bmp_journal_close(old);
}

void bmp_store_report(BmpStore *store, const BmpReport *report)
{
    if (store->o.report)
        store->o.report(store->o.opaque, report);
}

static void report_all(BmpStore *store, const BmpRecovered *found)
{
    for (guint i = 0; i < found->reports->len; i++) {
        const BmpProblem *problem = found->reports->pdata[i];

        bmp_store_report(store, &(BmpReport){ .bitmap = problem->bitmap,
                                              .reason = problem->reason,
                                              .recovered = problem->recovered,
                                              .inconsistent = problem->inconsistent });
    }
}

/* ---- failing */

bool bmp_store_has_failed(BmpStore *store)
{
    return __atomic_load_n(&store->failed, __ATOMIC_ACQUIRE);
}

bool bmp_store_clear_failure(BmpStore *store)
{
    TM_GUARD(&store->lock);

    g_clear_pointer(&store->failure, g_free);
    return __atomic_exchange_n(&store->failed, false, __ATOMIC_ACQ_REL);
}

/* The disk does not know the file any more; what replaces it has another uuid, or it would be
 * vouched for again before that is there. */
static bool disown(BmpStore *store)
{
    if (!store->marked || !bmp_identity_unmark(store->o.sys, store->disk_fd, store->super.uuid))
        return false;
    memset(store->super.uuid, 0, sizeof(store->super.uuid));
    return true;
}

/* Says what was in force once more, but for the state, and whether the disk has lost data. */
static int say_again(BmpStore *store, BmpStoreState state)
{
    const TmSys *sys = store->o.sys;
    BmpSuper super = store->super;
    int ret = 0;

    super.state = state;
    super.disk_lossy = store->set && bmp_set_lossy(store->set);
    super.generation += 3; /* newer than whatever a failed commit has left */
    /* First over what a leader may have decided with, as where a commit is taken back. */
    for (unsigned i = 0; ret == 0 && i < BMP_SUPER_COPIES; i++) {
        ret = bmp_store_write_super(sys, store->fd, store->stale_copy ^ !i, &super);
        if (ret == 0)
            ret = tm_fdatasync(sys, store->fd);
    }
    store->super.generation = super.generation;
    store->super.disk_lossy = super.disk_lossy;
    return ret;
}

/* Leaves word for the next opening that the store is behind the disk. */
static bool leave_word(BmpStore *store)
{
    /* None takes room on the store's file system, and the last one nothing of it at all. */
    return store->fd < 0 || say_again(store, BMP_STORE_DISTRUSTED) == 0 ||
           bmp_store_file_remove(store->o.sys, store->path, NULL) || disown(store);
}

void bmp_store_fail(BmpStore *store, int err, const char *what)
{
    BmpJournal *journal =
        store->set ? __atomic_load_n(&store->set->journal, __ATOMIC_ACQUIRE) : NULL;
    bool word;

    TM_GUARD(&store->lock);
    if (!store->failed) {
        __atomic_store_n(&store->failed, true, __ATOMIC_RELEASE);
        word = leave_word(store);
        store->failure = g_strdup_printf(
            "bitmap store '%s': %s%s%s; what is written from now on is recorded in "
            "memory only%s",
            store->path, what, err ? ": " : "", err ? tm_strerror(err) : "",
            word ? "" : ", and the store on the medium can't be marked as out of date");
        bmp_store_report(store, &(BmpReport){ .reason = store->failure });
    }
    if (journal)
        bmp_journal_give_up(journal);
}

void bmp_store_note_loss(BmpStore *store)
{
    int ret = 0;

    if (store->fd < 0 || store->o.read_only || store->resting)
        return; /* the next commit says it */
    pthread_mutex_lock(&store->ticking);
    pthread_mutex_lock(&store->lock);
    if (!store->failed)
        ret = say_again(store, store->super.state);
    pthread_mutex_unlock(&store->lock);
    pthread_mutex_unlock(&store->ticking);
    if (ret < 0)
        bmp_store_fail(store, -ret, "its superblock could not be written");
}

/* ---- opening */

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
    const TmSys *sys = store->o.sys;
    g_autoptr(GError) problem = NULL;
    int fd;

    if (bmp_store_file_open(sys, store->path, store->o.read_only, &fd, &problem)) {
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
    return store->o.read_only || tm_fsync(store->o.sys, store->fd) == 0;
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
        .accept_changed = store->o.accept_changed,
        .unsynced = !synced,
    };

    bmp_recover(&options, found);
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

    if (!store->o.read_only || !bmp_store_file_locked(store->o.sys, store->fd))
        return false;
    reason = g_strdup_printf("bitmap store '%s' is in use by another process, which writes to the "
                             "disk: its bitmaps are not shown",
                             store->path);
    bmp_store_report(store, &(BmpReport){ .reason = reason });
    store->o.sys->close(store->fd);
    store->fd = -1;
    return true;
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

static bool open_store(BmpStore *store, GError **error)
{
    bool present = false;

    if ((!store->o.image || store->image.beside) && store->path &&
        !bmp_store_open_file(store, &present, error))
        return false;
    return !store->o.image || present || bmp_store_open_image(store, error);
}

bool bmp_set_open_store(BmpSet *set, const BmpStoreOptions *options, GError **error)
{
    BmpStore *store = store_new(set, options);
    bool ok;

    g_assert(!set->store && !bmp_set_length(set));
    bmp_set_change_begin(&set, 1);
    set->store = store;
    ok = open_store(store, error);
    if (!ok) {
        set->store = NULL;
        bmp_store_free(store);
    }
    bmp_set_change_end(&set, 1);
    return ok;
}

/* ---- closing */

static bool clean_end(BmpStore *store, BmpStoreState state, GError **error)
{
    int ret = store->disk_fd < 0 ? 0 : tm_fsync(store->o.sys, store->disk_fd);

    if (ret < 0) { /* others may have written to it, too */
        bmp_set_note_loss(store->set);
        return tm_error_set_errno(error, -ret, "Could not sync the disk");
    }
    bmp_identity_settle(store->o.sys, store->disk_fd);
    return bmp_store_commit(store, state, error);
}

static bool end(BmpSet *set, BmpStoreState state)
{
    BmpStore *store = set->store;
    g_autoptr(GError) error = NULL;
    bool ok;

    if (!store || store->o.read_only || store->resting ||
        (store->fd < 0 && !bmp_store_has_failed(store)))
        return true;
    bmp_set_change_begin(&set, 1);
    ok = clean_end(store, state, &error);
    if (!ok && bmp_store_has_failed(store))
        bmp_store_report(store, &(BmpReport){ .reason = error->message });
    else if (!ok)
        bmp_store_fail(store, 0, error->message);
    pthread_mutex_lock(&store->ticking);
    bmp_store_set_journal(store, NULL);
    pthread_mutex_unlock(&store->ticking);
    bmp_set_change_end(&set, 1);
    return ok;
}

bool bmp_set_close_store(BmpSet *set)
{
    return end(set, BMP_STORE_CLOSED);
}

bool bmp_set_leave_store(BmpSet *set)
{
    return end(set, BMP_STORE_DISTRUSTED);
}

/* ---- resting */

bool bmp_set_rest_store(BmpSet *set, bool left)
{
    bool ok;

    if (!set->store || set->store->o.read_only)
        return true;
    ok = left ? bmp_set_leave_store(set) : bmp_set_close_store(set);
    set->store->resting = true;
    return ok;
}

/* Lets others write to it, and lets go of the means to. */
static void keep_for_reading(BmpStore *store)
{
    const TmSys *sys = store->o.sys;
    int fd = -1;

    store->o.read_only = true;
    if (store->fd < 0)
        return;
    if (!bmp_store_file_open(sys, store->path, true, &fd, NULL))
        fd = -1;
    sys->close(store->fd);
    store->fd = fd;
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

static bool take_for_writing(BmpStore *store, bool accept_changed, GError **error)
{
    bool present;

    if (store->fd >= 0)
        store->o.sys->close(store->fd);
    store->fd = -1;
    store->o.read_only = false;
    store->o.accept_changed = accept_changed;
    if (!bmp_store_open_file(store, &present, error)) {
        store->o.read_only = true;
        if (!bmp_store_file_open(store->o.sys, store->path, true, &store->fd, NULL))
            store->fd = -1;
        return false;
    }
    if (!present && bmp_store_has_persistent(store->set))
        bmp_store_fail(store, 0, "it is gone");
    return true;
}

static void take_up_again(BmpStore *store)
{
    g_autoptr(GError) error = NULL;

    if ((store->fd >= 0 || bmp_store_has_persistent(store->set)) && !bmp_store_has_failed(store) &&
        !bmp_store_commit(store, BMP_STORE_OPEN, &error))
        bmp_store_fail(store, 0, error->message);
}

bool bmp_set_wake_store(BmpSet *set, bool read_only, bool accept_changed, GError **error)
{
    BmpStore *store = set->store;
    bool rested, ok = true;

    if (!store)
        return true;
    if (read_only)
        bmp_set_rest_store(set, false);
    rested = store->resting;
    store->resting = false;
    bmp_set_change_begin(&set, 1);
    if (rested && read_only)
        keep_for_reading(store);
    else if (rested)
        take_up_again(store);
    else if (store->o.read_only && !read_only)
        ok = take_for_writing(store, accept_changed, error);
    bmp_set_change_end(&set, 1);
    return ok;
}

/* ---- meanwhile */

const char *bmp_set_store_path(BmpSet *set)
{
    return set->store ? set->store->path : NULL;
}

bool bmp_set_has_persistent(BmpSet *set)
{
    bool has;

    bmp_set_lock(set);
    has = bmp_store_has_persistent(set);
    bmp_set_unlock(set);
    return has;
}

bool bmp_set_store_exists(BmpSet *set)
{
    bool exists;

    bmp_set_lock(set);
    exists = set->store && set->store->fd >= 0;
    bmp_set_unlock(set);
    return exists;
}

void bmp_set_distrust_store(BmpSet *set, const char *why)
{
    if (set->store)
        bmp_store_fail(set->store, 0, why);
}

bool bmp_set_wants_commit(BmpSet *set)
{
    const BmpJournal *journal;
    bool wants;

    bmp_set_lock(set); /* a disk that grows replaces the journal */
    journal = set->journal;
    wants = set->store && !set->store->o.read_only && set->store->path &&
            (bmp_store_has_failed(set->store) || (journal && bmp_journal_full(journal)));
    bmp_set_unlock(set);
    return wants;
}

void bmp_store_report_full(BmpStore *store)
{
    g_autofree char *reason = NULL;

    if (__atomic_exchange_n(&store->full_reported, true, __ATOMIC_RELAXED))
        return;
    reason = g_strdup_printf("bitmap store '%s': there is no room for marks: whole regions count "
                             "as dirty",
                             store->path);
    bmp_store_report(store, &(BmpReport){ .reason = reason });
}

/* Deleted while it is open: what is written to it is lost with the process. (One that was moved is
 * not: it may have moved with the image.) */
static bool deleted(const BmpStore *store)
{
    struct stat st;

    return store->fd >= 0 && store->o.sys->fstat(store->fd, &st) == 0 && st.st_nlink == 0;
}

void bmp_store_check_deleted(BmpStore *store)
{
    if (!store->o.read_only && deleted(store))
        bmp_store_fail(store, 0, "it was deleted");
}

void bmp_set_tick(BmpSet *set)
{
    BmpJournal *journal;
    int ret;

    if (!set->store)
        return;
    TM_GUARD(&set->store->ticking);
    journal = __atomic_load_n(&set->journal, __ATOMIC_ACQUIRE);
    ret = journal ? bmp_journal_tick(journal) : 0;
    if (ret < 0)
        bmp_store_fail(set->store, -ret, "it could not be synced");
    else
        bmp_store_check_deleted(set->store);
}

void bmp_set_change_disk(BmpSet *set, int disk_fd)
{
    BmpStore *store = set->store;

    if (!store || disk_fd < 0)
        return;
    if (store->disk_fd >= 0)
        close(store->disk_fd);
    store->disk_fd = store->o.disk_fd = fcntl(disk_fd, F_DUPFD_CLOEXEC, 0);
}
