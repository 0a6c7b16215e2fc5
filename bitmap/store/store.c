/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* bitmap/store/store.c: the life of a store: opened with a disk, resting, ticking, closed. */
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
    if (options->keeper)
        store->mirror = bmp_mirror_new(options->sys, options->keeper);
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
    bmp_mirror_free(store->mirror);
    if (store->disk_fd >= 0)
        close(store->disk_fd);
    pthread_mutex_destroy(&store->ticking);
    pthread_mutex_destroy(&store->lock);
    g_free(store->failure);
    if (store->note)
        g_byte_array_unref(store->note);
    g_free(store->path);
    g_free(store->layer);
    g_free(store);
}

/* ---- opening */

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
        return tm_error_set_errno(error, -ret, "Could not sync the disk of node '%s'",
                                  store->set->node_name);
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
    int fd = -1;

    store->o.read_only = true;
    if (store->fd < 0)
        return;
    if (!bmp_store_find(store, &fd, NULL))
        fd = -1;
    store->o.sys->close(store->fd);
    store->fd = fd;
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
        if (!bmp_store_find(store, &store->fd, NULL))
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

bool bmp_set_store_figures(BmpSet *set, BmpStoreFigures *figures)
{
    BmpStore *store;

    bmp_set_lock(set); /* a change replaces the journal */
    store = set->store;
    if (store) {
        figures->counts.syncs = __atomic_load_n(&store->counts.syncs, __ATOMIC_RELAXED);
        figures->counts.failed = __atomic_load_n(&store->counts.failed, __ATOMIC_RELAXED);
        figures->counts.ns = __atomic_load_n(&store->counts.ns, __ATOMIC_RELAXED);
        figures->counts.intents = __atomic_load_n(&store->counts.intents, __ATOMIC_RELAXED);
        figures->open = set->journal ? bmp_journal_intents(set->journal) : 0;
    }
    bmp_set_unlock(set);
    return store != NULL;
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

bool bmp_set_tick_due(BmpSet *set)
{
    bool due;

    bmp_set_lock(set); /* a disk that grows replaces the journal */
    due = set->journal && !bmp_journal_idle(set->journal);
    bmp_set_unlock(set);
    return due;
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
