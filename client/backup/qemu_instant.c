/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/backup/qemu_instant.c: see qemu_instant.h.
 *
 * Invariant: the new checkpoint begins to record before the instant or at it, and what is dirty is
 * copied after it or at it. So both have at least what they must have, without stopping the guest.
 * The instant is one for all disks because QEMU drains all of them for one blockdev-reopen, and for
 * one transaction. */
#include "client/backup/qemu_instant.h"
#include "client/backup/qemu_clean.h"
#include "client/backup/qemu_names.h"
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#define GRANULARITY 65536 /* a block of the repository */
/* The guest's write waits so long for its copy; then the backup is broken, not the guest. */
enum { COPY_SECONDS = 20, POLL_US = 2000 };

static const TcQemuDisk *disk_at(const TcQemuInstant *plan, unsigned i)
{
    return plan->disks->pdata[i];
}

/* ---- scratch files */

char *tc_qemu_scratch_directory(const char *scratch, const TcQemuDisk *disk)
{
    g_autofree char *beside = NULL;

    if (scratch)
        return g_strdup(scratch);
    if (disk->file && *disk->file == '/' && !g_str_has_prefix(disk->file, "/dev/"))
        beside = g_path_get_dirname(disk->file);
    return beside && !access(beside, W_OK) ? g_steal_pointer(&beside) : g_strdup("/var/tmp");
}

/* A file without a name, so that nothing is left of it. */
static int scratch_file(const char *directory, uint64_t size, GError **error)
{
    g_autofree char *name = g_build_filename(directory, TC_QEMU_PREFIX "XXXXXX", NULL);
    int fd = open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

    if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR)) {
        fd = mkostemp(name, O_CLOEXEC);
        if (fd >= 0)
            unlink(name);
    }
    if (fd < 0 || ftruncate(fd, (off_t)size)) {
        tm_error_set_errno(error, errno, "scratch file in directory '%s'", directory);
        if (fd >= 0)
            close(fd);
        return -1;
    }
    return fd;
}

/* Node TC_QEMU_SCRATCH of disk @i, over a new file of @size. */
static bool add_scratch(const TcQemuInstant *plan, unsigned i, uint64_t size, GError **error)
{
    g_autofree char *node = g_strdup_printf(TC_QEMU_SCRATCH, i), *file = NULL;
    g_autoptr(json_object) set = NULL, opaque = tc_json_new("opaque", node, NULL);
    g_autofree char *directory = tc_qemu_scratch_directory(plan->scratch, disk_at(plan, i));
    int fd = scratch_file(directory, size, error);
    json_object *id, *released;
    bool ok;

    if (fd < 0)
        return false;
    set = tc_qmp_execute_fd(plan->qmp, "add-fd", opaque, fd, error);
    g_array_append_val(plan->files, fd);
    if (!set)
        return false;
    id = tc_json_get(set, "fdset-id", NULL);
    file = g_strdup_printf("/dev/fdset/%d", json_object_get_int(id));
    ok = tc_qmp_run(plan->qmp, "blockdev-add",
                    tc_json_new("driver", "file", "node-name", node, "filename", file, "discard",
                                "unmap", NULL),
                    error);
    /* the node has descriptors of its own */
    released = json_object_new_object();
    json_object_object_add(released, "fdset-id", json_object_get(id));
    tc_qmp_run(plan->qmp, "remove-fd", released, NULL);
    return ok;
}

/* ---- actions of a transaction */

static void add_action(json_object *actions, const char *type, json_object *data)
{
    json_object *action = tc_json_new("type", type, NULL);

    json_object_object_add(action, "data", data);
    json_object_array_add(actions, action);
}

static json_object *new_bitmap(const char *node, const char *name)
{
    json_object *data = tc_json_new("node", node, "name", name, NULL);

    json_object_object_add(data, "granularity", json_object_new_int(GRANULARITY));
    return data;
}

static void add_checkpoints(const TcQemuInstant *plan, json_object *actions)
{
    for (unsigned i = 0; i < plan->disks->len; i++) {
        const TcQemuDisk *disk = disk_at(plan, i);
        const char *checkpoint = plan->checkpoints->pdata[i];
        json_object *data = checkpoint ? new_bitmap(disk->node, checkpoint) : NULL;

        if (!data)
            continue;
        if (disk->persistent)
            json_object_object_add(data, "persistent", json_object_new_boolean(true));
        add_action(actions, "block-dirty-bitmap-add", data);
    }
}

