/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* bitmap/store/commit.c: how a new state gets into a store: all of it or none, whatever happens.
 *
 * The disk is flushed first: what the new state calls clean must be there before it is.
 *
 * One store: write the new catalogue, and the table of a new map, where nothing lies; sync; write
 * the superblock over its stale copy; sync; the same over the other; sync (F3). Only then is the
 * old state's space free and the new epoch in use. Where writing a superblock fails nobody knows
 * which one is on the medium: a third, of a newer generation, with the old state settles it; if
 * that fails too, the store has. A sync that fails settles nothing: the kernel drops what it was to
 * write, and later ones say that all is well. The store has failed then, and is written anew.
 *
 * A store that is not there yet, or has failed, is written as a whole under another name.
 *
 * Several stores (F9): each gets the new state as pending first. What the first one, the leader,
 * says in its other copy then decides for all. */
#include "bitmap/store/store_internal.h"

#include "util/error.h"
#include "util/range.h"
#include "util/sync.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

/* One store's part in a commit. */
typedef struct Part {
    BmpStore *store;
    BmpStoreState state;
    const char *leader; /* NULL: alone, or the leader */
    bool grouped;
    BmpRecord *records;
    size_t n;
    BmpSuper next;
    BmpGeometry geometry;
    bool new_map;  /* a table is written */
    bool open_map; /* it, or the one that is there, is mapped */
    bool new_catalogue;
    bool create;    /* the file is written anew */
    bool vanish;    /* there is nothing left to keep */
    bool published; /* a file that was created has its name */
    bool unsaid;    /* and says that it doesn't count */
    bool lost;      /* a sync of the store's own file has failed */
    int fd;         /* where it is written */
    uint64_t old_size;
} Part;

/* ---- what is to be written */

static void collect(Part *part)
{
    BmpSet *set = part->store->set;
    guint n = set->bitmaps->len;

    bmp_chain_fold_all(set);
    part->records = g_new0(BmpRecord, n + 1);
    for (guint i = 0; i < n; i++) {
        BmpBitmap *bitmap = set->bitmaps->pdata[i];

        if (bitmap->persistent)
            bmp_bitmap_save(bitmap, &part->records[part->n++]);
    }
}

/* The finest granules among those that record; 0: none does. */
static unsigned finest(const Part *part)
{
    unsigned shift = 0;

    for (size_t i = 0; i < part->n; i++) {
        const BmpRecord *record = &part->records[i];

        if (record->enabled && !record->inconsistent && (!shift || record->shift < shift))
            shift = record->shift;
    }
    return shift;
}

static bool same_map(const Part *part)
{
    const BmpSuper *old = &part->store->super;
    BmpGeometry now;

    return !part->create && old->map_shift && part->store->map_sound &&
           bmp_geometry_of(&now, old) && now.size == part->geometry.size &&
           now.map_shift == part->geometry.map_shift &&
           now.region_shift == part->geometry.region_shift;
}

/* The lowest place for @length bytes that overlaps none of the @n extents. */
static uint64_t find_room(const uint64_t (*extents)[2], size_t n, uint64_t length)
{
    uint64_t at = BMP_SUPER_COPIES * BMP_STORE_ALIGN;

    for (bool moved = true; moved;) {
        moved = false;
        for (size_t i = 0; i < n; i++) {
            if (extents[i][1] && tm_range_overlaps(at, length, extents[i][0], extents[i][1])) {
                at = tm_align_up(extents[i][0] + extents[i][1], BMP_STORE_ALIGN);
                moved = true;
            }
        }
    }
    return at;
}

static void place(Part *part, uint64_t catalogue_length)
{
    const BmpSuper *old = &part->store->super;
    BmpSuper *next = &part->next;
    const BmpSuper *named[] = { old, &part->store->other };
    uint64_t extents[2 * G_N_ELEMENTS(named) + 1][2] = { { 0 } };

    for (size_t i = 0; i < G_N_ELEMENTS(named) && !part->create; i++) {
        extents[2 * i][0] = named[i]->map_offset, extents[2 * i][1] = named[i]->map_length;
        extents[2 * i + 1][0] = named[i]->catalogue_offset;
        extents[2 * i + 1][1] = named[i]->catalogue_length;
    }
    if (!part->geometry.map_shift) {
        next->map_offset = next->map_length = 0;
    } else if (part->new_map) {
        next->map_length = part->geometry.length;
        next->map_offset = find_room(extents, 4, next->map_length);
    }
    if (part->new_catalogue) {
        extents[4][0] = next->map_offset, extents[4][1] = next->map_length;
        next->catalogue_length = catalogue_length;
        next->catalogue_offset = find_room(extents, 5, catalogue_length);
    }
}

