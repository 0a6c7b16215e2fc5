/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/backup/source_qemu.c: disks that a QEMU process has open, backed up with its own commands.
 *
 * qemu_instant.h shows them as they were at one instant; this file takes care of the exports and of
 * the checkpoints, which are dirty bitmaps of the disks' nodes. The bitmap that the backup goes by
 * is a copy, made at the instant: the checkpoint that it comes from records on, and a backup that
 * fails leaves it as it was.
 * Invariant: what is set up has names of qemu_names.h, or is the new checkpoint. */
#include "client/backup/qemu_clean.h"
#include "client/backup/qemu_instant.h"
#include "client/backup/qemu_names.h"
#include "client/backup/qemu_server.h"
#include "client/backup/source.h"
#include "client/repository/hashes.h"
#include "util/log.h"
#include <errno.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* An export of a disk in an iothread ends older QEMUs when its client disconnects, by an assertion
 * in their NBD server. */
enum {
    IOTHREAD_EXPORTS_SINCE = 9,
    EXPORTS_SINCE = 502,
    BITMAP_NODES_SINCE = 701,
    FILTERS_SINCE = 701,
};

typedef struct Qemu {
    TcBackupSource source;
    TcQmp *qmp;
    int lock;
    unsigned version; /* major * 100 + minor */
    TcQemuView *view; /* of look() */
    GPtrArray *disks; /* TcQemuDisk, by the index of the backup's disks */
    TcQemuServer server;
    GPtrArray *checkpoints; /* by disk, char * or NULL, once begun: removed if the backup fails */
    bool set_up;            /* there may be something to take down */
    char *scratch;          /* the directory that begin() was given, or NULL */
    GArray *files;          /* descriptors of the scratch files */
    bool resume;            /* the VM ran, and may stop if the scratch is full */
} Qemu;

/* ---- what there is */

static bool read_version(Qemu *qemu, GError **error)
{
    json_object *version = tc_json_get(tc_qmp_greeting(qemu->qmp), "QMP", "version", "qemu", NULL);

    qemu->version =
        (unsigned)(tc_json_number(version, "major") * 100 + tc_json_number(version, "minor"));
    if (qemu->version >= EXPORTS_SINCE)
        return true;
    return tm_error_set(error, "QEMU %u.%u: a backup needs QEMU 5.2 or newer", qemu->version / 100,
                        qemu->version % 100);
}

/* A string property of an object; NULL if it has none. Returned. */
static char *object_property(Qemu *qemu, const char *path, const char *property)
{
    g_autoptr(json_object) arguments = tc_json_new("path", path, "property", property, NULL);
    g_autoptr(json_object) value = tc_qmp_execute(qemu->qmp, "qom-get", arguments, NULL);

    return json_object_is_type(value, json_type_string) ? g_strdup(json_object_get_string(value))
                                                        : NULL;
}

/* Whether the device, or what it is in or plugged into, has an iothread. */
static bool in_iothread(Qemu *qemu, const char *device)
{
    g_autofree char *path = g_strdup(device);

    for (unsigned depth = 0; path && depth < 4; depth++) {
        g_autofree char *bus = object_property(qemu, path, "parent_bus");
        char *slash;

        do {
            g_autofree char *iothread = object_property(qemu, path, "iothread");

            if (iothread && *iothread)
                return true;
            slash = strrchr(path, '/');
            if (slash)
                *slash = 0;
        } while (slash && slash > path + strlen("/machine"));
        g_free(path);
        path = g_steal_pointer(&bus);
    }
    return false;
}

static void free_disk(gpointer disk)
{
    tc_qemu_disk_free(disk);
}

