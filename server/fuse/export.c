/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/fuse/export.c: the type "fuse" in the registry of exports.
 *
 * An export that is being deleted is unmounted first, so nobody opens the file any more; those who
 * have it open go on until they close it, or until they are cut off. */
#define FUSE_USE_VERSION 34
#include "server/fuse/fuse_internal.h"

#include "util/error.h"
#include "util/json.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define SETTLE_MS 1000 /* at most, for the kernel's requests to be taken */

/* ---- mounting */

/* Where it is mounted. A killed daemon may have left a mount there, which can't be asked. */
static char *real_path(const char *path)
{
    char *real = realpath(path, NULL), *result;
    g_autofree char *dir = g_path_get_dirname(path), *name = g_path_get_basename(path);

    if (!real && (real = realpath(dir, NULL)))
        result = g_build_filename(real, name, NULL);
    else
        result = g_canonicalize_filename(real ? real : path, NULL);
    free(real);
    return result;
}

/* What a killed daemon has left there is removed later. */
static bool check_path(const FexpExport *x, const char *given, GError **error)
{
    struct stat st;

    if (fexp_is_mounted(x->mounter, x->path))
        return tm_error_set(error, "There already is a FUSE export on '%s'", given);
    if (stat(x->path, &st) < 0)
        return errno == ENOTCONN || errno == ECONNABORTED ||
               tm_error_set_errno(error, errno, "Failed to stat '%s'", given);
    return S_ISREG(st.st_mode) || tm_error_set(error, "'%s' is not a regular file", given);
}

static int mount_as(FexpExport *x, bool others, GError **error)
{
    TmLog *log = blk_graph_log(blk_node_graph(blk_export_node(x->blk)));
    bool removed = false;
    int fd = fexp_mount(x->mounter, x->path, blk_export_id(x->blk), others, &removed, error);

    if (removed)
        tm_log_note(log,
                    &(TmLogFacts){ .area = TM_LOG_BLOCK,
                                   .level = TM_LOG_INFO,
                                   .export = blk_export_id(x->blk) },
                    "removed the mount that a killed daemon had left at '%s'", x->path);
    x->others = others;
    return fd;
}

static int mount(FexpExport *x, BlkAllowOther others, GError **error)
{
    int fd = others == BLK_ALLOW_OTHER_OFF
                 ? -1
                 : mount_as(x, true, others == BLK_ALLOW_OTHER_ON ? error : NULL);

    return fd >= 0 || others == BLK_ALLOW_OTHER_ON ? fd : mount_as(x, false, error);
}

static void unmount(FexpExport *x)
{
    g_autoptr(GError) error = NULL;

    if (x->mounted && !fexp_unmount(x->mounter, x->path, &error))
        tm_log_note(blk_graph_log(blk_node_graph(blk_export_node(x->blk))),
                    &(TmLogFacts){ .area = TM_LOG_BLOCK,
                                   .level = TM_LOG_WARNING,
                                   .export = blk_export_id(x->blk) },
                    "its mount at '%s' stays, 'umount -l' removes it: %s", x->path, error->message);
    x->mounted = false;
}

/* ---- beginning */

static FexpExport *export_new(FexpMounter *mounter, BlkExport *blk, const BlkExportOptions *o)
{
    FexpExport *x = g_new0(FexpExport, 1);
    BlkNode *node = blk_export_node(blk);
    struct tidemark_info info;

    blk_node_info(node, &info);
    x->refs = 1;
    x->blk = blk;
    x->disk = blk_export_user(blk);
    x->engine = blk_graph_engine(blk_node_graph(node));
    x->mounter = mounter;
    x->path = real_path(o->mountpoint);
    x->writable = blk_export_writable(blk);
    x->growable = o->growable;
    x->align = MIN(info.request_alignment, FEXP_ALIGN);
    x->set = x->stop = -1;
    x->mode = S_IRUSR | (x->writable ? S_IWUSR : 0);
    x->uid = getuid();
    x->gid = getgid();
    x->last = &x->first;
    pthread_mutex_init(&x->lock, NULL);
    return x;
}

static void export_free(FexpExport *x)
{
    if (x->stop >= 0)
        close(x->stop);
    if (x->set >= 0)
        close(x->set);
    pthread_mutex_destroy(&x->lock);
    g_free(x->path);
    g_free(x);
}

