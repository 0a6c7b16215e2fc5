/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/serve/fuse_disks.c: see fuse_disks.h. What is shown never changes, so that the kernel may
 * keep all of it. */
#define FUSE_USE_VERSION 34
#include "client/serve/fuse_disks.h"
#include "util/log.h"
#include "util/range.h"

#include <errno.h>
#include <fuse.h>
#include <string.h>
#include <unistd.h>

enum { DIR_MODE = 0555, FILE_MODE = 0444, IDLE_THREADS = 10 };
#define FOREVER 86400.0

typedef struct Shown {
    const GPtrArray *disks; /* TcFuseDisk */
    struct timespec time;
} Shown;

static const Shown *shown(void)
{
    return fuse_get_context()->private_data;
}

const char *tc_fuse_missing(void)
{
    return NULL;
}

static const TcFuseDisk *find(const char *path)
{
    const Shown *s = shown();

    for (guint i = 0; i < s->disks->len; i++) {
        const TcFuseDisk *disk = s->disks->pdata[i];

        if (path[0] == '/' && !strcmp(path + 1, disk->file))
            return disk;
    }
    return NULL;
}

static void *disks_init(struct fuse_conn_info *conn, struct fuse_config *config)
{
    config->kernel_cache = 1;
    config->attr_timeout = FOREVER;
    config->entry_timeout = FOREVER;
    return (void *)shown();
}

static int disks_getattr(const char *path, struct stat *st, struct fuse_file_info *info)
{
    const TcFuseDisk *disk = find(path);
    bool root = !strcmp(path, "/");

    if (!disk && !root)
        return -ENOENT;
    *st = (struct stat){
        .st_mode = root ? S_IFDIR | DIR_MODE : S_IFREG | FILE_MODE,
        .st_nlink = root ? 2 : 1,
        .st_size = root ? 0 : (off_t)tc_point_reader_size(disk->reader),
        .st_uid = getuid(),
        .st_gid = getgid(),
        .st_mtim = shown()->time,
        .st_ctim = shown()->time,
        .st_atim = shown()->time,
    };
    st->st_blocks = st->st_size / 512;
    return 0;
}

static int disks_readdir(const char *path, void *buf, fuse_fill_dir_t fill, off_t offset,
                         struct fuse_file_info *info, enum fuse_readdir_flags flags)
{
    const Shown *s = shown();

    fill(buf, ".", NULL, 0, 0);
    fill(buf, "..", NULL, 0, 0);
    for (guint i = 0; i < s->disks->len; i++)
        fill(buf, ((const TcFuseDisk *)s->disks->pdata[i])->file, NULL, 0, 0);
    return 0;
}

static int disks_open(const char *path, struct fuse_file_info *info)
{
    if (!find(path))
        return -ENOENT;
    if ((info->flags & O_ACCMODE) != O_RDONLY)
        return -EROFS;
    info->keep_cache = 1;
    return 0;
}

static int read_blocks(const TcFuseDisk *disk, void *buf, uint64_t offset, uint64_t length)
{
    const TcManifest *point = NULL;
    uint64_t bad = offset;
    int r = tc_point_reader_read(disk->reader, buf, offset, length, &bad, &point);

    if (r)
        tm_log(TM_LOG_ERROR,
               "'%s': the block at offset %" PRIu64 ", which is stored in point '%s',"
               " %s",
               disk->file, bad, point ? point->point : "?",
               r == -EBADMSG ? "is damaged: it does not have its hash" : g_strerror(-r));
    return r ? -EIO : 0;
}

/* Whole blocks are read, of which the caller gets its part. */
static int disks_read(const char *path, char *out, size_t size, off_t at,
                      struct fuse_file_info *info)
{
    const TcFuseDisk *disk = find(path);
    uint64_t end = disk ? tc_point_reader_size(disk->reader) : 0, offset = (uint64_t)at;
    uint64_t length = offset < end ? tm_min(size, end - offset) : 0;
    uint64_t first = tm_align_down(offset, TC_BLOCK);
    uint64_t last = tm_min(tm_align_up(offset + length, TC_BLOCK), end);
    g_autofree char *blocks = NULL;
    int r;

    if (!disk || !length)
        return disk ? 0 : -ENOENT;
    if (first == offset && last == offset + length) {
        r = read_blocks(disk, out, offset, length);
        return r ? r : (int)length;
    }
    blocks = g_try_malloc(last - first);
    if (!blocks)
        return -ENOMEM;
    r = read_blocks(disk, blocks, first, last - first);
    if (!r)
        memcpy(out, blocks + (offset - first), length);
    return r ? r : (int)length;
}

static const struct fuse_operations operations = {
    .init = disks_init,
    .getattr = disks_getattr,
    .readdir = disks_readdir,
    .open = disks_open,
    .read = disks_read,
};

static bool run_mounted(struct fuse *fuse, void (*ready)(void *opaque), void *opaque,
                        GError **error)
{
    struct fuse_loop_config config = { .max_idle_threads = IDLE_THREADS };
    struct fuse_session *session = fuse_get_session(fuse);
    int r;

    if (fuse_set_signal_handlers(session))
        return tm_error_set(error, "Could not set signal handlers");
    ready(opaque);
    r = fuse_loop_mt(fuse, &config); /* more than 0: the signal */
    fuse_remove_signal_handlers(session);
    return r >= 0 || tm_error_set_errno(error, -r, "FUSE");
}

bool tc_fuse_run(const char *dir, const GPtrArray *disks, uint64_t instant, const char *source,
                 void (*ready)(void *opaque), void *opaque, GError **error)
{
    Shown s = { disks,
                { (time_t)(instant / G_GUINT64_CONSTANT(1000000000)),
                  (long)(instant % G_GUINT64_CONSTANT(1000000000)) } };
    struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
    g_autofree char *name = g_strdup_printf("-ofsname=%s,subtype=tidemark,ro", source);
    struct fuse *fuse;
    bool ok;

    fuse_opt_add_arg(&args, "tidemark");
    fuse_opt_add_arg(&args, name);
    fuse = fuse_new(&args, &operations, sizeof(operations), &s);
    fuse_opt_free_args(&args);
    if (!fuse)
        return tm_error_set(error, "Could not set up FUSE");
    if (fuse_mount(fuse, dir)) {
        fuse_destroy(fuse);
        return tm_error_set(error, "Could not mount '%s' (is there /dev/fuse and fusermount3?)",
                            dir);
    }
    ok = run_mounted(fuse, ready, opaque, error);
    fuse_unmount(fuse);
    fuse_destroy(fuse);
    return ok;
}