static void read_checkpoints(TcBackupDisk *disk, json_object *bitmaps)
{
    g_ptr_array_set_size(disk->checkpoints, 0);
    for (size_t i = 0; bitmaps && i < json_object_array_length(bitmaps); i++) {
        json_object *bitmap = json_object_array_get_idx(bitmaps, i);
        const char *name = tc_json_string(bitmap, "name"), *state = NULL;
        g_autofree char *why = NULL;

        if (!name || !*name)
            continue;
        if (tc_json_true(bitmap, "inconsistent"))
            state = "is inconsistent: QEMU did not close the image";
        else if (tc_json_true(bitmap, "busy"))
            state = "is in use by another operation";
        else if (!tc_json_true(bitmap, "recording"))
            state = "was disabled";
        if (state)
            why = g_strdup_printf("checkpoint '%s' %s", name, state);
        tc_backup_disk_add_checkpoint(disk, name, why);
    }
}

static bool find_disk(Qemu *qemu, TcBackupDisk *disk, GError **error)
{
    g_autoptr(TcQemuDisk) found = tc_qemu_disk_find(qemu->view, disk->word, error);

    if (!found)
        return false;
    if (qemu->version < IOTHREAD_EXPORTS_SINCE * 100 && found->device &&
        in_iothread(qemu, found->device))
        return tm_error_set(error,
                            "disk '%s' is in an iothread: NBD clients of such a disk can crash "
                            "QEMU %u.%u; a backup needs QEMU %u or newer, or a disk without "
                            "iothread",
                            disk->word, qemu->version / 100, qemu->version % 100,
                            IOTHREAD_EXPORTS_SINCE);
    g_free(disk->id);
    disk->id = g_strdup(found->node);
    disk->size = found->size;
    g_free(disk->file);
    disk->file = g_strdup(found->file);
    read_checkpoints(disk, found->bitmaps);
    g_ptr_array_add(qemu->disks, g_steal_pointer(&found));
    return true;
}

static bool look(TcBackupSource *source, GPtrArray *disks, GError **error)
{
    Qemu *qemu = (Qemu *)source;
    bool found = false;

    if (!tc_qemu_clean(qemu->qmp, &found, error)) {
        g_prefix_error(error, "an earlier backup was interrupted, and what it set up in QEMU can't "
                              "be taken down: ");
        return false;
    }
    if (found)
        tm_log(TM_LOG_WARNING, "an earlier backup was interrupted: what it had set up in QEMU has "
                               "been taken down");
    g_clear_pointer(&qemu->view, tc_qemu_view_free);
    g_ptr_array_set_size(qemu->disks, 0);
    qemu->view = tc_qemu_view_new(qemu->qmp, error);
    if (!qemu->view)
        return false;
    for (unsigned i = 0; i < disks->len; i++) {
        if (!find_disk(qemu, disks->pdata[i], error))
            return false;
    }
    return tc_backup_disks_distinct(disks, error);
}

/* ---- the instant, and what shows it */

static bool has_status(Qemu *qemu, const char *status)
{
    g_autoptr(json_object) state = tc_qmp_execute(qemu->qmp, "query-status", NULL, NULL);

    return !g_strcmp0(tc_json_string(state, "status"), status);
}

/* The node that is exported. Returned. */
static char *exported_node(Qemu *qemu, unsigned i)
{
    const TcQemuDisk *disk = qemu->disks->pdata[i];

    return disk->read_only ? g_strdup(disk->node) : g_strdup_printf(TC_QEMU_POINT, i);
}

static bool add_export(Qemu *qemu, unsigned i, const TcBackupDisk *disk, GError **error)
{
    const TcQemuDisk *own = qemu->disks->pdata[i];
    g_autofree char *name = g_strdup_printf(TC_QEMU_DISK, i);
    g_autofree char *node = exported_node(qemu, i);
    json_object *arguments =
        tc_json_new("type", "nbd", "id", name, "node-name", node, "name", name, NULL);

    if (disk->from) {
        json_object *bitmaps = json_object_new_array();

        json_object_array_add(bitmaps, qemu->version >= BITMAP_NODES_SINCE
                                           ? tc_json_new("node", own->node, "name", name, NULL)
                                           : json_object_new_string(name));
        json_object_object_add(arguments, "bitmaps", bitmaps);
    }
    return tc_qmp_run(qemu->qmp, "block-export-add", arguments, error);
}

