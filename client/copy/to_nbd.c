/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/copy/to_nbd.c: a raw file or device into an NBD export. */
#include "client/copy/copy_job.h"
#include "client/copy/origin.h"
#include "client/daemon/export_view.h"
#include "client/image/image.h"
#include "client/restore/lane_run.h"
#include "util/extent.h"
#include "util/range.h"
#include "util/sys.h"
#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

typedef struct ToNbd {
    int fd;
    TcPlace *place;
    bool empty; /* all of the target reads as zeroes: holes need no work */
    atomic_bool stop;
    int stop_fd; /* readable when nothing shall wait for the server any more */
} ToNbd;

static void to_nbd_free(TcCopyJob *job)
{
    ToNbd *n = job->own;

    tc_place_free(n->place);
    if (n->fd >= 0)
        close(n->fd);
    if (n->stop_fd >= 0)
        close(n->stop_fd);
    g_free(n);
}

/* ---- the source */

/* QEMU's lock of who writes to an image: client/copy/target.c has the others. */
static bool is_written(int fd)
{
    enum { USED_TO_WRITE = 101 };
    struct flock lock = {
        .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = USED_TO_WRITE, .l_len = 1
    };

    return !fcntl(fd, F_OFD_GETLK, &lock) && lock.l_type != F_UNLCK;
}

static bool open_file(TcCopyJob *job, ToNbd *n, GError **error)
{
    off_t end;

    n->fd = tm_sys_kernel.open(job->from, O_RDONLY | O_CLOEXEC, 0);
    end = n->fd < 0 ? -1 : lseek(n->fd, 0, SEEK_END);
    if (end < 0)
        return tm_error_set_errno(error, errno, "source '%s'", job->from);
    if (is_written(n->fd))
        return tm_error_set(
            error, "source '%s' is in use by another program, which may write to it", job->from);
    atomic_store(&job->size, (uint64_t)end);
    return true;
}

/* A device has no holes. */
static bool plan_file(TcCopyJob *job, ToNbd *n, GError **error)
{
    uint64_t size = atomic_load(&job->size), at = 0;

    job->plan = tc_plan_new(false, n->empty);
    while (at < size) {
        off_t data = lseek(n->fd, (off_t)at, SEEK_DATA);
        off_t hole = data < 0 ? -1 : lseek(n->fd, data, SEEK_HOLE);
        uint64_t from = data < 0 ? (errno == ENXIO ? size : at) : tm_min((uint64_t)data, size);
        uint64_t to = hole < 0 ? size : tm_min((uint64_t)hole, size);

        if ((from > at &&
             !tc_plan_add(job->plan, at, from - at, TM_STATE_ZERO | TM_STATE_HOLE, 0, error)) ||
            (to > from && !tc_plan_add(job->plan, from, to - from, 0, 0, error)))
            return false;
        at = to;
    }
    tc_copy_known(job);
    return true;
}

static bool read_piece(void *opaque, void *buf, const TcStep *step, GError **error)
{
    TcCopyJob *job = opaque;
    uint64_t done = 0;
    int ret = tm_read_all(&tm_sys_kernel, ((ToNbd *)job->own)->fd, buf, step->length, step->offset,
                          &done);

    if (!ret && done < step->length)
        return tm_error_set(error, "source '%s' has become shorter", job->from);
    return !ret || tm_error_set_errno(error, -ret, "reading source '%s' at offset %" PRIu64,
                                      job->from, step->offset);
}

/* ---- the target */

static bool find_data(void *opaque, uint64_t offset, uint64_t length, const uint32_t *values,
                      GError **error)
{
    *(bool *)opaque = *(bool *)opaque || !(values[0] & TM_STATE_ZERO);
    return true;
}

/* Whether all of the export reads as zeroes, as far as the server says so. */
static bool is_empty(const char *uri, bool *empty, GError **error)
{
    const char *contexts[] = { TC_CONTEXT_ALLOCATION, NULL };
    g_autoptr(TcSource) source = tc_source_open(uri, contexts, -1, error);
    bool data = false;

    if (!source || !tc_source_walk(source, find_data, &data, error))
        return false;
    *empty = !data;
    return true;
}

/* What is no copy of ours may be an image, whose bytes are not those of its disk. A guest can make
 * a raw disk look like that, too. */
