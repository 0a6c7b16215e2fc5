/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* bitmap/store/failure.c: a store that fails, and who learns of it: reports, the medium, whoever
 * marks. */
#include "bitmap/store/store_internal.h"

#include "util/error.h"
#include "util/sync.h"

#include <string.h>

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
    BmpSuper super = store->super;
    int ret = 0;

    super.state = state;
    super.disk_lossy = store->set && bmp_set_lossy(store->set);
    super.generation += 3; /* newer than whatever a failed commit has left */
    /* First over what a leader may have decided with, as where a commit is taken back. */
    for (unsigned i = 0; ret == 0 && i < BMP_SUPER_COPIES; i++) {
        ret = bmp_store_write_super(store, store->fd, store->stale_copy ^ !i, &super);
        if (ret == 0)
            ret = bmp_store_sync(store, store->fd);
    }
    store->super.generation = super.generation;
    if (store->note)
        bmp_note_write(store);
    store->super.disk_lossy = super.disk_lossy;
    return ret;
}

/* Notes for the next opening that the store is older than the disk. Returns what to add to the
 * report, where that is not possible. A disk whose store somebody keeps is then not written any
 * more: who has the store next, on another host, has nothing else to go by. */
static const char *leave_word(BmpStore *store)
{
    /* None takes room on the store's file system, and the last one nothing of it at all. */
    if (store->fd < 0 || say_again(store, BMP_STORE_DISTRUSTED) == 0 ||
        bmp_store_remove(store, NULL) || disown(store))
        return "";
    if (!store->mirror)
        return ", and the store on the medium can't be marked as out of date";
    bmp_mirror_abandon(store->mirror);
    return ", and as the store can't be marked as out of date, the disk is not written any more";
}

void bmp_store_fail(BmpStore *store, int err, const char *what)
{
    BmpJournal *journal =
        store->set ? __atomic_load_n(&store->set->journal, __ATOMIC_ACQUIRE) : NULL;
    const char *more;

    TM_GUARD(&store->lock);
    if (!store->failed) {
        __atomic_store_n(&store->failed, true, __ATOMIC_RELEASE);
        more = leave_word(store);
        store->failure =
            g_strdup_printf("bitmap store '%s': %s%s%s; what is written from now on is recorded in "
                            "memory only%s",
                            store->path, what, err ? ": " : "", err ? tm_strerror(err) : "", more);
        bmp_store_report(store, &(BmpReport){ .reason = store->failure });
    }
    if (journal)
        bmp_journal_give_up(journal);
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

    return store->fd >= 0 && !store->mirror && store->o.sys->fstat(store->fd, &st) == 0 &&
           st.st_nlink == 0;
}

void bmp_store_check_deleted(BmpStore *store)
{
    if (!store->o.read_only && deleted(store))
        bmp_store_fail(store, 0, "it was deleted");
}

/* ---- a disk that has lost data */

static void note_loss(BmpStore *store)
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

void bmp_set_lose(BmpSet *set)
{
    if (set->lossy)
        return;
    bmp_set_change_begin(&set, 1);
    bmp_set_note_loss(set);
    if (set->store)
        note_loss(set->store);
    bmp_set_change_end(&set, 1);
}
