/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/backup/source_daemon.c: the disks of a tidemarkd, by backup-begin and backup-end.
 *
 * The daemon does all that matters: it makes the instant, keeps it, and forgets a backup whose
 * client is gone. What is left to do here is to find the disks, and a socket to read them at: that
 * of an NBD server that the daemon has, else one that it starts for this backup only. */
#include "client/backup/source.h"
#include "client/daemon/daemon_view.h"
#include "client/text.h"
#include "util/json.h"
#include "util/text.h"
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SCRATCH_FALLBACK "/var/tmp"

typedef struct Daemon {
    TcBackupSource source; /* first */
    TcQmp *qmp;
    char *directory; /* of its QMP socket */
    char *prefix;    /* "tidemark-TAG-" */
    char *id;        /* of the backup, and of the server that is started for it */
    char *socket;    /* of the NBD server */
    bool serving;    /* the server is ours */
    bool begun;
} Daemon;

static size_t length(json_object *array)
{
    return json_object_is_type(array, json_type_array) ? json_object_array_length(array) : 0;
}

/* Executes @command with one argument, a string. */
static bool execute(Daemon *d, const char *command, const char *key, const char *value,
                    GError **error)
{
    g_autoptr(json_object) arguments = json_object_new_object();
    g_autoptr(json_object) result = NULL;

    tm_json_add_string(arguments, key, value);
    result = tc_qmp_execute(d->qmp, command, arguments, error);
    return result != NULL;
}

static bool end_backup(Daemon *d, const char *id, bool success, GError **error)
{
    g_autoptr(json_object) arguments = json_object_new_object();
    g_autoptr(json_object) result = NULL;

    tm_json_add_string(arguments, "id", id);
    json_object_object_add(arguments, "success", json_object_new_boolean(success));
    result = tc_qmp_execute(d->qmp, "backup-end", arguments, error);
    return result != NULL;
}

/* ---- what there is */

/* What a run of this repository that was killed has left: the repository is locked, so nobody is
 * at work on it. That it ends meanwhile is no error. */
static bool end_what_is_left(Daemon *d, GError **error)
{
    g_autoptr(json_object) backups = tc_qmp_execute(d->qmp, "query-backups", NULL, error);
    g_autoptr(json_object) servers =
        backups ? tc_qmp_execute(d->qmp, "query-nbd-servers", NULL, error) : NULL;

    if (!servers)
        return false;
    for (size_t i = 0; i < length(backups); i++) {
        const char *id = tc_json_string(json_object_array_get_idx(backups, i), "id");

        if (id && g_str_has_prefix(id, d->prefix))
            end_backup(d, id, false, NULL);
    }
    for (size_t i = 0; i < length(servers); i++) {
        const char *id = tc_json_string(json_object_array_get_idx(servers, i), "id");

        if (id && g_str_has_prefix(id, d->prefix))
            execute(d, "nbd-server-stop", "id", id, NULL);
    }
    return true;
}

static json_object *find(json_object *array, const char *key, const char *value)
{
    for (size_t i = 0; i < length(array); i++) {
        json_object *entry = json_object_array_get_idx(array, i);

        if (!g_strcmp0(tc_json_string(entry, key), value))
            return entry;
    }
    return NULL;
}

/* The node that @word means, by its name or that of its export. */
static json_object *find_node(json_object *nodes, json_object *exports, const char *word,
                              GError **error)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new();
    json_object *node = find(nodes, "node-name", word);
    json_object *export = node ? NULL : find(exports, "id", word);
    const char *closest;

    if (export)
        node = find(nodes, "node-name", tc_json_string(export, "node-name"));
    if (node)
        return node;
    for (size_t i = 0; i < length(nodes); i++)
        g_ptr_array_add(names,
                        (gpointer)tc_json_string(json_object_array_get_idx(nodes, i), "node-name"));
    for (size_t i = 0; i < length(exports); i++)
        g_ptr_array_add(names,
                        (gpointer)tc_json_string(json_object_array_get_idx(exports, i), "id"));
    g_ptr_array_add(names, NULL);
    closest = tm_text_nearest(word, (const char *const *)names->pdata);
    tm_error_set(error, "the daemon has no disk '%s'%s%s%s ('tidemark info' lists its nodes)", word,
                 closest ? ": did you mean '" : "", closest ? closest : "", closest ? "'?" : "");
    return NULL;
}