static void copy_dirty(const TcQemuInstant *plan, json_object *actions)
{
    for (unsigned i = 0; i < plan->disks->len; i++) {
        g_autofree char *name = g_strdup_printf(TC_QEMU_DISK, i);
        json_object *data, *sources;

        if (!plan->froms->pdata[i])
            continue;
        data = tc_json_new("node", disk_at(plan, i)->node, "target", name, NULL);
        sources = json_object_new_array();
        json_object_array_add(sources, json_object_new_string(plan->froms->pdata[i]));
        json_object_object_add(data, "bitmaps", sources);
        add_action(actions, "block-dirty-bitmap-merge", data);
    }
}

/* @actions are taken. */
static bool transaction(const TcQemuInstant *plan, json_object *actions, GError **error)
{
    json_object *arguments = json_object_new_object();

    json_object_object_add(arguments, "actions", actions);
    return tc_qmp_run(plan->qmp, "transaction", arguments, error);
}

/* The bitmaps that show which disk has which number. */
static bool add_marks(const TcQemuInstant *plan, GError **error)
{
    json_object *actions = json_object_new_array();

    for (unsigned i = 0; i < plan->disks->len; i++) {
        g_autofree char *name = g_strdup_printf(TC_QEMU_DISK, i);
        json_object *data = new_bitmap(disk_at(plan, i)->node, name);

        json_object_object_add(data, "disabled", json_object_new_boolean(true));
        add_action(actions, "block-dirty-bitmap-add", data);
    }
    return transaction(plan, actions, error);
}

static uint64_t now(void)
{
    return (uint64_t)g_get_real_time() * 1000;
}

static void remove_checkpoints(const TcQemuInstant *plan)
{
    for (unsigned i = 0; i < plan->disks->len; i++) {
        const char *checkpoint = plan->checkpoints->pdata[i];

        if (checkpoint)
            tc_qmp_run(plan->qmp, "block-dirty-bitmap-remove",
                       tc_json_new("node", disk_at(plan, i)->node, "name", checkpoint, NULL), NULL);
    }
}

/* ---- by filters */

static json_object *filter(unsigned i, const char *below)
{
    g_autofree char *node = g_strdup_printf(TC_QEMU_FILTER, i);

    return tc_json_new("driver", "raw", "node-name", node, "file", below, "discard", "unmap", NULL);
}

/* Puts a filter that does nothing yet between the device and its disk, and the copy beside it. */
static bool add_filter(const TcQemuInstant *plan, unsigned i, GError **error)
{
    const TcQemuDisk *disk = disk_at(plan, i);
    g_autofree char *node = g_strdup_printf(TC_QEMU_FILTER, i);
    g_autofree char *copy = g_strdup_printf(TC_QEMU_COPY, i);
    g_autofree char *scratch = g_strdup_printf(TC_QEMU_SCRATCH, i);
    json_object *arguments;

    if (!add_scratch(plan, i, disk->size, error) ||
        !tc_qmp_run(plan->qmp, "blockdev-add", filter(i, disk->node), error) ||
        !tc_qmp_run(plan->qmp, "qom-set",
                    tc_json_new("path", disk->device, "property", "drive", "value", node, NULL),
                    error))
        return false;
    arguments =
        tc_json_new("driver", "copy-before-write", "node-name", copy, "file", disk->node, "target",
                    scratch, "on-cbw-error", "break-snapshot", "discard", "unmap", NULL);
    json_object_object_add(arguments, "cbw-timeout", json_object_new_int(COPY_SECONDS));
    return tc_qmp_run(plan->qmp, "blockdev-add", arguments, error);
}

/* Everything goes through the copies from one moment on. */
static bool insert_copies(const TcQemuInstant *plan, uint64_t *time, GError **error)
{
    json_object *arguments = json_object_new_object(), *options = json_object_new_array();

    json_object_object_add(arguments, "options", options);
    for (unsigned i = 0; i < plan->disks->len; i++) {
        g_autofree char *copy = g_strdup_printf(TC_QEMU_COPY, i);

        if (!disk_at(plan, i)->read_only)
            json_object_array_add(options, filter(i, copy));
    }
    *time = now();
    if (json_object_array_length(options))
        return tc_qmp_run(plan->qmp, "blockdev-reopen", arguments, error);
    json_object_put(arguments);
    return true;
}

static bool add_points(const TcQemuInstant *plan, GError **error)
{
    for (unsigned i = 0; i < plan->disks->len; i++) {
        g_autofree char *copy = g_strdup_printf(TC_QEMU_COPY, i);
        g_autofree char *point = g_strdup_printf(TC_QEMU_POINT, i);

        if (!disk_at(plan, i)->read_only &&
            !tc_qmp_run(
                plan->qmp, "blockdev-add",
                tc_json_new("driver", "snapshot-access", "node-name", point, "file", copy, NULL),
                error))
            return false;
    }
    return true;
}