static void describe(Qemu *qemu, unsigned i, const TcQemuView *view, const char *way,
                     TcBackupDisk *disk)
{
    const TcQemuDisk *own = qemu->disks->pdata[i];
    g_autofree char *name = g_strdup_printf(TC_QEMU_DISK, i), *node = exported_node(qemu, i);
    g_autofree char *socket = g_uri_escape_string(qemu->server.path, "/", false);

    disk->size =
        tc_json_number(tc_json_get(tc_qemu_view_node(view, node), "image", NULL), "virtual-size");
    g_free(disk->uri);
    disk->uri = g_strdup_printf("nbd+unix:///%s?socket=%s", name, socket);
    g_free(disk->bitmap);
    disk->bitmap = disk->from ? g_strdup(name) : NULL;
    json_object_put(disk->source);
    disk->source = tc_json_new("type", "qemu", "node", own->node, "method",
                               own->read_only ? "read-only" : way, NULL);
    if (own->device)
        json_object_object_add(disk->source, "device", json_object_new_string(own->device));
}

static bool begin(TcBackupSource *source, GPtrArray *disks, const TcBackupBegin *begin,
                  uint64_t *instant, GError **error)
{
    Qemu *qemu = (Qemu *)source;
    g_autoptr(GPtrArray) froms = g_ptr_array_new();
    g_autoptr(GPtrArray) checkpoints = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(TcQemuView) view = NULL;
    TcQemuInstant plan = {
        .qmp = qemu->qmp,
        .disks = qemu->disks,
        .froms = froms,
        .checkpoints = checkpoints,
        .scratch = begin->scratch,
        .files = qemu->files,
        .filters = qemu->version >= FILTERS_SINCE,
    };
    bool running;

    if (begin->scratch_max)
        return tm_error_set(error, "QEMU has no limit for the scratch of a backup: leave "
                                   "--scratch-max out");
    for (unsigned i = 0; i < disks->len; i++) {
        const TcBackupDisk *disk = disks->pdata[i];

        g_ptr_array_add(froms, disk->from);
        g_ptr_array_add(checkpoints, g_strdup(disk->checkpoint));
    }
    qemu->set_up = true;
    qemu->scratch = g_strdup(begin->scratch);
    running = has_status(qemu, "running");
    if (!tc_qemu_instant(&plan, instant, error))
        return false;
    qemu->resume = running && !strcmp(plan.way, "job");
    qemu->checkpoints = g_steal_pointer(&checkpoints);
    if (!tc_qemu_server_start(&qemu->server, qemu->qmp, error))
        return false;
    for (unsigned i = 0; i < disks->len; i++) {
        if (!add_export(qemu, i, disks->pdata[i], error))
            return false;
    }
    view = tc_qemu_view_new(qemu->qmp, error);
    for (unsigned i = 0; view && i < disks->len; i++)
        describe(qemu, i, view, plan.way, disks->pdata[i]);
    return view != NULL;
}

/* ---- the end */

/* To be asked before the scratch files go. */
static bool check_scratch(Qemu *qemu, GError **error)
{
    for (unsigned i = 0; i < qemu->disks->len; i++) {
        g_autofree char *directory =
            tc_qemu_scratch_directory(qemu->scratch, qemu->disks->pdata[i]);
        struct statvfs st;

        if (!statvfs(directory, &st) && (uint64_t)st.f_bavail * st.f_frsize < TC_BLOCK)
            return tm_error_set(error,
                                "the scratch of the backup in directory '%s' is full; --scratch "
                                "names another one",
                                directory);
    }
    return true;
}

