/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/backup/source_nbd.c: the disks of an NBD server that somebody else has set up, so that its
 * exports don't change, and offer the bitmap that has what was written since the last backup.
 *
 * Nothing is begun and nothing is ended: who has set the exports up also takes care of the
 * bitmaps. The instant is when the program began to read. */
#include "client/backup/source.h"
#include "client/copy/source.h"
#include "util/json.h"
#include <string.h>

typedef struct Server {
    TcBackupSource source; /* first */
    char *bitmap;          /* NULL: only fulls */
} Server;

static void add_bitmap(TcBackupDisk *disk, TcSource *nbd, const char *bitmap, const char *context)
{
    g_autoptr(GError) why = NULL;

    /* the first one is Tidemark's own, which says the same and more */
    if (tc_source_has(nbd, 0))
        tc_backup_disk_add_checkpoint(disk, bitmap, NULL);
    else
        tc_backup_disk_add_checkpoint(
            disk, bitmap, tc_source_require(nbd, 1, context, &why) ? NULL : why->message);
}

static bool look(TcBackupSource *source, GPtrArray *disks, GError **error)
{
    Server *server = (Server *)source;
    const char *bitmap = server->bitmap;
    g_autofree char *own = bitmap ? g_strconcat(TC_CONTEXT_BACKUP_PREFIX, bitmap, NULL) : NULL;
    g_autofree char *general = bitmap ? g_strconcat(TC_CONTEXT_BITMAP_PREFIX, bitmap, NULL) : NULL;

    for (unsigned i = 0; i < disks->len; i++) {
        TcBackupDisk *disk = disks->pdata[i];
        const char *contexts[] = { own, general, NULL };
        g_autoptr(TcSource) nbd = tc_source_open(disk->word, contexts, -1, error);

        if (!nbd)
            return false;
        g_free(disk->id);
        disk->id = g_strdup(disk->word);
        disk->size = tc_source_size(nbd);
        g_ptr_array_set_size(disk->checkpoints, 0);
        if (bitmap)
            add_bitmap(disk, nbd, bitmap, general);
    }
    return true;
}

static bool begin(TcBackupSource *source, GPtrArray *disks, const TcBackupBegin *options,
                  uint64_t *instant, GError **error)
{
    (void)source;
    (void)options;
    (void)error;
    *instant = (uint64_t)g_get_real_time() * 1000;
    for (unsigned i = 0; i < disks->len; i++) {
        TcBackupDisk *disk = disks->pdata[i];

        g_free(disk->uri);
        disk->uri = g_strdup(disk->word);
        g_free(disk->bitmap);
        disk->bitmap = g_strdup(disk->from);
        json_object_put(disk->source);
        disk->source = json_object_new_object();
        tm_json_add_string(disk->source, "type", "nbd");
        tm_json_add_string(disk->source, "uri", disk->word);
        if (disk->bitmap)
            tm_json_add_string(disk->source, "bitmap", disk->bitmap);
    }
    return true;
}

static bool end(TcBackupSource *source, GPtrArray *disks, bool success, GError **error)
{
    (void)source;
    (void)disks;
    (void)success;
    (void)error;
    return true;
}

static void close_server(TcBackupSource *source)
{
    Server *server = (Server *)source;

    g_free(server->bitmap);
    g_free(server);
}

TcBackupSource *tc_backup_nbd_new(const char *bitmap)
{
    Server *server = g_new0(Server, 1);

    server->source = (TcBackupSource){
        .look = look, .begin = begin, .end = end, .close = close_server, .what = "the NBD server"
    };
    server->bitmap = g_strdup(bitmap);
    return &server->source;
}
