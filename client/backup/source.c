/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/backup/source.c: see source.h. */
#include "client/backup/source.h"
#include "client/json.h"

static void checkpoint_free(gpointer p)
{
    TcCheckpoint *checkpoint = p;

    g_free(checkpoint->name);
    g_free(checkpoint->why);
    g_free(checkpoint);
}

TcBackupDisk *tc_backup_disk_new(const char *name, const char *word)
{
    TcBackupDisk *disk = g_new0(TcBackupDisk, 1);

    disk->name = g_strdup(name);
    disk->word = g_strdup(word);
    disk->checkpoints = g_ptr_array_new_with_free_func(checkpoint_free);
    return disk;
}

void tc_backup_disk_free(TcBackupDisk *disk)
{
    if (!disk)
        return;
    g_free(disk->word);
    g_free(disk->name);
    g_free(disk->id);
    g_free(disk->file);
    g_free(disk->from);
    g_free(disk->checkpoint);
    g_free(disk->uri);
    g_free(disk->bitmap);
    g_ptr_array_unref(disk->checkpoints);
    json_object_put(disk->source);
    g_free(disk);
}

void tc_backup_disk_add_checkpoint(TcBackupDisk *disk, const char *name, const char *why)
{
    TcCheckpoint *checkpoint = g_new0(TcCheckpoint, 1);

    checkpoint->name = g_strdup(name);
    checkpoint->why = g_strdup(why);
    g_ptr_array_add(disk->checkpoints, checkpoint);
}

const TcCheckpoint *tc_backup_disk_checkpoint(const TcBackupDisk *disk, const char *name)
{
    for (unsigned i = 0; i < disk->checkpoints->len; i++) {
        const TcCheckpoint *checkpoint = disk->checkpoints->pdata[i];

        if (!g_strcmp0(checkpoint->name, name))
            return checkpoint;
    }
    return NULL;
}

bool tc_backup_disks_distinct(GPtrArray *disks, GError **error)
{
    for (unsigned i = 0; i < disks->len; i++) {
        const TcBackupDisk *a = disks->pdata[i];

        for (unsigned j = 0; j < i; j++) {
            const TcBackupDisk *b = disks->pdata[j];

            if (!g_strcmp0(a->name, b->name))
                return tm_error_set(error,
                                    "'%s' and '%s' would both be disk '%s' of the point: name one "
                                    "of them with NAME=DISK",
                                    b->word, a->word, a->name);
            if (a->id && !g_strcmp0(a->id, b->id) && !strcmp(a->word, b->word))
                return tm_error_set(error, "disk '%s' is named twice", a->word);
            if (a->id && !g_strcmp0(a->id, b->id))
                return tm_error_set(error, "'%s' and '%s' are the same disk", b->word, a->word);
        }
    }
    return true;
}