static void take_checkpoints(TcBackupDisk *disk, json_object *bitmaps)
{
    g_ptr_array_set_size(disk->checkpoints, 0);
    for (size_t i = 0; i < length(bitmaps); i++) {
        json_object *bitmap = json_object_array_get_idx(bitmaps, i);
        const char *name = tc_json_string(bitmap, "name");
        const char *reason = tc_json_string(bitmap, "reason");
        g_autofree char *why = NULL;

        if (!name)
            continue;
        if (tc_json_true(bitmap, "inconsistent"))
            why = g_strdup_printf("checkpoint '%s' is inconsistent%s%s", name, reason ? ": " : "",
                                  reason ? reason : "");
        else if (tc_json_true(bitmap, "busy"))
            why = g_strdup_printf("checkpoint '%s' is in use by another operation", name);
        else if (!tc_json_true(bitmap, "recording"))
            why = g_strdup_printf("checkpoint '%s' was disabled", name);
        tc_backup_disk_add_checkpoint(disk, name, why);
    }
}

static bool look(TcBackupSource *source, GPtrArray *disks, GError **error)
{
    Daemon *d = (Daemon *)source;
    g_autoptr(json_object) nodes = NULL, exports = NULL;

    if (!end_what_is_left(d, error))
        return false;
    nodes = tc_view_nodes(d->qmp, error);
    exports = nodes ? tc_view_exports(d->qmp, error) : NULL;
    if (!exports)
        return false;
    for (unsigned i = 0; i < disks->len; i++) {
        TcBackupDisk *disk = disks->pdata[i];
        json_object *node = find_node(nodes, exports, disk->word, error);

        if (!node)
            return false;
        g_free(disk->id);
        disk->id = g_strdup(tc_json_string(node, "node-name"));
        g_free(disk->file);
        disk->file = g_strdup(tc_json_string(node, "file"));
        disk->size = tc_json_number(tc_json_get(node, "image", NULL), "virtual-size");
        take_checkpoints(disk, tc_json_get(node, "dirty-bitmaps", NULL));
    }
    return true;
}

/* ---- where it is read */

/* A server of the daemon's at a unix socket that this process can use, without TLS, and that
 * disconnects nobody who waits. */
static const char *usable_socket(json_object *server)
{
    json_object *addresses = tc_json_get(server, "addresses", NULL);

    if (tc_json_true(server, "tls") || tc_json_number(server, "idle-max-seconds") ||
        tc_json_number(server, "max-connections"))
        return NULL;
    for (size_t i = 0; i < length(addresses); i++) {
        json_object *address = json_object_array_get_idx(addresses, i);
        const char *path = tc_json_string(address, "path");
        struct stat st;

        if (!g_strcmp0(tc_json_string(address, "type"), "unix") && path && *path == '/' &&
            !stat(path, &st) && S_ISSOCK(st.st_mode) && !access(path, W_OK))
            return path;
    }
    return NULL;
}

static bool start_server(Daemon *d, GError **error)
{
    g_autoptr(json_object) arguments = json_object_new_object();
    g_autoptr(json_object) result = NULL;
    json_object *address = json_object_new_object(), *data = json_object_new_object();
    g_autofree char *name = g_strconcat(d->id, ".sock", NULL);

    d->socket = g_build_filename(d->directory, name, NULL);
    tm_json_add_string(data, "path", d->socket);
    tm_json_add_string(address, "type", "unix");
    json_object_object_add(address, "data", data);
    json_object_object_add(arguments, "addr", address);
    tm_json_add_string(arguments, "id", d->id);
    result = tc_qmp_execute(d->qmp, "nbd-server-start", arguments, error);
    d->serving = result != NULL;
    if (!d->serving)
        g_prefix_error(error, "Could not start an NBD server for the backup: ");
    return d->serving;
}