static void not_pending(BmpSuper *super)
{
    super->group_pending = 0;
    memset(super->group, 0, sizeof(super->group));
    memset(super->leader, 0, sizeof(super->leader));
}

static void fill_super(Part *part)
{
    BmpStore *store = part->store;
    BmpSuper *next = &part->next;
    BmpIdentity disk;
    struct stat st;

    if (!store->resting) { /* else others may have changed it since */
        bmp_identity_read(store->o.sys, store->disk_fd, &disk);
        bmp_identity_put(&disk, next);
    }
    next->disk_marked = store->marked;
    next->disk_lossy = store->set ? bmp_set_lossy(store->set) : store->super.disk_lossy;
    next->generation = store->super.generation + 1;
    not_pending(next);
    next->disk_size = store->set ? store->set->size : store->super.disk_size;
    next->state = part->state;
    next->durability = store->o.durability;
    next->map_shift = part->geometry.map_shift;
    next->region_shift = part->geometry.region_shift;
    next->map_epoch = next->map_shift ? store->last_epoch + 1 : 0;
    memcpy(next->boot_id, store->o.boot_id, sizeof(next->boot_id));
    if (store->o.sys->fstat(part->fd, &st) == 0) {
        next->store_dev = st.st_dev;
        next->store_ino = st.st_ino;
    }
    g_strlcpy(next->layer, store->layer, sizeof(next->layer));
}

static void random_bytes(uint8_t bytes[16])
{
    if (getrandom(bytes, 16, 0) != 16) {
        for (unsigned i = 0; i < 16; i++)
            bytes[i] = (uint8_t)g_random_int();
    }
}

/* ---- the first phase: the new state is on the medium, and nothing names it */

/* The kernel drops what a sync could not write and tells once: no later one is to be believed. */
static int sync_part(Part *part)
{
    int ret = tm_fdatasync(part->store->o.sys, part->fd);

    part->lost |= ret < 0 && !part->create;
    return ret;
}

static int write_content(Part *part, const GByteArray *catalogue)
{
    const TmSys *sys = part->store->o.sys;
    const BmpSuper *next = &part->next;
    int ret = 0;

    if (part->new_catalogue)
        ret = tm_write_all(sys, part->fd, catalogue->data, catalogue->len, next->catalogue_offset);
    if (ret == 0 && part->new_map)
        ret = bmp_journal_create(sys, part->fd, next->map_offset, &part->geometry,
                                 bmp_entry_seed(next->uuid));
    if (ret == 0 && (part->new_catalogue || part->new_map))
        ret = sync_part(part);
    return ret;
}

/* The new map is ready before there is no way back. */
static BmpJournal *open_map(Part *part, int *err)
{
    BmpStore *store = part->store;
    BmpJournalOptions options = {
        .sys = store->o.sys,
        .fd = part->fd,
        .geometry = part->geometry,
        .offset = part->next.map_offset,
        .seed = bmp_entry_seed(part->next.uuid),
        .epoch = part->next.map_epoch,
        .durability = store->o.durability,
    };

    return bmp_journal_open(&options, err);
}

static bool prepare_file(Part *part, GError **error)
{
    BmpStore *store = part->store;
    struct stat st;

    if (store->barred && part->create)
        return tm_error_set(
            error, "'%s' exists and is not a bitmap store of this disk: move it away", store->path);
    if (part->create)
        return bmp_store_file_create(store->o.sys, store->path, &part->fd, error);
    part->fd = store->fd;
    part->old_size = store->o.sys->fstat(part->fd, &st) == 0 ? (uint64_t)st.st_size : 0;
    return true;
}

/* A file that has its name says what was not to be; should the name come back, nobody believes it.
 * Of a group, it is pending for good, and there is nothing before: first over what a leader may
 * have decided with, and no step before the one that it rests on. Whether that is on the medium. */
