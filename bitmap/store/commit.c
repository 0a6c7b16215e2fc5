/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* bitmap/store/commit.c: how a new state gets into a store: all of it or none, whatever happens.
 *
 * The disk is flushed first: what the new state calls clean must be there before it is.
 *
 * One store: write the new catalogue, and the table of a new journal, where nothing lies; sync;
 * write the superblock over its stale copy; sync; the same over the other; sync (F3). Only then is
 * the old state's space free and the new epoch in use. Where writing a superblock fails nobody
 * knows which one is on the medium: a third, of a newer generation, with the old state settles it;
 * if that fails too, the store has. A sync that fails settles nothing: the kernel drops what it was
 * to write, and later ones say that all is well. The store has failed then, and is written anew.
 *
 * A store that is not there yet, or has failed, is written as a whole under another name.
 *
 * Several stores (F9): each gets the new state as pending first. What the first one, the leader,
 * says in its other copy then decides for all. */
#include "bitmap/store/part_internal.h"

#include "util/error.h"
#include "util/range.h"
#include "util/sync.h"
#include "util/trace.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

/* ---- the disk */

/* What a record calls clean is on the medium before the record is. */
static bool flush_disk(const BmpStore *store, GError **error)
{
    return !store->o.flush || store->o.flush(store->o.opaque, error);
}

/* ---- one store */

static bool vanish(BmpPart *part, GError **error)
{
    BmpStore *store = part->store;

    if (store->fd >= 0) {
        if (!bmp_store_remove(store, error)) {
            if (!bmp_store_is_named(store, store->fd))
                bmp_store_fail(store, 0, "its file was removed, but may be back after a crash");
            return false;
        }
        bmp_identity_unmark(store->o.sys, store->disk_fd, store->super.uuid);
        bmp_store_set_journal(store, NULL);
        store->o.sys->close(store->fd);
        store->fd = -1;
        store->super = (BmpSuper){ .disk_size = store->super.disk_size };
        store->last_epoch = 0;
    }
    bmp_store_clear_failure(store);
    store->set->touched = false;
    return true;
}

static bool publish_alone(BmpPart *part, GError **error)
{
    BmpStore *store = part->store;
    unsigned first = store->stale_copy;
    int ret;

    if (part->create)
        return bmp_part_publish_new(part, error) == 0;
    ret = bmp_part_write_copies(part, first, &part->next);
    if (ret == 0)
        return true;
    bmp_part_undo_supers(part, -ret);
    return tm_error_set_errno(error, -ret, "Could not write bitmap store '%s'", store->path);
}

static bool prepare_alone(BmpPart *part, GError **error)
{
    if (!bmp_part_prepare(part, error))
        return false;
    if (bmp_parts_sync(part, 1, error))
        return true;
    bmp_part_discard(part);
    return false;
}

/* A store without bitmaps is removed; before that it says that it has none, as its name may come
 * back. Where there is no room for that, the removal alone has to do. */
static bool commit_part(BmpPart *part, GError **error)
{
    g_autoptr(GError) why = NULL;
    BmpJournal *journal = NULL;
    int err = 0;

    if (!prepare_alone(part, &why) && !part->vanish) {
        g_propagate_error(error, g_steal_pointer(&why));
        return false;
    }
    if (part->vanish && part->fd < 0)
        return vanish(part, error);
    if (part->open_journal)
        journal = bmp_part_open_journal(part, &err);
    if (err == 0 && publish_alone(part, error)) {
        bmp_part_settle(part, journal);
        if (part->vanish)
            vanish(part, NULL);
        return true;
    }
    bmp_journal_close(journal);
    if (err)
        tm_error_set_errno(error, -err, "Could not map bitmap store '%s'", part->store->path);
    bmp_part_discard(part);
    return false;
}

bool bmp_store_commit(BmpStore *store, BmpStoreState state, GError **error)
{
    BmpPart part = { .store = store, .state = state };
    bool ok;

    TM_GUARD(&store->ticking);
    if (!flush_disk(store, error))
        return false;
    TM_TRACE(commit_begin, store->path, 1u);
    if (store->resting) /* the disk is not ours now */
        part.state = BMP_STORE_CLOSED;
    bmp_part_collect(&part);
    ok = commit_part(&part, error);
    TM_TRACE(commit_end, store->path, ok);
    bmp_part_clear(&part);
    return ok;
}

bool bmp_store_write_new(BmpStore *store, const BmpRecord *records, size_t n, BmpStoreState state,
                         GError **error)
{
    BmpPart part = { .store = store, .state = state, .records = (BmpRecord *)records, .n = n };

    return commit_part(&part, error);
}