static bool remove_bitmap(Qemu *qemu, unsigned i, const char *name, GError **error)
{
    const TcQemuDisk *disk = qemu->disks->pdata[i];

    json_object *arguments = tc_json_new("node", disk->node, "name", name, NULL);

    /* what is in an image that QEMU may not write to stays there */
    return tc_qmp_run(qemu->qmp, "block-dirty-bitmap-remove", arguments,
                      disk->read_only ? NULL : error) ||
           disk->read_only;
}

static bool take_down(Qemu *qemu, GError **error)
{
    bool ok = !qemu->set_up || tc_qemu_clean(qemu->qmp, NULL, error);

    /* some QEMUs keep their descriptors of it until the VM runs */
    for (; qemu->files->len; g_array_set_size(qemu->files, qemu->files->len - 1)) {
        int fd = g_array_index(qemu->files, int, qemu->files->len - 1);

        if (ftruncate(fd, 0))
            ok = ok && tm_error_set_errno(error, errno, "scratch file");
        close(fd);
    }
    if (qemu->resume && has_status(qemu, "io-error"))
        tc_qmp_run(qemu->qmp, "cont", NULL, NULL);
    qemu->resume = false;
    tc_qemu_server_clear(&qemu->server);
    qemu->set_up = qemu->set_up && !ok;
    return ok;
}

static bool end(TcBackupSource *source, GPtrArray *disks, bool success, GError **error)
{
    Qemu *qemu = (Qemu *)source;
    bool ok = success || !qemu->set_up || check_scratch(qemu, error);

    ok = take_down(qemu, ok ? error : NULL) && ok;
    for (unsigned i = 0; qemu->checkpoints && i < qemu->disks->len; i++) {
        const char *over = success ? ((TcBackupDisk *)disks->pdata[i])->from
                                   : (const char *)qemu->checkpoints->pdata[i];

        if (over)
            ok = remove_bitmap(qemu, i, over, ok ? error : NULL) && ok;
    }
    g_clear_pointer(&qemu->checkpoints, g_ptr_array_unref);
    return ok;
}

static bool remove_checkpoint(TcBackupSource *source, const TcBackupDisk *disk,
                              const char *checkpoint, GError **error)
{
    Qemu *qemu = (Qemu *)source;

    for (unsigned i = 0; i < qemu->disks->len; i++) {
        if (!strcmp(((TcQemuDisk *)qemu->disks->pdata[i])->node, disk->id))
            return remove_bitmap(qemu, i, checkpoint, error);
    }
    return tm_error_set(error, "node '%s' is not in this backup", disk->id);
}

static void close_source(TcBackupSource *source)
{
    Qemu *qemu = (Qemu *)source;

    if (qemu->qmp)
        end(source, NULL, false, NULL);
    tc_qemu_view_free(qemu->view);
    g_ptr_array_unref(qemu->disks);
    g_array_unref(qemu->files);
    g_free(qemu->scratch);
    tc_qmp_free(qemu->qmp);
    if (qemu->lock >= 0)
        close(qemu->lock);
    g_free(qemu);
}

TcBackupSource *tc_backup_qemu_new(const char *path, GError **error)
{
    Qemu *qemu = g_new0(Qemu, 1);
    g_autoptr(TcBackupSource) source = &qemu->source;

    *source = (TcBackupSource){
        .look = look,
        .begin = begin,
        .end = end,
        .remove = remove_checkpoint,
        .close = close_source,
        .what = "QEMU",
        .lost = "it keeps one when it ends by itself, and only in a qcow2 image",
        .own_checkpoints = true,
    };
    qemu->lock = -1;
    qemu->files = g_array_new(false, false, sizeof(int));
    qemu->disks = g_ptr_array_new_with_free_func(free_disk);
    qemu->qmp = tc_qmp_open_qemu(path, error);
    if (!qemu->qmp || !read_version(qemu, error))
        return NULL;
    qemu->lock = tc_qemu_lock(qemu->qmp, error);
    return qemu->lock >= 0 ? g_steal_pointer(&source) : NULL;
}
