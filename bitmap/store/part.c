/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* bitmap/store/part.c: one store's part in a commit: what is to be written, writing it, and taking
 * it back. The order of things, and why, is commit.c's. */
#include "bitmap/store/part_internal.h"

#include "util/error.h"
#include "util/range.h"
#include "util/sync.h"
#include "util/together.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

/* ---- what is to be written */

void bmp_part_collect(BmpPart *part)
{
    BmpSet *set = part->store->set;
    guint n = set->bitmaps->len;

    bmp_set_fold_all(set);
    part->records = g_new0(BmpRecord, n + 1);
    for (guint i = 0; i < n; i++) {
        BmpBitmap *bitmap = set->bitmaps->pdata[i];

        if (bitmap->persistent)
            bmp_bitmap_save(bitmap, &part->records[part->n++]);
    }
}

/* The finest granules among those that record; 0: none does. */
static unsigned finest(const BmpPart *part)
{
    unsigned shift = 0;

    for (size_t i = 0; i < part->n; i++) {
        const BmpRecord *record = &part->records[i];

        if (record->enabled && !record->inconsistent && (!shift || record->shift < shift))
            shift = record->shift;
    }
    return shift;
}

static bool same_journal(const BmpPart *part)
{
    const BmpSuper *old = &part->store->super;
    BmpGeometry now;

    return !part->create && old->journal_shift && part->store->journal_sound &&
           bmp_geometry_of(&now, old) && now.size == part->geometry.size &&
           now.journal_shift == part->geometry.journal_shift &&
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

static void place(BmpPart *part, uint64_t catalogue_length)
{
    const BmpSuper *old = &part->store->super;
    BmpSuper *next = &part->next;
    const BmpSuper *named[] = { old, &part->store->other };
    uint64_t extents[2 * G_N_ELEMENTS(named) + 1][2] = { { 0 } };

    for (size_t i = 0; i < G_N_ELEMENTS(named) && !part->create; i++) {
        extents[2 * i][0] = named[i]->journal_offset, extents[2 * i][1] = named[i]->journal_length;
        extents[2 * i + 1][0] = named[i]->catalogue_offset;
        extents[2 * i + 1][1] = named[i]->catalogue_length;
    }
    if (!part->geometry.journal_shift) {
        next->journal_offset = next->journal_length = 0;
    } else if (part->new_journal) {
        next->journal_length = part->geometry.length;
        next->journal_offset = find_room(extents, 4, next->journal_length);
    }
    if (part->new_catalogue) {
        extents[4][0] = next->journal_offset, extents[4][1] = next->journal_length;
        next->catalogue_length = catalogue_length;
        next->catalogue_offset = find_room(extents, 5, catalogue_length);
    }
}

void bmp_part_not_pending(BmpSuper *super)
{
    super->group_pending = 0;
    memset(super->group, 0, sizeof(super->group));
    memset(super->leader, 0, sizeof(super->leader));
}

static void fill_super(BmpPart *part)
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
    bmp_part_not_pending(next);
    next->disk_size = store->set ? store->set->size : store->super.disk_size;
    next->state = part->state;
    next->durability = store->o.durability;
    next->journal_shift = part->geometry.journal_shift;
    next->region_shift = part->geometry.region_shift;
    next->journal_epoch = next->journal_shift ? store->last_epoch + 1 : 0;
    memcpy(next->boot_id, store->o.boot_id, sizeof(next->boot_id));
    next->store_dev = next->store_ino = 0;
    if (!store->mirror && store->o.sys->fstat(part->fd, &st) == 0) {
        next->store_dev = st.st_dev;
        next->store_ino = st.st_ino;
    }
    g_strlcpy(next->layer, store->layer, sizeof(next->layer));
}

void bmp_part_random_bytes(uint8_t bytes[16])
{
    if (getrandom(bytes, 16, 0) != 16) {
        for (unsigned i = 0; i < 16; i++)
            bytes[i] = (uint8_t)g_random_int();
    }
}

