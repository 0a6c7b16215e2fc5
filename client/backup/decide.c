/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/backup/decide.c: see decide.h. */
#include "client/backup/decide.h"
#include "client/json.h"
#include "client/repository/images.h"
#include "client/repository/last.h"
#include "client/repository/verified.h"
#include <string.h>
#include <unistd.h>

enum { TAG_DIGITS = 8, CHAIN_MAX = 200 };

/* In the names of all checkpoints of the repository, and its copies. Returned. */
static char *mark(const TcRepository *repo)
{
    return g_strdup_printf("@%.*s-", TAG_DIGITS, tc_repo_id(repo));
}

char *tc_backup_checkpoint(const TcRepository *repo, const char *point)
{
    g_autofree char *own = mark(repo), *place = tc_repo_place(repo);

    return g_strdup_printf("%s%s%s%08x", point, own, place, g_random_int());
}

static bool is_own(const TcRepository *repo, const char *checkpoint)
{
    g_autofree char *own = mark(repo);

    return strstr(checkpoint, own) != NULL;
}

/* Else it may be what a copy of the repository goes on with. */
static bool is_made_here(const TcRepository *repo, const char *checkpoint)
{
    g_autofree char *own = mark(repo), *place = tc_repo_place(repo);
    g_autofree char *here = g_strconcat(own, place, NULL);

    return strstr(checkpoint, here) != NULL;
}

/* The checkpoint that the source made for this disk of the point; NULL: none of ours, or one that
 * does not say which disk it is of. */
static const char *checkpoint_of(const TcRepository *repo, const TcManifest *point,
                                 const TcPointDisk *entry)
{
    const char *name = tc_json_string(entry->source, "checkpoint");

    for (unsigned i = 0; name && i < point->disks->len; i++) {
        const TcPointDisk *other = point->disks->pdata[i];

        if (other != entry && !g_strcmp0(tc_json_string(other->source, "checkpoint"), name))
            return NULL;
    }
    return name && is_own(repo, name) ? name : NULL;
}

bool tc_backup_is_stale(const TcRepository *repo, const char *checkpoint)
{
    const GPtrArray *points = tc_repo_points(repo);

    if (!is_made_here(repo, checkpoint))
        return false;
    for (unsigned i = 0; i < points->len; i++) {
        TcManifest *point = points->pdata[i];

        for (unsigned j = 0; j < point->disks->len; j++) {
            const TcPointDisk *entry = point->disks->pdata[j];

            if (!g_strcmp0(checkpoint_of(repo, point, entry), checkpoint) &&
                tc_repo_newest(repo, entry->name) == point)
                return false;
        }
    }
    return true;
}

/* Why nothing can stand on @point; NULL: it can. Returned. */
static char *chain_trouble(const TcRepository *repo, const TcManifest *point, const char *name)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) chain = tc_repo_chain(repo, point, name, &error);

    if (!chain)
        return g_strdup(error->message);
    if (chain->len >= CHAIN_MAX)
        return g_strdup_printf("the chain of point '%s' has %u images", point->point, chain->len);
    for (unsigned i = 0; i < chain->len; i++) {
        const TcManifest *below = chain->pdata[i];
        g_autofree char *file = tc_repo_file(repo, below->point, name, "qcow2");
        g_autofree char *hashes = tc_repo_file(repo, below->point, name, "hashes");
        g_auto(TcVerified) verified = { 0 };

        if (!tc_repo_is_readable(repo, file) || !tc_repo_is_readable(repo, hashes))
            return g_strdup_printf("point '%s' of its chain lacks a file of it", below->point);
        if (tc_verified_read(repo, below, &verified) && !verified.whole)
            return g_strdup_printf("'tidemark verify' has found damage in point '%s' of its chain",
                                   below->point);
    }
    return NULL;
}

/* Why @disk can't have an increment that stands on @point. Returned. */
static char *parent_trouble(const TcRepository *repo, const TcManifest *point,
                            const TcBackupDisk *disk)
{
    const TcPointDisk *entry = tc_manifest_disk(point, disk->name);

    if (entry->size != disk->size)
        return g_strdup_printf("its size has changed from %" PRIu64 " to %" PRIu64
                               " bytes since point '%s'",
                               entry->size, disk->size, point->point);
    return chain_trouble(repo, point, disk->name);
}

/* ---- on which point */

static void free_hashes(gpointer p)
{
    tc_hashes_free(p);
}

/* The hashes of the disk of @point and of those that it stands on, above @base. NULL: @base is not
 * in its chain, or they can't be read. Returned. */
static GPtrArray *hashes_above(const TcRepository *repo, const TcManifest *base,
                               const TcManifest *point, const char *disk)
{
    g_autoptr(GPtrArray) chain = point == base ? NULL : tc_repo_chain(repo, point, disk, NULL);
    g_autoptr(GPtrArray) all = g_ptr_array_new_with_free_func(free_hashes);
    unsigned n = 0;

    if (point != base && (!chain || !g_ptr_array_find(chain, base, &n)))
        return NULL;
    for (unsigned i = 0; i < n; i++) {
        const TcManifest *m = chain->pdata[i];
        const TcPointDisk *entry = tc_manifest_disk(m, disk);
        TcHashes *hashes;

        hashes = tc_repo_open_hashes(repo, m->point, entry, NULL);
        if (!hashes)
            return NULL;
        g_ptr_array_add(all, hashes);
    }
    return g_steal_pointer(&all);
}

