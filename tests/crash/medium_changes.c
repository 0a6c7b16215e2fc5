/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/crash/medium_changes.c: what was changed since the last sync, and what a sync makes of
 * it. */
#include "tests/crash/medium_calls.h"

#include <string.h>

/* ---- changes -------------------------------------------------------------------------------- */

static Change *change_add(Medium *m, ChangeKind kind, int inode)
{
    guint n = m->changes->len;
    Change *change;

    g_array_set_size(m->changes, n + 1);
    change = &g_array_index(m->changes, Change, n);
    change->kind = kind;
    change->lost = change->mapped = false;
    change->event = m->event;
    change->inode = inode;
    change->sector = 0;
    change->from = -1;
    change->value = 0;
    return change;
}

static void changed_sector(Medium *m, int n, uint32_t sector, bool mapped)
{
    Inode *inode = &m->inodes[n];
    Change *change = change_add(m, CHANGE_SECTOR, n);

    change->sector = sector;
    change->mapped = mapped;
    memcpy(change->bytes, inode->now.data + sector * SECTOR, SECTOR);
    memcpy(inode->seen + sector * SECTOR, change->bytes, SECTOR);
    inode->seen_high = MAX(inode->seen_high, (sector + 1) * SECTOR);
}

/* Notices what changed since the last look. @mapped: through mappings. */
void medium_absorb(Medium *m, bool mapped)
{
    if (!m->recording)
        return;
    for (unsigned n = 0; n < MEDIUM_INODES; n++) {
        Inode *inode = &m->inodes[n];
        size_t end;

        if (!inode->used || inode->disk || !inode->now.data)
            continue;
        if (!inode->seen)
            inode->seen = g_malloc0(MEDIUM_FILE_MAX);
        /* Pages of a mapping are whole, the file's last one too. */
        end = MAX(inode->now.size, inode->now.high);
        end = (MAX(end, inode->seen_high) + MEDIUM_PAGE - 1) / MEDIUM_PAGE * MEDIUM_PAGE;
        inode->seen_high = end;
        for (size_t page = 0; page < end; page += MEDIUM_PAGE) {
            if (!memcmp(inode->now.data + page, inode->seen + page, MEDIUM_PAGE))
                continue;
            if (mapped && !inode->now.allocated[page / MEDIUM_PAGE])
                medium_broken(m, "M4: a hole of the file was touched through the mapping, at %zu",
                              page);
            for (size_t at = page; at < page + MEDIUM_PAGE; at += SECTOR) {
                if (memcmp(inode->now.data + at, inode->seen + at, SECTOR)) {
                    inode->now.high = MAX(inode->now.high, at + SECTOR);
                    changed_sector(m, n, at / SECTOR, mapped);
                }
            }
        }
    }
}

/* [from, to) was written by a call: also where that changed nothing, a sync has to write it. */
void medium_wrote(Medium *m, int n, uint64_t from, uint64_t to)
{
    Inode *inode = &m->inodes[n];

    if (!m->recording || inode->disk || from == to)
        return;
    if (!inode->seen)
        inode->seen = g_malloc0(MEDIUM_FILE_MAX);
    for (uint64_t sector = from / SECTOR; sector <= (to - 1) / SECTOR; sector++)
        changed_sector(m, n, sector, false);
}

void medium_changed_length(Medium *m, int n)
{
    if (m->recording)
        change_add(m, CHANGE_LENGTH, n)->value = m->inodes[n].now.size;
}

void medium_changed_xattr(Medium *m, int n)
{
    const Image *image = &m->inodes[n].now;
    Change *change;

    if (!m->recording)
        return;
    change = change_add(m, CHANGE_XATTR, n);
    change->value = image->xattr + 1;
    memcpy(change->bytes, image->xattr_value, MEDIUM_XATTR_MAX);
}

void medium_changed_entry(Medium *m, int name, int from)
{
    Change *change;

    if (!m->recording)
        return;
    change = change_add(m, CHANGE_ENTRY, m->entry[name]);
    change->sector = name;
    change->from = from;
}

/* The first and the last time since the last sync will do. */
void medium_changed_mtime(Medium *m, int n)
{
    Change *last = NULL;
    unsigned have = 0;

    m->inodes[n].now.mtime = m->clock += 1000003;
    if (!m->recording)
        return;
    for (guint i = 0; i < m->changes->len; i++) {
        Change *change = &g_array_index(m->changes, Change, i);

        if (change->kind == CHANGE_MTIME && change->inode == n) {
            last = change;
            have++;
        }
    }
    if (have < 2)
        last = change_add(m, CHANGE_MTIME, n);
    last->value = m->inodes[n].now.mtime;
    last->lost = false;
}