/* The id of the server to use: returned. */
static char *find_server(Daemon *d, GError **error)
{
    g_autoptr(json_object) servers = tc_qmp_execute(d->qmp, "query-nbd-servers", NULL, error);

    for (size_t i = 0; servers && i < length(servers); i++) {
        json_object *server = json_object_array_get_idx(servers, i);
        const char *socket = usable_socket(server);

        if (socket) {
            d->socket = g_strdup(socket);
            return g_strdup(tc_json_string(server, "id"));
        }
    }
    return servers && start_server(d, error) ? g_strdup(d->id) : NULL;
}

/* ---- beginning */

static json_object *begin_arguments(Daemon *d, GPtrArray *disks, const TcBackupBegin *begin,
                                    const char *server, const char *scratch)
{
    json_object *arguments = json_object_new_object(), *list = json_object_new_array();
    json_object *directory = json_object_new_object(), *servers = json_object_new_array();

    tm_json_add_string(arguments, "id", d->id);
    for (unsigned i = 0; i < disks->len; i++) {
        TcBackupDisk *disk = disks->pdata[i];
        json_object *entry = json_object_new_object();

        tm_json_add_string(entry, "node", disk->id);
        if (disk->from)
            tm_json_add_string(entry, "from", disk->from);
        if (disk->checkpoint)
            tm_json_add_string(entry, "checkpoint", disk->checkpoint);
        json_object_array_add(list, entry);
    }
    json_object_object_add(arguments, "disks", list);
    tm_json_add_string(directory, "directory", scratch);
    if (begin->scratch_max)
        tm_json_add_uint(directory, "max-size", begin->scratch_max);
    json_object_object_add(arguments, "scratch", directory);
    json_object_array_add(servers, json_object_new_string(server));
    json_object_object_add(arguments, "servers", servers);
    return arguments;
}

/* Directories that the daemon may be able to write to, the best first: those of the images, where
 * it also keeps the bitmaps. */
static GPtrArray *scratch_candidates(GPtrArray *disks, const char *scratch)
{
    GPtrArray *list = g_ptr_array_new_with_free_func(g_free);

    for (unsigned i = 0; !scratch && i < disks->len; i++) {
        TcBackupDisk *disk = disks->pdata[i];

        if (disk->file && *disk->file && !strstr(disk->file, "://") &&
            !g_str_has_prefix(disk->file, "json:") && !g_str_has_prefix(disk->file, "/dev/"))
            g_ptr_array_add(list, g_path_get_dirname(disk->file));
    }
    g_ptr_array_add(list, g_strdup(scratch ? scratch : SCRATCH_FALLBACK));
    return list;
}

static json_object *call_begin(Daemon *d, GPtrArray *disks, const TcBackupBegin *begin,
                               const char *server, GError **error)
{
    g_autoptr(GPtrArray) scratch = scratch_candidates(disks, begin->scratch);
    json_object *result = NULL;

    for (unsigned i = 0; !result; i++) {
        g_autoptr(json_object) arguments =
            begin_arguments(d, disks, begin, server, scratch->pdata[i]);
        g_autoptr(GError) why = NULL;

        result = tc_qmp_execute(d->qmp, "backup-begin", arguments, &why);
        if (result || (i + 1 < scratch->len && strstr(why->message, "scratch")))
            continue;
        if (strstr(why->message, "scratch"))
            g_prefix_error(&why, "%s", "the daemon has no room for the backup (see --scratch): ");
        g_propagate_error(error, g_steal_pointer(&why));
        return NULL;
    }
    return result;
}

