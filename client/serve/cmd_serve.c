/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/serve/cmd_serve.c: "tidemark serve": a daemon for this user on these disks. */
#include "client/commands.h"
#include "client/daemon/daemon_view.h"
#include "client/daemon/runtime_dir.h"
#include "client/serve/daemon_process.h"
#include "client/serve/served_disk.h"
#include "client/text.h"

#include <string.h>

static const TcOption options[] = {
    { "at", "POINT", "of a repository: a point by its name, by time, or latest (default)" },
    { "detach", NULL, "return when the disks are served, which goes on in the background" },
    { "read-only", NULL, "let nobody write to the disks" },
    { "writable", NULL, "let clients write (the default; of a repository: to a scratch)" },
    { "format", "FMT", "raw or qcow2 (default: qcow2 if the image is, raw if its name says so)" },
    { "socket-dir", "DIR", "where the sockets are (default: $XDG_RUNTIME_DIR/tidemark)" },
    TC_NAMES_OPTION,
    TC_JSON_OPTION,
    { 0 },
};

typedef struct Serve {
    const TcInvocation *inv;
    char *dir;
    bool default_dir;
    TcRepository *repo;      /* or NULL */
    const TcManifest *point; /* of it */
    GPtrArray *disks;        /* TcServedDisk */
    TcDaemon daemon;
} Serve;

/* ---- what it prints */

static char *uri_of(const Serve *serve, const TcServedDisk *disk)
{
    g_autofree char *socket = g_uri_escape_string(serve->daemon.nbd_path, "/", FALSE);

    return g_strdup_printf("nbd+unix:///%s?socket=%s", disk->name, socket);
}

/* QEMU's option for the disk, without the name of the option. */
static char *blockdev_of(const Serve *serve, const TcServedDisk *disk)
{
    g_auto(GStrv) parts = g_strsplit(serve->daemon.nbd_path, ",", -1);
    g_autofree char *path = g_strjoinv(",,", parts);

    return g_strdup_printf("driver=nbd,node-name=%s,server.type=unix,server.path=%s,export=%s%s",
                           disk->name, path, disk->name,
                           disk->read_only ? ",read-only=on" : ",discard=unmap");
}

/* For one file of a backup, for a VM on it, and else for a backup. */
static char *next_of(const Serve *serve, const TcServedDisk *disk)
{
    g_autofree char *socket = g_shell_quote(serve->daemon.qmp_path), *uri = uri_of(serve, disk);

    if (serve->repo && disk->read_only)
        return g_strdup_printf("guestfish --ro -i -a 'nbd%s'", strchr(uri, ':'));
    if (serve->repo)
        return g_strdup_printf("qemu-system-x86_64 -m 2G -drive 'file=%s,format=raw,if=virtio'",
                               uri);
    if (disk->read_only)
        return g_strdup_printf("tidemark copy '%s' %s-copy.img", uri, disk->name);

    return g_strdup_printf("tidemark backup%s%s %s REPOSITORY",
                           serve->default_dir ? "" : " --socket ", serve->default_dir ? "" : socket,
                           disk->name);
}

static void add_string(json_object *object, const char *key, const char *value)
{
    json_object_object_add(object, key, json_object_new_string(value));
}

static void print_json(const Serve *serve)
{
    g_autoptr(json_object) object = json_object_new_object();
    json_object *disks = json_object_new_array();

    add_string(object, "socket", serve->daemon.qmp_path);
    add_string(object, "nbd-socket", serve->daemon.nbd_path);
    json_object_object_add(object, "started", json_object_new_boolean(serve->daemon.started));
    json_object_object_add(object, "disks", disks);
    for (guint i = 0; i < serve->disks->len; i++) {
        const TcServedDisk *disk = serve->disks->pdata[i];
        g_autofree char *uri = uri_of(serve, disk), *blockdev = blockdev_of(serve, disk);
        json_object *entry = json_object_new_object();

        add_string(entry, "name", disk->name);
        add_string(entry, "file", disk->path);
        add_string(entry, "format", disk->format);
        json_object_object_add(entry, "size", json_object_new_uint64(disk->size));
        json_object_object_add(entry, "read-only", json_object_new_boolean(disk->read_only));
        add_string(entry, "uri", uri);
        add_string(entry, "blockdev", blockdev);
        json_object_array_add(disks, entry);
    }
    tc_json_print(object, stdout);
}

