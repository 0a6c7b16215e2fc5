/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/serve/cmd_mount.c: "tidemark mount": the disks of a point as files. */
#include "client/commands.h"
#include "client/repository/repository.h"
#include "client/serve/fuse_disks.h"
#include "client/text.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static const TcOption options[] = {
    { "at", "POINT", "a point by its name, by time (the newest until then), or latest (default)" },
    { "detach", NULL, "return when the files are there; umount(8) ends it" },
    TC_WAIT_OPTION,
    { 0 },
};

typedef struct Mount {
    const TcInvocation *inv;
    const char *dir;
    TcRepository *repo;
    TcManifest *point;
    GPtrArray *disks; /* TcFuseDisk */
    int parent;       /* who waits for a byte; -1: nobody */
} Mount;

static void disk_free(void *opaque)
{
    TcFuseDisk *disk = opaque;

    tc_point_reader_close(disk->reader);
    g_free(disk->file);
    g_free(disk);
}

static bool open_point(Mount *mount, GError **error)
{
    const char *at = tc_option(mount->inv, "at");
    TcRepoOptions use = { .use = TC_REPO_READ, .what = "tidemark mount" };

    if (!tc_option_wait(mount->inv, &use.wait_s, error))
        return false;
    mount->repo = tc_repo_open(tc_arg(mount->inv, 0), &use, error);
    mount->point = mount->repo ? tc_repo_find(mount->repo, at ? at : "latest", error) : NULL;
    return mount->point != NULL;
}

static bool open_disks(Mount *mount, GError **error)
{
    mount->disks = g_ptr_array_new_with_free_func(disk_free);
    for (guint i = 0; i < mount->point->disks->len; i++) {
        const TcPointDisk *entry = mount->point->disks->pdata[i];
        TcPointReader *reader =
            tc_point_reader_open(mount->repo, mount->point, entry->name, false, error);
        TcFuseDisk *disk;

        if (!reader)
            return false;
        disk = g_new0(TcFuseDisk, 1);
        disk->reader = reader;
        disk->file = g_strconcat(entry->name, ".img", NULL);
        g_ptr_array_add(mount->disks, disk);
    }
    return true;
}

/* The terminal is left to whoever waited. */
static void leave_terminal(Mount *mount)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);

    for (int i = 0; null >= 0 && i < 3; i++)
        dup2(null, i);
    if (null >= 0)
        close(null);
    if (write(mount->parent, "", 1) < 0)
        return; /* it is gone: the files are there all the same */
    close(mount->parent);
}

static void ready(void *opaque)
{
    Mount *mount = opaque;
    g_autofree char *dir = tc_printable(mount->dir);

    printf("Point '%s' is in '%s':", mount->point->point, dir);
    for (guint i = 0; i < mount->disks->len; i++)
        printf(" %s", ((const TcFuseDisk *)mount->disks->pdata[i])->file);
    printf("\n%s\n",
           mount->parent >= 0 ? "umount(8) or 'fusermount3 -u' ends it." : "Ctrl-C unmounts it.");
    fflush(stdout);
    if (mount->parent >= 0)
        leave_terminal(mount);
}

static bool show(Mount *mount, GError **error)
{
    const char *missing = tc_fuse_missing();

    if (missing)
        return tm_error_set(error, "%s", missing);
    if (!g_file_test(mount->dir, G_FILE_TEST_IS_DIR))
        return tm_error_set(error, "'%s' is no directory: make it with mkdir", mount->dir);
    return open_point(mount, error) && open_disks(mount, error) &&
           tc_fuse_run(mount->dir, mount->disks, mount->point->instant, "tidemark", ready, mount,
                       error);
}

/* Forks, before there are threads. In the parent, does not return: it ends with the status of the
 * child, or when the files are there. */
static bool go_back(Mount *mount, GError **error)
{
    int fds[2], status = 0;
    char up;
    pid_t child;

    if (pipe2(fds, O_CLOEXEC) < 0 || (child = fork()) < 0)
        return tm_error_set_errno(error, errno, "Could not detach");
    if (!child) {
        close(fds[0]);
        setsid();
        mount->parent = fds[1];
        return true;
    }
    close(fds[1]);
    if (read(fds[0], &up, 1) == 1)
        _exit(TC_EXIT_OK);
    waitpid(child, &status, 0);
    _exit(WIFEXITED(status) ? WEXITSTATUS(status) : TC_EXIT_FAILED);
}

static int run(const TcInvocation *inv)
{
    Mount mount = { .inv = inv, .dir = tc_arg(inv, 1), .parent = -1 };
    g_autoptr(GError) error = NULL;
    int status = TC_EXIT_OK;

    if ((tc_flag(inv, "detach") && !go_back(&mount, &error)) || !show(&mount, &error))
        status = tc_fail(g_steal_pointer(&error));
    g_clear_pointer(&mount.disks, g_ptr_array_unref);
    tc_repo_close(mount.repo);
    return status;
}

const TcCommand tc_command_mount = {
    .name = "mount",
    .args = "REPOSITORY DIRECTORY",
    .summary = "Shows the disks of a backup as files",
    .details = "The files can be read by any tool, and every block is checked against its hash.\n",
    .min_args = 2,
    .max_args = 2,
    .options = options,
    .run = run,
};