/* ---- several stores */

/* One copy of each says what will be, if the leader says so; to be synced. */
static bool publish_pending(BmpPart *part, GError **error)
{
    BmpStore *store = part->store;
    int ret;

    part->next.group_pending = 1;
    if (part->create)
        return bmp_part_publish_new(part, error) == 0;
    ret = bmp_part_put_copy(part, store->stale_copy, &part->next);
    if (ret == 0)
        return true;
    return tm_error_set_errno(error, -ret, "Could not write bitmap store '%s'", store->path);
}

/* The state of before, where the new one was pending. Followers ask the leader as long as they are:
 * it says no first, and goes when nobody does any more. */
static void take_back(BmpPart *parts, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (parts[i].create)
            bmp_part_unsay(&parts[i]);
        else
            bmp_part_undo_supers(&parts[i], EIO);
    }
    for (size_t i = 0; i < n; i++)
        bmp_part_discard(&parts[i]);
}

/* After the decision: it is in force, whether all of it could be written or not: what fails now
 * leaves a store that finds out from the leader. Whether it need not. */
static bool settle(BmpPart *part, BmpJournal **map, int ret)
{
    bmp_part_settle(part, g_steal_pointer(map));
    if (ret < 0)
        bmp_store_fail(part->store, -ret, "its superblock could not be written");
    else if (part->vanish)
        vanish(part, NULL);
    return ret == 0;
}

static unsigned stale_copy(const BmpPart *part)
{
    return part->create ? 0 : part->store->stale_copy;
}

/* Both copies of the followers say what is, first the ones that were not pending. */
static void write_followers(BmpPart *followers, int *results, size_t n)
{
    for (unsigned stale = 0; stale < BMP_SUPER_COPIES; stale++) {
        for (size_t i = 0; i < n; i++) {
            BmpPart *part = &followers[i];

            bmp_part_not_pending(&part->next);
            if (results[i] == 0)
                results[i] = bmp_part_put_copy(part, stale_copy(part) ^ !stale, &part->next);
        }
        bmp_parts_sync(followers, n, NULL);
        for (size_t i = 0; i < n; i++)
            results[i] = results[i] ? results[i] : followers[i].synced;
    }
}

/* Followers ask the leader as long as they are pending: it is the last to move on. */
static bool complete(BmpPart *parts, BmpJournal **maps, size_t n)
{
    g_autofree int *results = g_new0(int, n);
    bool done = true;

    write_followers(parts + 1, results + 1, n - 1);
    for (size_t i = 1; i < n; i++)
        done = settle(&parts[i], &maps[i], results[i]) && done;
    results[0] = bmp_part_write_copy(&parts[0], stale_copy(&parts[0]), &parts[0].next);
    return settle(&parts[0], &maps[0], results[0]) && done;
}

/* Where there is no room, the oldest goes; that is noted, lest it be taken for a "no". */
static void remember(BmpSuper *leader, const uint8_t group[16])
{
    unsigned n = 0;

    while (n < BMP_GROUPS_MAX && memcmp(leader->decided[n], (uint8_t[16]){ 0 }, 16))
        n++;
    if (n == BMP_GROUPS_MAX) {
        memmove(leader->decided[0], leader->decided[1], --n * sizeof(leader->decided[0]));
        leader->forgotten = 1;
    }
    memcpy(leader->decided[n], group, 16);
}

static void drop_decision(BmpSuper *leader, const uint8_t group[16])
{
    unsigned kept = 0;

    for (unsigned i = 0; i < BMP_GROUPS_MAX; i++) {
        if (memcmp(leader->decided[i], group, 16))
            memmove(leader->decided[kept++], leader->decided[i], 16);
    }
    memset(leader->decided[kept], 0, (BMP_GROUPS_MAX - kept) * 16);
}

static bool decide(BmpPart *leader, GError **error)
{
    unsigned stale = stale_copy(leader);
    uint8_t group[16];
    int ret;

    memcpy(group, leader->next.group, sizeof(group));
    bmp_part_not_pending(&leader->next);
    remember(&leader->next, group);
    ret = bmp_part_write_copy(leader, !stale, &leader->next);
    if (ret == 0)
        return true;
    return tm_error_set_errno(error, -ret, "Could not write bitmap store '%s'",
                              leader->store->path);
}