static bool by_filters(const TcQemuInstant *plan, uint64_t *time, GError **error)
{
    json_object *actions = json_object_new_array();

    for (unsigned i = 0; i < plan->disks->len; i++) {
        if (!disk_at(plan, i)->read_only && !add_filter(plan, i, error)) {
            json_object_put(actions);
            return false;
        }
    }
    add_checkpoints(plan, actions);
    if (!transaction(plan, actions, error))
        return false;
    actions = json_object_new_array();
    copy_dirty(plan, actions);
    if (insert_copies(plan, time, error) && add_points(plan, error)) {
        if (transaction(plan, actions, error))
            return true;
    } else
        json_object_put(actions);
    remove_checkpoints(plan);
    return false;
}

/* ---- by jobs */

/* Waits for the job's end and dismisses it. */
static bool finish_job(const TcQemuInstant *plan, const char *id, GError **error)
{
    for (;;) {
        g_autoptr(json_object) jobs = tc_qmp_execute(plan->qmp, "query-jobs", NULL, error);
        json_object *job = NULL;

        if (!jobs)
            return false;
        for (size_t i = 0; !job && i < json_object_array_length(jobs); i++) {
            json_object *one = json_object_array_get_idx(jobs, i);

            if (!g_strcmp0(tc_json_string(one, "id"), id))
                job = one;
        }
        if (!job)
            return tm_error_set(error, "job '%s' disappeared", id);
        if (!g_strcmp0(tc_json_string(job, "status"), "concluded")) {
            const char *why = tc_json_string(job, "error");

            if (!tc_qmp_run(plan->qmp, "job-dismiss", tc_json_new("id", id, NULL), error))
                return false;
            return !why || tm_error_set(error, "job '%s': %s", id, why);
        }
        g_usleep(POLL_US);
    }
}

/* An empty image, backed by the disk, in the scratch of disk @i. */
static bool add_overlay(const TcQemuInstant *plan, unsigned i, GError **error)
{
    const TcQemuDisk *disk = disk_at(plan, i);
    g_autofree char *scratch = g_strdup_printf(TC_QEMU_SCRATCH, i);
    g_autofree char *point = g_strdup_printf(TC_QEMU_POINT, i);
    g_autofree char *job = g_strdup_printf(TC_QEMU_DISK, i);
    json_object *arguments = tc_json_new("job-id", job, NULL), *options;

    options = tc_json_new("driver", "qcow2", "file", scratch, NULL);
    json_object_object_add(options, "size", json_object_new_uint64(disk->size));
    json_object_object_add(arguments, "options", options);
    if (!add_scratch(plan, i, 0, error)) {
        json_object_put(arguments);
        return false;
    }
    return tc_qmp_run(plan->qmp, "blockdev-create", arguments, error) &&
           finish_job(plan, job, error) &&
           tc_qmp_run(plan->qmp, "blockdev-add",
                      tc_json_new("driver", "qcow2", "node-name", point, "file", scratch, "backing",
                                  disk->node, NULL),
                      error);
}

static bool by_jobs(const TcQemuInstant *plan, uint64_t *time, GError **error)
{
    json_object *actions;

    for (unsigned i = 0; i < plan->disks->len; i++) {
        if (!disk_at(plan, i)->read_only && !add_overlay(plan, i, error))
            return false;
    }
    actions = json_object_new_array();
    add_checkpoints(plan, actions);
    for (unsigned i = 0; i < plan->disks->len; i++) {
        g_autofree char *job = g_strdup_printf(TC_QEMU_DISK, i);
        g_autofree char *point = g_strdup_printf(TC_QEMU_POINT, i);

        if (!disk_at(plan, i)->read_only)
            add_action(actions, "blockdev-backup",
                       tc_json_new("job-id", job, "device", disk_at(plan, i)->node, "target", point,
                                   "sync", "none", NULL));
    }
    copy_dirty(plan, actions);
    *time = now();
    return transaction(plan, actions, error);
}

/* ---- */

/* Whether every disk that can be written to has a device as its only user. */
static bool all_direct(const TcQemuInstant *plan)
{
    for (unsigned i = 0; i < plan->disks->len; i++) {
        if (!disk_at(plan, i)->read_only && !disk_at(plan, i)->direct)
            return false;
    }
    return true;
}

bool tc_qemu_instant(TcQemuInstant *plan, uint64_t *time, GError **error)
{
    if (!add_marks(plan, error))
        return false;
    if (plan->filters && all_direct(plan)) {
        plan->way = "filter";
        if (by_filters(plan, time, NULL))
            return true;
        if (!tc_qemu_clean(plan->qmp, NULL, error) || !add_marks(plan, error))
            return false;
    }
    plan->way = "job";
    return by_jobs(plan, time, error);
}