static void print_disk(const Serve *serve, const TcServedDisk *disk)
{
    g_autofree char *uri = uri_of(serve, disk), *blockdev = blockdev_of(serve, disk);
    g_autofree char *next = next_of(serve, disk), *size = tc_human_size(disk->size);
    g_autofree char *path = tc_printable(disk->path);

    printf("%s: %s (%s, %s%s)\n", disk->name, path, disk->format, size,
           disk->read_only ? ", read-only" : "");
    printf("  NBD   '%s'\n", uri);
    printf("  QEMU  -blockdev %s\n", blockdev);
    printf("  next  %s\n", next);
}

static void print_text(const Serve *serve)
{
    bool foreground = serve->daemon.pid;
    g_autofree char *socket = g_shell_quote(serve->daemon.qmp_path);

    for (guint i = 0; i < serve->disks->len; i++)
        print_disk(serve, serve->disks->pdata[i]);
    if (foreground)
        printf("Ctrl-C ends it.\n");
    else
        printf("%sEnd it with: tidemark qmp%s%s quit\n",
               serve->daemon.started ? "" : "Added to the daemon that runs already. ",
               serve->default_dir ? "" : " --socket ", serve->default_dir ? "" : socket);
}

/* ---- its work */

static bool set_up(Serve *serve, GError **error)
{
    const TcInvocation *inv = serve->inv;
    const char *format = tc_option(inv, "format"), *dir = tc_option(inv, "socket-dir");
    bool repository = tc_repo_is(tc_arg(inv, 0));

    if (format && strcmp(format, "raw") && strcmp(format, "qcow2"))
        return tm_error_set(error, "option --format: '%s' is neither raw nor qcow2", format);
    if (tc_flag(inv, "read-only") && tc_flag(inv, "writable"))
        return tm_error_set(error, "options --read-only and --writable exclude each other");
    if (tc_option(inv, "at") && !repository)
        return tm_error_set(error, "option --at: '%s' is no repository of backups", tc_arg(inv, 0));
    if (repository && (tc_arg(inv, 1) || format || tc_option(inv, "backing-names")))
        return tm_error_set(error, "a repository is served alone, and without --format or "
                                   "--backing-names");
    serve->default_dir = !dir;
    serve->dir = dir ? g_strdup(dir) : tc_runtime_dir();
    return true;
}

/* Points have directories of their own, beside the user's daemon. */
static bool open_point(Serve *serve, GError **error)
{
    const TcInvocation *inv = serve->inv;
    TcRepoOptions use = { .use = TC_REPO_READ, .what = "tidemark serve" };
    const char *at = tc_option(inv, "at");

    serve->repo = tc_repo_open(tc_arg(inv, 0), &use, error);
    serve->point = serve->repo ? tc_repo_find(serve->repo, at ? at : "latest", error) : NULL;
    if (!serve->point)
        return false;
    if (serve->default_dir) {
        g_autofree char *runtime = g_steal_pointer(&serve->dir);
        g_autofree char *name =
            g_strdup_printf("%s@%.8s", serve->point->point, tc_repo_id(serve->repo));

        serve->dir = g_build_filename(runtime, name, NULL);
        serve->default_dir = false;
    }
    serve->disks = tc_served_point(serve->repo, serve->point, tc_flag(inv, "writable"), error);
    return serve->disks != NULL;
}

static bool find_disks(Serve *serve, GError **error)
{
    const TcInvocation *inv = serve->inv;
    TcServedOptions how = { .format = tc_option(inv, "format"),
                            .backing_names = tc_option(inv, "backing-names"),
                            .read_only = tc_flag(inv, "read-only") };

    if (tc_repo_is(tc_arg(inv, 0)))
        return open_point(serve, error);
    serve->disks = tc_served_disks((const char *const *)inv->args->pdata, &how, error);
    return serve->disks != NULL;
}