static bool open_set(FexpExport *x, GError **error)
{
    struct epoll_event event = { .events = EPOLLIN };

    x->stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    x->set = epoll_create1(EPOLL_CLOEXEC);
    return (x->stop >= 0 && x->set >= 0 &&
            epoll_ctl(x->set, EPOLL_CTL_ADD, x->stop, &event) == 0) ||
           tm_error_set_errno(error, errno, "FUSE requests can't be waited for");
}

/* Others may resize the disk: the file is as long as the disk is. What is written beyond its end
 * needs the right to make it longer. */
static bool set_permissions(FexpExport *x, GError **error)
{
    unsigned needs = BLK_PERM_CONSISTENT_READ | (x->writable ? BLK_PERM_WRITE : 0) |
                     (x->writable && x->growable ? BLK_PERM_GROW : 0);

    return blk_user_set(x->disk, needs, BLK_PERM_ALL, error);
}

/* The descriptor is the session's from then on. */
static bool connect_session(FexpExport *x, int fd, GError **error)
{
    g_autofree char *path = g_strdup_printf("/dev/fd/%d", fd);

    x->fuse = fexp_fuse_new(blk_export_id(x->blk), x->others, &fexp_operations,
                            sizeof(fexp_operations), x);
    if (x->fuse && fcntl(fd, F_SETFL, O_NONBLOCK) == 0 && fuse_session_mount(x->fuse, path) == 0)
        return true;
    if (x->fuse)
        fuse_session_destroy(x->fuse);
    x->fuse = NULL;
    close(fd);
    return tm_error_set(error, "Failed to set up FUSE session");
}

static bool begin(FexpExport *x, const BlkExportOptions *o, GError **error)
{
    int fd = mount(x, o->allow_other, error);

    if (fd < 0) {
        g_prefix_error(error, "Failed to mount FUSE session to export '%s' at '%s': ",
                       blk_export_id(x->blk), o->mountpoint);
        return false;
    }
    x->mounted = true;
    if (connect_session(x, fd, error)) {
        if (fexp_channel_start(x, error))
            return true;
        fuse_session_destroy(x->fuse);
    }
    unmount(x);
    return false;
}

static bool start(void *opaque, BlkExport *blk, const BlkExportOptions *o, GError **error)
{
    FexpExport *x;

    if (!opaque)
        return tm_error_set(error,
                            "Export '%s' of type 'fuse' needs a daemon that began with a monitor, "
                            "or with such an export",
                            o->id);
    x = export_new(opaque, blk, o);
    if (!open_set(x, error) || !set_permissions(x, error) || !check_path(x, o->mountpoint, error) ||
        !begin(x, o, error)) {
        export_free(x);
        return false;
    }
    blk_export_ref(blk); /* the connection's */
    blk_export_set_serving(blk, x);
    fexp_unref(x); /* the channel has one */
    return true;
}

/* ---- ending */

/* A file that a program has just closed counts as open until that was taken from the kernel. */
static void settle(void *opaque, BlkExport *blk)
{
    FexpExport *x = blk_export_serving(blk);
    struct pollfd p = { .fd = x->set, .events = POLLIN };

    for (int i = 0; i < SETTLE_MS && blk_export_sessions(blk); i++) {
        if (poll(&p, 1, 0) == 0 && !__atomic_load_n(&x->channel.busy, __ATOMIC_ACQUIRE))
            return;
        g_usleep(1000);
    }
}

static void close_(void *opaque, BlkExport *blk)
{
    FexpExport *x = blk_export_serving(blk);

    unmount(x);
    if (!blk_export_sessions(blk))
        fexp_cut(x);
}

static void disconnect(void *opaque, BlkExport *blk)
{
    FexpExport *x = blk_export_serving(blk);

    fexp_cut(x);
    fexp_resize_stop(x);
}

static void end(void *opaque, BlkExport *blk)
{
    export_free(blk_export_serving(blk));
}

/* ---- queries */

static void describe(void *opaque, BlkExport *blk, json_object *info)
{
    FexpExport *x = blk_export_serving(blk);

    tm_json_add_string(info, "mountpoint", x->path);
    tm_json_add_uint(info, "open-files", blk_export_sessions(blk));
}

void fexp_register(BlkExports *exports, FexpMounter *mounter)
{
    BlkExportType type = {
        .name = "fuse",
        .start = start,
        .settle = settle,
        .close = close_,
        .disconnect = disconnect,
        .end = end,
        .describe = describe,
        .opaque = mounter,
    };

    blk_exports_add_type(exports, &type);
}