static bool unsay(Part *part)
{
    const TmSys *sys = part->store->o.sys;
    const uint8_t nothing[BMP_SUPER_SIZE] = { 0 };
    BmpSuper super = part->next;
    int ret;

    if (!part->published || part->unsaid)
        return true;
    super.generation++;
    if (part->grouped) {
        super.group_pending = 1;
        memset(super.leader, 0, sizeof(super.leader));
        memset(super.decided, 0, sizeof(super.decided));
        ret = tm_write_all(sys, part->fd, nothing, sizeof(nothing), BMP_STORE_ALIGN);
    } else {
        super.state = BMP_STORE_DISTRUSTED;
        ret = bmp_store_write_super(sys, part->fd, 1, &super);
    }
    if (ret == 0)
        ret = tm_fdatasync(sys, part->fd);
    if (ret == 0)
        ret = bmp_store_write_super(sys, part->fd, 0, &super);
    if (ret == 0)
        ret = tm_fdatasync(sys, part->fd);
    part->unsaid = ret == 0;
    return part->unsaid;
}

/* Takes back what was written. */
static void discard(Part *part)
{
    BmpStore *store = part->store;

    if (part->create) {
        g_autofree char *name = g_strconcat(store->path, ".tmp", NULL);
        bool said = unsay(part), gone = true;

        /* Where it did not get the name, that is another one's. */
        if (part->published && bmp_store_file_named(store->o.sys, part->fd, store->path))
            gone = bmp_store_file_remove(store->o.sys, store->path, NULL);
        else if (part->fd >= 0)
            store->o.sys->unlink(name);
        store->replace |= !gone; /* what is left there is ours, and says nothing */
        if (!gone && !said)      /* the disk will not know it */
            memset(store->super.uuid, 0, sizeof(store->super.uuid));
        /* Else the disk has lost its store, which is to be noticed. */
        if (store->fd < 0 || memcmp(part->next.uuid, store->super.uuid, 16))
            bmp_identity_unmark(store->o.sys, store->disk_fd, part->next.uuid);
        if (part->fd >= 0)
            store->o.sys->close(part->fd);
    } else if (part->fd >= 0 && part->old_size) {
        if (store->o.sys->ftruncate(part->fd, (off_t)part->old_size) < 0)
            part->old_size = 0; /* what is too long only takes room */
    }
    if (part->lost)
        bmp_store_fail(store, EIO, "it could not be synced");
    part->fd = -1;
}

/* Whether the map has something that a new epoch would drop. */
static bool marked_since(BmpSet *set)
{
    BmpJournal *map = __atomic_load_n(&set->map, __ATOMIC_RELAXED);

    return map && !bmp_journal_untouched(map);
}

/* The new state, in a place that nothing names. */
static bool write_new_state(Part *part, GError **error)
{
    BmpStore *store = part->store;
    g_autoptr(GByteArray) catalogue = NULL;
    int ret = 0;

    if (part->new_catalogue) {
        catalogue = bmp_catalogue_build(part->records, part->n, part->leader);
        if (!catalogue)
            return tm_error_set(error, "Not enough memory to store the bitmaps in '%s'",
                                store->path);
    }
    if (part->create)
        ret = bmp_identity_mark(store->o.sys, store->disk_fd, part->next.uuid, &store->marked);
    if (ret < 0)
        return tm_error_set_errno(error, -ret, "Could not sync the disk of bitmap store '%s'",
                                  store->path);
    place(part, catalogue ? catalogue->len : 0);
    fill_super(part);
    ret = write_content(part, catalogue);
    return ret == 0 ||
           tm_error_set_errno(error, -ret, "Could not write bitmap store '%s'", store->path);
}

static bool prepare(Part *part, GError **error)
{
    BmpStore *store = part->store;
    uint64_t size = store->set ? store->set->size : store->super.disk_size;
    unsigned shift = finest(part);

    part->fd = -1;
    part->vanish = !part->n && (store->fd < 0 || !store->keep_empty);
    if (part->vanish && (store->fd < 0 || (bmp_store_has_failed(store) && !part->grouped)))
        return true;
    part->create = store->fd < 0 || (bmp_store_has_failed(store) && !part->vanish);
    part->next = store->super;
    if (part->create && !memcmp(part->next.uuid, (uint8_t[16]){ 0 }, 16))
        random_bytes(part->next.uuid);
    if (shift && store->set)
        bmp_geometry_choose(&part->geometry, size, shift,
                            store->o.region_shift_min ? store->o.region_shift_min
                                                      : BMP_REGION_SHIFT_MIN);
    part->new_map = shift && store->set && !same_map(part);
    part->open_map = part->new_map ||
                     (shift && store->set && !__atomic_load_n(&store->set->map, __ATOMIC_RELAXED));
    part->new_catalogue = part->create || !store->catalogue_good || part->grouped ||
                          (store->set && (store->set->touched || marked_since(store->set)));
    if (!prepare_file(part, error))
        return false;
    if (write_new_state(part, error))
        return true;
    discard(part);
    return false;
}