/* ---- the first phase: the new state is on the medium, and nothing names it */

/* The kernel drops what a sync could not write and reports it once: no later one is to be
 * believed. */
static void note_sync(BmpPart *part, int ret)
{
    part->lost |= ret < 0 && !part->create;
}

static int sync_part(BmpPart *part)
{
    uint64_t began = tm_now_ns();
    int ret = bmp_store_sync(part->store, part->fd);

    bmp_store_count_sync(&part->store->counts, began, ret);
    note_sync(part, ret);
    return ret;
}

static int write_content(BmpPart *part, const GByteArray *catalogue)
{
    const BmpStore *store = part->store;
    const BmpSuper *next = &part->next;
    int ret = 0;

    if (store->mirror && MAX(next->catalogue_offset + next->catalogue_length,
                             next->journal_offset + next->journal_length) > TIDEMARK_STORE_MAX)
        return -EFBIG;
    if (part->new_catalogue)
        ret = bmp_store_write(store, part->fd, catalogue->data, catalogue->len,
                              next->catalogue_offset);
    if (ret == 0 && part->new_journal)
        ret = bmp_journal_create(store->o.sys, part->fd, next->journal_offset, &part->geometry,
                                 bmp_entry_seed(next->uuid));
    if (store->mirror && part->new_journal)
        bmp_mirror_note(store->mirror, part->fd, next->journal_offset, next->journal_length);
    part->unsynced = ret == 0 && (part->new_catalogue || part->new_journal);
    return ret;
}

/* The new journal is ready before there is no way back. */
BmpJournal *bmp_part_open_journal(BmpPart *part, int *err)
{
    BmpStore *store = part->store;
    BmpJournalOptions options = {
        .sys = store->o.sys,
        .mirror = store->mirror,
        .fd = part->fd,
        .geometry = part->geometry,
        .offset = part->next.journal_offset,
        .seed = bmp_entry_seed(part->next.uuid),
        .epoch = part->next.journal_epoch,
        .durability = store->o.durability,
        .counts = &store->counts,
    };

    return bmp_journal_open(&options, err);
}

static bool prepare_file(BmpPart *part, GError **error)
{
    BmpStore *store = part->store;
    struct stat st;

    if (store->barred && part->create)
        return tm_error_set(
            error, "'%s' exists and is not a bitmap store of this disk: move it away", store->path);
    if (part->create)
        return bmp_store_create(store, &part->fd, error);
    part->fd = store->fd;
    part->old_size = store->o.sys->fstat(part->fd, &st) == 0 ? (uint64_t)st.st_size : 0;
    return true;
}

/* A file that has its name says what was not to be; should the name come back, nobody believes it.
 * Of a group, it is pending for good, and there is nothing before: first over what a leader may
 * have decided with, and no step before the one that it rests on. Whether that is on the medium. */
bool bmp_part_unsay(BmpPart *part)
{
    const BmpStore *store = part->store;
    const uint8_t nothing[BMP_SUPER_SIZE] = { 0 };
    BmpSuper super = part->next;
    int ret;

    if (!part->published || part->unsaid)
        return true;
    if (store->mirror) /* a keeper takes it as a whole only */
        return false;
    super.generation++;
    if (part->grouped) {
        super.group_pending = 1;
        memset(super.leader, 0, sizeof(super.leader));
        memset(super.decided, 0, sizeof(super.decided));
        ret = bmp_store_write(store, part->fd, nothing, sizeof(nothing), BMP_STORE_ALIGN);
    } else {
        super.state = BMP_STORE_DISTRUSTED;
        ret = bmp_store_write_super(store, part->fd, 1, &super);
    }
    if (ret == 0)
        ret = bmp_store_sync(store, part->fd);
    if (ret == 0)
        ret = bmp_store_write_super(store, part->fd, 0, &super);
    if (ret == 0)
        ret = bmp_store_sync(store, part->fd);
    part->unsaid = ret == 0;
    return part->unsaid;
}