static bool check_raw(const TcCopyJob *job, GError **error)
{
    const char *format = tc_image_probe(job->from, NULL);

    return g_strcmp0(format, "qcow2") ||
           tm_error_set(error,
                        "source '%s' begins as a qcow2 image, and only raw ones are copied: "
                        "'tidemark serve' makes an export of it, --force copies it as it is",
                        job->from);
}

/* A disk that something else is on is never overwritten by mistake. */
static bool check_target(TcCopyJob *job, bool empty, GError **error)
{
    g_autofree char *disk = tc_origin_source(job->uri);
    g_auto(TcOrigin) origin = { 0 };

    if (job->force)
        return true;
    if (!tc_origin_read(&tm_sys_kernel, job->from, &origin, error) ||
        (origin.state == TC_ORIGIN_NONE && !check_raw(job, error)))
        return false;
    if (origin.state > TC_ORIGIN_COMPLETE)
        return tm_error_set(error,
                            "source '%s' is an incomplete copy of %s: --force copies it all the "
                            "same",
                            job->from, origin.source);
    if (origin.state == TC_ORIGIN_COMPLETE && !strcmp(origin.source, disk))
        return true;
    return empty || tm_error_set(error,
                                 "target %s is not empty, and '%s' is not known to be a copy of "
                                 "it: --force overwrites it",
                                 disk, job->from);
}

static bool prepare(TcCopyJob *job, ToNbd *n, GError **error)
{
    TcPlaceOptions options = { .force = true,
                               .connections = (unsigned)job->connections,
                               .requests = (unsigned)job->requests,
                               .stop_fd = n->stop_fd };

    job->uri = tc_export_uri(job->to, job->socket, NULL, "'cp' copies files to files", error);
    if (!job->uri && !tc_is_file(job->to))
        g_prefix_error(error, "source '%s' is a file, so the target is a disk: ", job->from);
    if (!job->uri || !open_file(job, n, error) || !is_empty(job->uri, &n->empty, error) ||
        !check_target(job, n->empty, error))
        return false;
    n->place = tc_place_examine(job->uri, atomic_load(&job->size), &options, error);
    if (!n->place || !plan_file(job, n, error))
        return false;
    job->left_alone = tc_place_size(n->place) - atomic_load(&job->size);
    return true;
}

static bool to_nbd_run(TcCopyJob *job, GError **error)
{
    ToNbd *n = g_new0(ToNbd, 1);
    TcLaneRun run = { .rate = job->rate, .stop = &n->stop, .read = read_piece, .opaque = job };

    job->own = n;
    n->fd = -1;
    n->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (n->stop_fd < 0)
        return tm_error_set_errno(error, errno, "Could not make a descriptor");
    if (!prepare(job, n, error) || !tc_copy_begin(job))
        return false;
    run.place = n->place;
    run.plan = job->plan;
    job->used_connections = tc_place_lanes(n->place);
    if (!tc_place_begin(n->place, error) || !tc_lane_run(&run, error))
        return false;
    atomic_store(&job->stage, TC_STAGE_SYNC);
    return tc_place_finish(n->place, error);
}

static void to_nbd_counts(TcCopyJob *job, TcTransferCounts *counts)
{
    TcPlaceCounts of_place;

    tc_place_counts(((ToNbd *)job->own)->place, &of_place);
    *counts = (TcTransferCounts){ of_place.done, of_place.written, of_place.zeroed };
}

static void to_nbd_cancel(TcCopyJob *job)
{
    ToNbd *n = job->own;

    atomic_store(&n->stop, true);
    eventfd_write(n->stop_fd, 1);
}

static char *to_nbd_state(TcCopyJob *job)
{
    ToNbd *n = job->own;

    if (!n || !n->place)
        return NULL;
    if (atomic_load(&job->stage) == TC_STAGE_SYNC)
        return g_strdup_printf("target '%s' has all bytes, but they may not have reached the disk",
                               job->to);
    return tc_place_abandon(n->place, "run the same command again with --force");
}

const TcCopyKind tc_copy_to_nbd = {
    .run = to_nbd_run,
    .counts = to_nbd_counts,
    .cancel = to_nbd_cancel,
    .state = to_nbd_state,
    .free = to_nbd_free,
};