/* ---- the second phase: superblocks */

static int write_copy(Part *part, unsigned copy, const BmpSuper *super)
{
    int ret = bmp_store_write_super(part->store->o.sys, part->fd, copy, super);

    return ret < 0 ? ret : sync_part(part);
}

/* Says again, louder, what was in force. */
static bool abort_supers(Part *part)
{
    BmpStore *store = part->store;
    BmpSuper old = store->super;

    old.generation = part->next.generation + 1;
    /* First over what a leader may have decided with: nobody must read that any more. */
    if (write_copy(part, !store->stale_copy, &old) < 0 ||
        write_copy(part, store->stale_copy, &old) < 0)
        return false;
    store->super = old;
    return true;
}

static void undo_supers(Part *part, int err)
{
    if (!part->create && part->fd >= 0 && (part->lost || !abort_supers(part)))
        bmp_store_fail(part->store, err, "its superblock could not be written");
}

/* What lies at the path may have come there after the store was deleted or moved away. */
static bool ours_to_replace(const BmpStore *store)
{
    return store->replace ||
           (store->fd >= 0 && bmp_store_file_named(store->o.sys, store->fd, store->path));
}

static int publish_new(Part *part, GError **error)
{
    const TmSys *sys = part->store->o.sys;
    BmpSuper *next = &part->next;
    int ret = bmp_store_write_super(sys, part->fd, 0, next);

    if (ret == 0 && !next->group_pending)
        ret = bmp_store_write_super(sys, part->fd, 1, next);
    if (ret == 0)
        ret = tm_fsync(sys, part->fd);
    if (ret < 0) {
        tm_error_set_errno(error, -ret, "Could not write bitmap store '%s'", part->store->path);
        return ret;
    }
    if (!ours_to_replace(part->store) && !bmp_store_file_absent(sys, part->store->path, error))
        return -EEXIST;
    part->published = true;
    return bmp_store_file_publish(sys, part->store->path, error) ? 0 : -EIO;
}

/* The new state is in force, on the medium and here. */
static void settle(Part *part, BmpJournal *map)
{
    BmpStore *store = part->store;
    BmpSuper *next = &part->next;
    uint64_t end =
        MAX(next->map_offset + next->map_length, next->catalogue_offset + next->catalogue_length);
    struct stat st;

    if (part->create && store->fd >= 0)
        store->o.sys->close(store->fd);
    store->fd = part->fd;
    store->super = *next;
    store->other = (BmpSuper){ 0 };
    store->stale_copy = 0;
    store->catalogue_good = true;
    store->doubted = false;
    store->replace = false;
    store->keep_empty = store->keep_empty && !part->n;
    store->map_sound = true;
    if (next->map_epoch)
        store->last_epoch = next->map_epoch;
    if (store->set) {
        BmpJournal *old = __atomic_load_n(&store->set->map, __ATOMIC_RELAXED);

        if (part->open_map || !next->map_shift)
            bmp_store_set_map(store, map);
        else if (old)
            bmp_journal_restart(old, next->map_epoch);
        store->set->touched = false;
    }
    if (!part->create && store->o.sys->fstat(store->fd, &st) == 0 && (uint64_t)st.st_size > end &&
        store->o.sys->ftruncate(store->fd, (off_t)end) < 0)
        return; /* it is only longer than need be */
    bool full = __atomic_exchange_n(&store->full_told, false, __ATOMIC_RELAXED);
    if ((part->create && bmp_store_forget_failure(store)) || full)
        bmp_store_report(store, &(BmpReport){ .healed = true, .reason = "stored again" });
}

static void part_clear(Part *part)
{
    for (size_t i = 0; i < part->n; i++)
        bmp_record_clear(&part->records[i]);
    g_free(part->records);
}

/* ---- the disk */