/* Takes back what was written. */
void bmp_part_discard(BmpPart *part)
{
    BmpStore *store = part->store;

    if (part->create) {
        g_autofree char *name = g_strconcat(store->path, ".tmp", NULL);
        bool said = bmp_part_unsay(part), gone = true;

        /* Where it did not get the name, that is another one's. */
        if (part->published && bmp_store_is_named(store, part->fd))
            gone = bmp_store_remove(store, NULL);
        else if (part->fd >= 0 && !store->mirror)
            store->o.sys->unlink(name);
        store->replace |= !gone; /* what is left there is ours, and says nothing */
        if (!gone && !said)      /* the disk will not know it */
            memset(store->super.uuid, 0, sizeof(store->super.uuid));
        if (!gone && !said && store->mirror) /* it may be there, and be believed */
            bmp_mirror_abandon(store->mirror);
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

/* Whether the journal has something that a new epoch would drop. */
static bool marked_since(BmpSet *set)
{
    BmpJournal *journal = __atomic_load_n(&set->journal, __ATOMIC_RELAXED);

    return journal && !bmp_journal_untouched(journal);
}

/* The new state, in a place that nothing names. */
static bool write_new_state(BmpPart *part, GError **error)
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

bool bmp_part_prepare(BmpPart *part, GError **error)
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
        bmp_part_random_bytes(part->next.uuid);
    if (shift && store->set)
        bmp_geometry_choose(&part->geometry, size, shift,
                            store->o.region_shift_min ? store->o.region_shift_min
                                                      : BMP_REGION_SHIFT_MIN);
    part->new_journal = shift && store->set && !same_journal(part);
    part->open_journal =
        part->new_journal ||
        (shift && store->set && !__atomic_load_n(&store->set->journal, __ATOMIC_RELAXED));
    part->new_catalogue = part->create || !store->catalogue_good || part->grouped || store->note ||
                          (store->set && (store->set->touched || marked_since(store->set)));
    if (!prepare_file(part, error))
        return false;
    if (write_new_state(part, error))
        return true;
    bmp_part_discard(part);
    return false;
}

bool bmp_parts_sync(BmpPart *parts, size_t n, GError **error)
{
    g_autofree int *fds = g_new(int, n), *results = g_new0(int, n);
    uint64_t began = tm_now_ns();
    bool ok = true;

    for (size_t i = 0; i < n; i++)
        fds[i] = parts[i].unsynced && !parts[i].store->mirror ? parts[i].fd : -1;
    tm_fdatasync_all(parts[0].store->o.sys, fds, results, n);
    for (size_t i = 0; i < n; i++) {
        if (parts[i].unsynced && parts[i].store->mirror)
            results[i] = bmp_mirror_sync(parts[i].store->mirror, parts[i].fd);
    }
    for (size_t i = 0; i < n; i++) {
        if (parts[i].unsynced)
            bmp_store_count_sync(&parts[i].store->counts, began, results[i]);
        parts[i].unsynced = false;
        parts[i].synced = results[i];
        note_sync(&parts[i], results[i]);
        if (ok && results[i] < 0)
            ok = tm_error_set_errno(error, -results[i], "Could not write bitmap store '%s'",
                                    parts[i].store->path);
    }
    return ok;
}

/* ---- the second phase: superblocks */

int bmp_part_put_copy(BmpPart *part, unsigned copy, const BmpSuper *super)
{
    int ret = bmp_store_write_super(part->store, part->fd, copy, super);

    part->unsynced |= ret == 0;
    return ret;
}

int bmp_part_write_copy(BmpPart *part, unsigned copy, const BmpSuper *super)
{
    int ret = bmp_store_write_super(part->store, part->fd, copy, super);

    return ret < 0 ? ret : sync_part(part);
}

/* A keeper takes both at one instant: it has the new state or the old one, and nothing between that
 * a host could be lost with. */
int bmp_part_write_copies(BmpPart *part, unsigned first, const BmpSuper *super)
{
    int ret;

    if (!part->store->mirror) {
        ret = bmp_part_write_copy(part, first, super);
        return ret < 0 ? ret : bmp_part_write_copy(part, !first, super);
    }
    ret = bmp_store_write_super(part->store, part->fd, first, super);
    return ret < 0 ? ret : bmp_part_write_copy(part, !first, super);
}

/* Says again, louder, what was in force. */
static bool abort_supers(BmpPart *part)
{
    BmpStore *store = part->store;
    BmpSuper old = store->super;

    old.generation = part->next.generation + 1;
    /* First over what a leader may have decided with: nobody must read that any more. */
    if (bmp_part_write_copy(part, !store->stale_copy, &old) < 0 ||
        bmp_part_write_copy(part, store->stale_copy, &old) < 0)
        return false;
    store->super = old;
    return true;
}

void bmp_part_undo_supers(BmpPart *part, int err)
{
    if (!part->create && part->fd >= 0 && (part->lost || !abort_supers(part)))
        bmp_store_fail(part->store, err, "its superblock could not be written");
}

/* What lies at the path may have come there after the store was deleted or moved away. */
static bool ours_to_replace(const BmpStore *store)
{
    return store->replace || store->mirror ||
           (store->fd >= 0 && bmp_store_is_named(store, store->fd));
}

int bmp_part_publish_new(BmpPart *part, GError **error)
{
    const TmSys *sys = part->store->o.sys;
    BmpSuper *next = &part->next;
    int ret = bmp_store_write_super(part->store, part->fd, 0, next);

    if (ret == 0 && !next->group_pending)
        ret = bmp_store_write_super(part->store, part->fd, 1, next);
    if (ret == 0)
        ret = part->store->mirror ? 0 : tm_fsync(sys, part->fd);
    if (ret < 0) {
        tm_error_set_errno(error, -ret, "Could not write bitmap store '%s'", part->store->path);
        return ret;
    }
    if (!ours_to_replace(part->store) && !bmp_store_file_absent(sys, part->store->path, error))
        return -EEXIST;
    part->published = true;
    return bmp_store_publish(part->store, part->fd, error) ? 0 : -EIO;
}

/* The new state is in force, on the medium and here. */
void bmp_part_settle(BmpPart *part, BmpJournal *journal)
{
    BmpStore *store = part->store;
    BmpSuper *next = &part->next;
    uint64_t end = MAX(next->journal_offset + next->journal_length,
                       next->catalogue_offset + next->catalogue_length);
    struct stat st;

    if (part->create && store->fd >= 0)
        store->o.sys->close(store->fd);
    store->fd = part->fd;
    store->super = *next;
    store->other = (BmpSuper){ 0 };
    store->stale_copy = 0;
    store->catalogue_good = true;
    store->doubted = false;
    bmp_note_clear(store);
    store->replace = false;
    store->keep_empty = store->keep_empty && !part->n;
    store->journal_sound = true;
    if (next->journal_epoch)
        store->last_epoch = next->journal_epoch;
    if (store->set) {
        BmpJournal *old = __atomic_load_n(&store->set->journal, __ATOMIC_RELAXED);

        if (part->open_journal || !next->journal_shift)
            bmp_store_set_journal(store, journal);
        else if (old)
            bmp_journal_restart(old, next->journal_epoch);
        store->set->touched = false;
    }
    if (!part->create && store->o.sys->fstat(store->fd, &st) == 0 && (uint64_t)st.st_size > end &&
        store->o.sys->ftruncate(store->fd, (off_t)end) < 0)
        return; /* it is only longer than need be */
    bool full = __atomic_exchange_n(&store->full_reported, false, __ATOMIC_RELAXED);
    if ((part->create && bmp_store_clear_failure(store)) || full)
        bmp_store_report(store, &(BmpReport){ .healed = true, .reason = "stored again" });
}

void bmp_part_clear(BmpPart *part)
{
    for (size_t i = 0; i < part->n; i++)
        bmp_record_clear(&part->records[i]);
    g_free(part->records);
}