/* A daemon that was there before may have nodes with these names. */
static bool check_names(const Serve *serve, GError **error)
{
    g_autoptr(json_object) nodes = tc_view_nodes(serve->daemon.qmp, error);

    for (size_t i = 0; nodes && i < json_object_array_length(nodes); i++) {
        json_object *node = json_object_array_get_idx(nodes, i);
        const char *name = tc_json_string(node, "node-name");

        for (guint j = 0; j < serve->disks->len; j++) {
            const TcServedDisk *disk = serve->disks->pdata[j];

            if (!g_strcmp0(name, disk->name))
                return tm_error_set(error,
                                    "the daemon at '%s' serves a disk '%s' already ('%s'): give "
                                    "this one another name with NAME=%s",
                                    serve->daemon.qmp_path, name, tc_json_string(node, "file"),
                                    disk->path);
        }
    }
    return nodes != NULL;
}

static bool add_disks(Serve *serve, GError **error)
{
    if (!serve->daemon.started && !check_names(serve, error))
        return false;
    for (guint i = 0; i < serve->disks->len; i++) {
        if (tc_served_disk_add(serve->disks->pdata[i], serve->daemon.qmp, error))
            continue;
        while (!serve->daemon.started && i > 0)
            tc_served_disk_remove(serve->disks->pdata[--i], serve->daemon.qmp);
        return false;
    }
    return true;
}

/* The daemon has it open: nobody needs its name any more. */
static void release_scratch(gpointer disk, gpointer unused)
{
    tc_served_disk_release(disk);
}

static bool begin(Serve *serve, GError **error)
{
    bool detach = tc_flag(serve->inv, "detach");
    int lock = -1;

    if (!find_disks(serve, error))
        return false;
    if (serve->repo)
        lock = tc_repo_lock_fd(serve->repo);
    if (tc_repo_is_bucket(tc_arg(serve->inv, 0)))
        serve->daemon.plugin = "s3";
    if (!tc_daemon_start(&serve->daemon, serve->dir, detach, serve->repo != NULL, lock, error))
        return false;
    if (add_disks(serve, error)) {
        g_ptr_array_foreach(serve->disks, release_scratch, NULL);
        return true;
    }
    tc_daemon_stop(&serve->daemon);
    return false;
}

static bool serve_disks(Serve *serve, GError **error)
{
    bool ok;

    if (!begin(serve, error))
        return false;
    (tc_flag(serve->inv, "json") ? print_json : print_text)(serve);
    fflush(stdout);
    g_clear_pointer(&serve->daemon.qmp, tc_qmp_free);
    if (!serve->daemon.pid)
        return true;
    ok = tc_daemon_wait(&serve->daemon, error);
    if (serve->repo && !tc_option(serve->inv, "socket-dir"))
        tc_daemon_remove_dir(&serve->daemon);
    return ok;
}

static int run(const TcInvocation *inv)
{
    Serve serve = { .inv = inv };
    g_autoptr(GError) error = NULL;
    int status = TC_EXIT_OK;

    if (!set_up(&serve, &error))
        return tc_fail_usage(inv, g_steal_pointer(&error));
    tc_daemon_signals();
    if (!serve_disks(&serve, &error))
        status = tc_fail(g_steal_pointer(&error));
    tc_daemon_clear(&serve.daemon);
    g_clear_pointer(&serve.disks, g_ptr_array_unref);
    tc_repo_close(serve.repo);
    g_free(serve.dir);
    return status;
}

const TcCommand tc_command_serve = {
    .name = "serve",
    .args = "[NAME=]DISK... | DIRECTORY | REPOSITORY",
    .summary = "Serves disks over NBD with a daemon of your own",
    .details =
        "DISK is a raw or qcow2 image, a block device or an image in a Ceph cluster\n"
        "(rbd:POOL/IMAGE); DIRECTORY stands for the images in it. A disk's name is that of its\n"
        "file without the ending. Where a daemon serves already, the disks are added to it. The\n"
        "other commands find this daemon by themselves.\n"
        "Of a REPOSITORY of backups, the disks are served as they were at a point.\n",
    .min_args = 1,
    .max_args = -1,
    .options = options,
    .run = run,
};