/* What a record calls clean is on the medium before the record is. */
static bool flush_disk(const BmpStore *store, GError **error)
{
    return !store->o.flush || store->o.flush(store->o.opaque, error);
}

/* ---- one store */

static bool vanish(Part *part, GError **error)
{
    BmpStore *store = part->store;

    if (store->fd >= 0) {
        if (!bmp_store_file_remove(store->o.sys, store->path, error)) {
            if (!bmp_store_file_named(store->o.sys, store->fd, store->path))
                bmp_store_fail(store, 0, "its name was removed and may come back after a crash");
            return false;
        }
        bmp_identity_unmark(store->o.sys, store->disk_fd, store->super.uuid);
        bmp_store_set_map(store, NULL);
        store->o.sys->close(store->fd);
        store->fd = -1;
        store->super = (BmpSuper){ .disk_size = store->super.disk_size };
        store->last_epoch = 0;
    }
    bmp_store_forget_failure(store);
    store->set->touched = false;
    return true;
}

static bool publish_alone(Part *part, GError **error)
{
    BmpStore *store = part->store;
    unsigned first = store->stale_copy;
    int ret;

    if (part->create)
        return publish_new(part, error) == 0;
    ret = write_copy(part, first, &part->next);
    if (ret == 0)
        ret = write_copy(part, !first, &part->next);
    if (ret == 0)
        return true;
    undo_supers(part, -ret);
    return tm_error_set_errno(error, -ret, "Could not write bitmap store '%s'", store->path);
}

/* A store without bitmaps is removed; before that it says that it has none, as its name may come
 * back. Where there is no room for that, the removal alone has to do. */
static bool commit_part(Part *part, GError **error)
{
    g_autoptr(GError) why = NULL;
    BmpJournal *map = NULL;
    int err = 0;

    if (!prepare(part, &why) && !part->vanish) {
        g_propagate_error(error, g_steal_pointer(&why));
        return false;
    }
    if (part->vanish && part->fd < 0)
        return vanish(part, error);
    if (part->open_map)
        map = open_map(part, &err);
    if (err == 0 && publish_alone(part, error)) {
        settle(part, map);
        if (part->vanish)
            vanish(part, NULL);
        return true;
    }
    bmp_journal_close(map);
    if (err)
        tm_error_set_errno(error, -err, "Could not map bitmap store '%s'", part->store->path);
    discard(part);
    return false;
}

bool bmp_store_commit(BmpStore *store, BmpStoreState state, GError **error)
{
    Part part = { .store = store, .state = state };
    bool ok;

    TM_GUARD(&store->ticking);
    if (!flush_disk(store, error))
        return false;
    if (store->resting) /* the disk is not ours now */
        part.state = BMP_STORE_CLOSED;
    collect(&part);
    ok = commit_part(&part, error);
    part_clear(&part);
    return ok;
}

bool bmp_store_write_new(BmpStore *store, const BmpRecord *records, size_t n, BmpStoreState state,
                         GError **error)
{
    Part part = { .store = store, .state = state, .n = n };
    bool ok;

    part.records = (BmpRecord *)records;
    ok = commit_part(&part, error);
    return ok;
}

/* ---- several stores */

/* One copy of each says what will be, if the leader says so. */
static bool publish_pending(Part *part, GError **error)
{
    BmpStore *store = part->store;
    int ret;

    part->next.group_pending = 1;
    if (part->create)
        return publish_new(part, error) == 0;
    ret = write_copy(part, store->stale_copy, &part->next);
    if (ret == 0)
        return true;
    return tm_error_set_errno(error, -ret, "Could not write bitmap store '%s'", store->path);
}

/* The state of before, where the new one was pending. Followers ask the leader as long as they are:
 * it says no first, and goes when nobody does any more. */
static void take_back(Part *parts, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (parts[i].create)
            unsay(&parts[i]);
        else
            undo_supers(&parts[i], EIO);
    }
    for (size_t i = 0; i < n; i++)
        discard(&parts[i]);
}

/* After the decision: what fails now leaves a store that finds out from the leader. Whether it need
 * not. */