static void take_export(Daemon *d, TcBackupDisk *disk, json_object *answer)
{
    const char *export = tc_json_string(answer, "export");
    g_autofree char *name = g_uri_escape_string(export ? export : "", NULL, FALSE);
    g_autofree char *socket = g_uri_escape_string(d->socket, "/", FALSE);

    g_free(disk->uri);
    disk->uri = g_strdup_printf("nbd+unix:///%s?socket=%s", name, socket);
    g_free(disk->bitmap);
    disk->bitmap = g_strdup(disk->from);
    disk->release = true;
    disk->size = tc_json_number(answer, "size");
    json_object_put(disk->source);
    disk->source = json_object_new_object();
    tm_json_add_string(disk->source, "type", "daemon");
    tm_json_add_string(disk->source, "node", disk->id);
    if (disk->file)
        tm_json_add_string(disk->source, "file", disk->file);
}

static bool begin(TcBackupSource *source, GPtrArray *disks, const TcBackupBegin *options,
                  uint64_t *instant, GError **error)
{
    Daemon *d = (Daemon *)source;
    g_autofree char *server = NULL;
    g_autoptr(json_object) answer = NULL;
    json_object *list;

    d->id = g_strdup_printf("%s%08x", d->prefix, g_random_int());
    server = find_server(d, error);
    answer = server ? call_begin(d, disks, options, server, error) : NULL;
    if (!answer)
        return false;
    d->begun = true;
    *instant = tc_json_number(answer, "instant");
    list = tc_json_get(answer, "disks", NULL);
    if (length(list) != disks->len)
        return tm_error_set(error, "the daemon's answer to backup-begin has %zu disks, not %u",
                            length(list), disks->len);
    for (unsigned i = 0; i < disks->len; i++)
        take_export(d, disks->pdata[i], json_object_array_get_idx(list, i));
    return true;
}

/* ---- the end */

static bool end(TcBackupSource *source, GPtrArray *disks, bool success, GError **error)
{
    Daemon *d = (Daemon *)source;
    bool ok = !d->begun || end_backup(d, d->id, success, error);

    (void)disks;
    d->begun = false;
    if (d->serving)
        execute(d, "nbd-server-stop", "id", d->id, NULL);
    d->serving = false;
    return ok;
}

static bool remove_checkpoint(TcBackupSource *source, const TcBackupDisk *disk,
                              const char *checkpoint, GError **error)
{
    Daemon *d = (Daemon *)source;
    g_autoptr(json_object) arguments = json_object_new_object();
    g_autoptr(json_object) result = NULL;

    tm_json_add_string(arguments, "node", disk->id);
    tm_json_add_string(arguments, "name", checkpoint);
    result = tc_qmp_execute(d->qmp, "block-dirty-bitmap-remove", arguments, error);
    return result != NULL;
}

static void close_daemon(TcBackupSource *source)
{
    Daemon *d = (Daemon *)source;

    end(source, NULL, false, NULL);
    tc_qmp_free(d->qmp);
    g_free(d->directory);
    g_free(d->prefix);
    g_free(d->id);
    g_free(d->socket);
    g_free(d);
}

TcBackupSource *tc_backup_daemon_new(const char *path, const char *tag, GError **error)
{
    Daemon *d;
    TcQmp *qmp = tc_qmp_open(path, error);

    if (!qmp)
        return NULL;
    d = g_new0(Daemon, 1);
    d->source = (TcBackupSource){ .look = look,
                                  .begin = begin,
                                  .end = end,
                                  .remove = remove_checkpoint,
                                  .close = close_daemon,
                                  .what = "the daemon",
                                  .own_checkpoints = true };
    d->qmp = qmp;
    d->prefix = g_strdup_printf("tidemark-%s-", tag);
    if (g_path_is_absolute(path)) {
        d->directory = g_path_get_dirname(path);
    } else {
        g_autofree char *here = g_get_current_dir(), *full = g_build_filename(here, path, NULL);

        d->directory = g_path_get_dirname(full);
    }
    return &d->source;
}