bool medium_disk_lost(Medium *m, unsigned n)
{
    int disk = medium_disk(m, n);

    for (guint i = 0; i < m->changes->len; i++) {
        const Change *change = &g_array_index(m->changes, Change, i);

        if (change->lost && change->kind != CHANGE_ENTRY && change->inode == disk)
            return true;
    }
    return false;
}

void medium_disk_written(Medium *m, unsigned n)
{
    medium_changed_mtime(m, medium_disk(m, n));
}

void medium_disk_resize(Medium *m, unsigned n, uint64_t size)
{
    int disk = medium_disk(m, n);

    m->inodes[disk].now.size = size;
    medium_changed_length(m, disk);
    medium_changed_mtime(m, disk);
    medium_observe(m, "resize of the disk");
}

/* ---- syncs ---------------------------------------------------------------------------------- */

void change_apply(const Change *change, Image *image, int *entries)
{
    switch (change->kind) {
    case CHANGE_SECTOR:
        memcpy(image_touch(image, change->sector * SECTOR, (change->sector + 1) * SECTOR),
               change->bytes, SECTOR);
        image_allocate(image, change->sector * SECTOR, (change->sector + 1) * SECTOR);
        break;
    case CHANGE_LENGTH:
        image_set_size(image, change->value);
        break;
    case CHANGE_ENTRY:
        if (change->from >= 0)
            entries[change->from] = -1;
        entries[change->sector] = change->inode;
        break;
    case CHANGE_XATTR:
        image->xattr = (int)change->value - 1;
        memcpy(image->xattr_value, change->bytes, MEDIUM_XATTR_MAX);
        break;
    case CHANGE_MTIME:
        image->mtime = change->value;
        break;
    }
}

static bool same_thing(const Change *a, const Change *b)
{
    if (a->kind != b->kind || (a->kind != CHANGE_ENTRY && a->inode != b->inode))
        return false;
    return (a->kind != CHANGE_SECTOR && a->kind != CHANGE_ENTRY) || a->sector == b->sector;
}

/* Whether a sync of @n (-2: the directory) writes that kind of change. */
static bool sync_covers(const Change *change, int n, bool all)
{
    if (n == -2 || change->kind == CHANGE_ENTRY)
        return n == -2 && change->kind == CHANGE_ENTRY;
    if (change->inode != n)
        return false;
    return all || change->kind == CHANGE_SECTOR || change->kind == CHANGE_LENGTH;
}

void medium_sync_failed(Medium *m, int n, bool all)
{
    for (guint i = 0; i < m->changes->len; i++) {
        Change *change = &g_array_index(m->changes, Change, i);

        if (sync_covers(change, n, all))
            change->lost = true;
    }
}

/* A change is on the medium now, with those of the same thing before it; one that was lost only if
 * a later one of the same was not. */
void medium_synced(Medium *m, int n, bool all)
{
    GArray *changes = m->changes, *left = g_array_new(false, false, sizeof(Change));
    g_autofree bool *done = g_new0(bool, changes->len + 1);

    for (guint i = 0; i < changes->len; i++) {
        Change *change = &g_array_index(changes, Change, i);

        done[i] = sync_covers(change, n, all);
        for (guint later = i; done[i] && change->lost; later++) {
            if (later == changes->len)
                done[i] = false;
            else if (same_thing(change, &g_array_index(changes, Change, later)) &&
                     !g_array_index(changes, Change, later).lost)
                break;
        }
    }
    for (guint i = 0; i < changes->len; i++) {
        Change *change = &g_array_index(changes, Change, i);

        if (!done[i])
            g_array_append_val(left, *change);
        else
            change_apply(change, n < 0 ? NULL : &m->inodes[n].base, m->base_entry);
    }
    if (n >= 0) {
        Image *base = &m->inodes[n].base;

        image_set_size(base, base->size);
        for (unsigned page = 0;
             page < (base->size + MEDIUM_PAGE - 1) / MEDIUM_PAGE && !m->inodes[n].disk; page++)
            base->allocated[page] |= m->inodes[n].now.allocated[page];
    }
    g_array_unref(changes);
    m->changes = left;
}

/* ---- states */

void medium_choose(const Medium *m, Rng *rng, uint8_t *kept, uint64_t state)
{
    guint n = m->changes->len, pick = n ? (guint)rng_below(rng, n) : 0;
    const Change *changes = (const Change *)(void *)m->changes->data;
    uint64_t kind = state < 2 ? state : 2 + rng_below(rng, 6);

    for (guint i = 0; i < n; i++) {
        bool call = changes[i].event == m->event;

        kept[i] = kind == 0   ? 1
                  : kind == 1 ? 0
                  : kind == 2 ? i < pick
                  : kind == 3 ? i > pick
                  : kind == 4 ? i != pick
                  : kind == 5 ? (call ? rng_chance(rng, 2) : 1)
                  : kind == 6 ? !rng_chance(rng, 5)
                              : rng_chance(rng, 2);
    }
}