/* The newest point on @base, or that itself, that can be stood on; NULL and the reason: none. */
static const TcManifest *newest_above(const TcRepository *repo, const TcManifest *base,
                                      const TcBackupDisk *disk, TcDecision *decision)
{
    const GPtrArray *points = tc_repo_points(repo);

    for (unsigned i = points->len; i--;) {
        const TcManifest *point = points->pdata[i];
        g_autoptr(GPtrArray) again = NULL;

        if (!tc_manifest_disk(point, disk->name))
            continue;
        again = hashes_above(repo, base, point, disk->name);
        if (!again)
            continue;
        g_free(decision->why);
        decision->why = parent_trouble(repo, point, disk);
        if (!decision->why) {
            decision->again = g_steal_pointer(&again);
            return point;
        }
    }
    return NULL;
}

/* On the newest point of the disk whose checkpoint can be used, or NULL and the reason. */
static const TcManifest *find_parent(const TcRepository *repo, const TcBackupSource *source,
                                     TcBackupDisk *disk, TcDecision *decision)
{
    char **why = &decision->why;
    const GPtrArray *points = tc_repo_points(repo);

    for (unsigned i = points->len; i--;) {
        const TcManifest *point = points->pdata[i];
        const TcPointDisk *entry = tc_manifest_disk(point, disk->name);
        const TcCheckpoint *checkpoint;
        const char *name;

        if (!entry)
            continue;
        name = checkpoint_of(repo, point, entry);
        checkpoint = name ? tc_backup_disk_checkpoint(disk, name) : NULL;
        if (checkpoint && !checkpoint->why) {
            const TcManifest *parent = newest_above(repo, point, disk, decision);

            disk->from = parent ? g_strdup(name) : NULL;
            return parent;
        }
        if (!*why && checkpoint)
            *why = g_strdup(checkpoint->why);
        else if (!*why)
            *why = g_strdup_printf("%s has no checkpoint of point '%s'%s%s%s", source->what,
                                   point->point, source->lost ? " (" : "",
                                   source->lost ? source->lost : "", source->lost ? ")" : "");
    }
    return NULL;
}

/* Why it is not known that the source of @disk was last backed up as @newest. Returned. */
static char *last_trouble(const TcRepository *repo, const TcManifest *newest,
                          const TcBackupDisk *disk)
{
    const GPtrArray *damaged = tc_repo_damaged(repo);
    json_object *source = tc_manifest_disk(newest, disk->name)->source;
    g_autofree char *last = tc_repo_last(repo, disk->name);

    if (damaged->len)
        return g_strdup_printf("point '%s' is damaged, and may be the last one of this disk",
                               ((TcDamaged *)damaged->pdata[0])->point);
    if (g_strcmp0(last, newest->id))
        return g_strdup_printf("point '%s' is not known to be that of its last backup",
                               newest->point);
    if (g_strcmp0(tc_json_string(source, "type"), "nbd") ||
        g_strcmp0(tc_json_string(source, "uri"), disk->word))
        return g_strdup_printf("point '%s' is not of '%s'", newest->point, disk->word);
    return NULL;
}

/* Where the bitmap is somebody else's, it is about the last backup, which has to be the newest
 * point. */
static const TcManifest *find_foreign(const TcRepository *repo, TcBackupDisk *disk, char **why)
{
    const TcManifest *newest = tc_repo_newest(repo, disk->name);
    const TcCheckpoint *bitmap = disk->checkpoints->len ? disk->checkpoints->pdata[0] : NULL;

    *why = !bitmap       ? g_strdup("there is no bitmap (--bitmap)")
           : bitmap->why ? g_strdup(bitmap->why)
                         : last_trouble(repo, newest, disk);
    if (!*why)
        *why = parent_trouble(repo, newest, disk);
    disk->from = *why ? NULL : g_strdup(bitmap->name);
    return *why ? NULL : newest;
}

bool tc_backup_decide(const TcRepository *repo, const TcBackupSource *source, TcBackupMode mode,
                      TcBackupDisk *disk, TcDecision *decision, GError **error)
{
    *decision = (TcDecision){ 0 };
    g_clear_pointer(&disk->from, g_free);
    if (mode == TC_BACKUP_FULL) {
        decision->why = g_strdup("as --full says");
        decision->ordinary = true;
    } else if (!tc_repo_newest(repo, disk->name)) {
        decision->why = g_strdup("the repository has no point of it yet");
        decision->ordinary = !tc_repo_damaged(repo)->len;
    } else if (source->own_checkpoints) {
        decision->parent = find_parent(repo, source, disk, decision);
    } else {
        decision->parent = find_foreign(repo, disk, &decision->why);
        decision->ordinary = !disk->checkpoints->len;
    }
    return decision->parent || mode != TC_BACKUP_INCREMENTAL ||
           tm_error_set(error,
                        "disk '%s' can't have an increment: %s; nothing was changed, and --auto "
                        "makes a full",
                        disk->name, decision->why);
}

void tc_backup_check_size(TcBackupDisk *disk, TcDecision *decision)
{
    const TcPointDisk *entry =
        decision->parent ? tc_manifest_disk(decision->parent, disk->name) : NULL;

    if (!entry || entry->size == disk->size)
        return;
    decision->why = g_strdup_printf("its size has changed from %" PRIu64 " to %" PRIu64
                                    " bytes since point '%s'",
                                    entry->size, disk->size, decision->parent->point);
    decision->parent = NULL;
    g_clear_pointer(&decision->again, g_ptr_array_unref);
    g_clear_pointer(&disk->bitmap, g_free);
}

void tc_decision_clear(TcDecision *decision)
{
    g_clear_pointer(&decision->again, g_ptr_array_unref);
    g_clear_pointer(&decision->why, g_free);
}