static bool complete(Part *part, BmpJournal *map, unsigned copies)
{
    BmpStore *store = part->store;
    unsigned stale = part->create ? 0 : store->stale_copy;
    int ret = 0;

    not_pending(&part->next);
    if (copies > 1)
        ret = write_copy(part, !stale, &part->next);
    if (ret == 0)
        ret = write_copy(part, stale, &part->next);
    settle(part, map);
    if (ret < 0)
        bmp_store_fail(store, -ret, "its superblock could not be written");
    else if (part->vanish)
        vanish(part, NULL);
    return ret == 0;
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

static void forget(BmpSuper *leader, const uint8_t group[16])
{
    unsigned kept = 0;

    for (unsigned i = 0; i < BMP_GROUPS_MAX; i++) {
        if (memcmp(leader->decided[i], group, 16))
            memmove(leader->decided[kept++], leader->decided[i], 16);
    }
    memset(leader->decided[kept], 0, (BMP_GROUPS_MAX - kept) * 16);
}

static bool decide(Part *leader, GError **error)
{
    unsigned stale = leader->create ? 0 : leader->store->stale_copy;
    uint8_t group[16];
    int ret;

    memcpy(group, leader->next.group, sizeof(group));
    not_pending(&leader->next);
    remember(&leader->next, group);
    ret = write_copy(leader, !stale, &leader->next);
    if (ret == 0)
        return true;
    return tm_error_set_errno(error, -ret, "Could not write bitmap store '%s'",
                              leader->store->path);
}

/* Everything that may fail, up to the decision. */
static bool publish_group(Part *parts, BmpJournal **maps, size_t n, const uint8_t group[16],
                          GError **error)
{
    int err = 0;

    for (size_t i = 0; i < n; i++) {
        memcpy(parts[i].next.group, group, 16);
        if (i)
            memcpy(parts[i].next.leader, parts[0].next.uuid, 16);
        if (parts[i].open_map)
            maps[i] = open_map(&parts[i], &err);
        if (err)
            return tm_error_set_errno(error, -err, "Could not map bitmap store '%s'",
                                      parts[i].store->path);
    }
    for (size_t i = 0; i < n; i++) {
        if (!publish_pending(&parts[i], error))
            return false;
    }
    return decide(&parts[0], error);
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

static bool commit_group(BmpStore **stores, size_t n, GError **error)
{
    g_autofree Part *parts = g_new0(Part, n);
    g_autofree BmpJournal **maps = g_new0(BmpJournal *, n);
    size_t prepared = 0;
    uint8_t group[16];
    bool ok, done = true;

    random_bytes(group);
    for (size_t i = 0; i < n; i++) {
        if (!flush_disk(stores[i], error))
            return false;
    }
    for (size_t i = 0; i < n; i++) {
        pthread_mutex_lock(&stores[i]->ticking);
        parts[i] = (Part){ .store = stores[i], .state = BMP_STORE_OPEN, .grouped = true, .fd = -1 };
        parts[i].leader = i ? stores[0]->path : NULL;
        collect(&parts[i]);
    }
    ok = all_well(stores, n, error);
    while (ok && prepared < n)
        ok = prepare(&parts[prepared], error) && ++prepared;
    ok = ok && publish_group(parts, maps, n, group, error);
    if (!ok)
        take_back(parts, prepared);
    /* Followers ask the leader as long as they are pending: it is the last to move on. */
    for (size_t k = 0; k < n; k++) {
        size_t i = (k + 1) % n;

        if (ok)
            done = complete(&parts[i], g_steal_pointer(&maps[i]), i ? 2 : 1) && done;
        bmp_journal_close(maps[i]);
        part_clear(&parts[i]);
        pthread_mutex_unlock(&stores[i]->ticking);
    }
    if (ok && done) /* with the leader's next commit: nobody will ask */
        forget(&stores[0]->super, group);
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
    bmp_store_forget_failure(set->store);
    return false;
}

bool bmp_set_commit(BmpSet *const *sets, size_t n, GError **error)
{
    g_autofree BmpStore **stores = g_new(BmpStore *, n + 1);
    size_t count = 0;

    for (size_t i = 0; i < n; i++) {
        g_assert(sets[i]->changing);
        if (sets[i]->store)
            bmp_store_look(sets[i]->store);
        if (takes_part(sets[i]))
            stores[count++] = sets[i]->store;
        else if (bmp_set_wants_commit(sets[i])) /* healing; if it does not work, another time */
            bmp_store_commit(sets[i]->store, BMP_STORE_OPEN, NULL);
    }
    if (count > 1)
        return commit_group(stores, count, error);
    return !count || bmp_store_commit(stores[0], BMP_STORE_OPEN, error);
}