/* Everything that may fail, up to the decision. */
static bool publish_group(BmpPart *parts, BmpJournal **maps, size_t n, const uint8_t group[16],
                          GError **error)
{
    int err = 0;

    for (size_t i = 0; i < n; i++) {
        memcpy(parts[i].next.group, group, 16);
        if (i)
            memcpy(parts[i].next.leader, parts[0].next.uuid, 16);
        if (parts[i].open_journal)
            maps[i] = bmp_part_open_journal(&parts[i], &err);
        if (err)
            return tm_error_set_errno(error, -err, "Could not map bitmap store '%s'",
                                      parts[i].store->path);
    }
    for (size_t i = 0; i < n; i++) {
        if (!publish_pending(&parts[i], error))
            return false;
    }
    return bmp_parts_sync(parts, n, error) && decide(&parts[0], error);
}

/* What a failed store says can't be kept while it is written anew, which a group needs. */
static bool all_well(BmpStore **stores, size_t n, GError **error)
{
    for (size_t i = 0; i < n; i++) {
        if (bmp_store_has_failed(stores[i]))
            return tm_error_set(error,
                                "Bitmap store '%s' has failed and can't take part in a change of "
                                "several disks until it is healed",
                                stores[i]->path);
    }
    return true;
}

/* In the order of their addresses, as the sets are locked, whichever of them leads. */
static void lock_all(BmpStore *const *stores, size_t n)
{
    g_autofree BmpStore **sorted = g_memdup2(stores, n * sizeof(*stores));

    qsort(sorted, n, sizeof(*sorted), bmp_by_address);
    for (size_t i = 0; i < n; i++)
        pthread_mutex_lock(&sorted[i]->ticking);
}

static bool commit_group(BmpStore **stores, size_t n, GError **error)
{
    g_autofree BmpPart *parts = g_new0(BmpPart, n);
    g_autofree BmpJournal **maps = g_new0(BmpJournal *, n);
    size_t prepared = 0;
    uint8_t group[16];
    bool ok, done = true;

    bmp_part_random_bytes(group);
    for (size_t i = 0; i < n; i++) {
        if (!flush_disk(stores[i], error))
            return false;
    }
    TM_TRACE(commit_begin, stores[0]->path, (unsigned)n);
    lock_all(stores, n);
    for (size_t i = 0; i < n; i++) {
        parts[i] =
            (BmpPart){ .store = stores[i], .state = BMP_STORE_OPEN, .grouped = true, .fd = -1 };
        parts[i].leader = i ? stores[0]->path : NULL;
        bmp_part_collect(&parts[i]);
    }
    ok = all_well(stores, n, error);
    while (ok && prepared < n)
        ok = bmp_part_prepare(&parts[prepared], error) && ++prepared;
    ok = ok && bmp_parts_sync(parts, n, error) && publish_group(parts, maps, n, group, error);
    if (ok)
        done = complete(parts, maps, n);
    else
        take_back(parts, prepared);
    for (size_t i = 0; i < n; i++) {
        bmp_journal_close(maps[i]);
        bmp_part_clear(&parts[i]);
        pthread_mutex_unlock(&stores[i]->ticking);
    }
    TM_TRACE(commit_end, stores[0]->path, ok);
    if (ok && done) /* with the leader's next commit: nobody will ask */
        drop_decision(&stores[0]->super, group);
    return ok;
}

/* Not part of a group: nothing persistent was there, nothing is. */
static bool idle(BmpStore *store)
{
    for (guint i = 0; store->fd < 0 && i < store->set->bitmaps->len; i++) {
        BmpBitmap *bitmap = store->set->bitmaps->pdata[i];

        if (bitmap->persistent)
            return false;
    }
    return store->fd < 0;
}

/* Whether the set's part in a change is to be stored. */
static bool takes_part(BmpSet *set)
{
    if (!set->store || !(set->touched || set->store->doubted) || !set->store->path)
        return false;
    if (!idle(set->store))
        return true;
    set->touched = false;
    bmp_store_clear_failure(set->store);
    return false;
}

bool bmp_set_commit(BmpSet *const *sets, size_t n, GError **error)
{
    g_autofree BmpStore **stores = g_new(BmpStore *, n + 1);
    size_t count = 0;

    for (size_t i = 0; i < n; i++) {
        g_assert(sets[i]->changing);
        if (sets[i]->store)
            bmp_store_check_deleted(sets[i]->store);
        if (takes_part(sets[i]))
            stores[count++] = sets[i]->store;
        else if (bmp_set_wants_commit(sets[i])) /* healing; if it does not work, another time */
            bmp_store_commit(sets[i]->store, BMP_STORE_OPEN, NULL);
    }
    if (count > 1)
        return commit_group(stores, count, error);
    return !count || bmp_store_commit(stores[0], BMP_STORE_OPEN, error);
}
