/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/fuse/file.c: the file itself: opening it, its attributes.
 *
 * The kernel caches nothing of it: other clients may write to the disk, and resize it. */
#define FUSE_USE_VERSION 34
#include "server/fuse/fuse_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <stdio.h>
#include <unistd.h>

#define BACKGROUND 64 /* asynchronous requests that the kernel has under way */

static void op_init(void *userdata, struct fuse_conn_info *conn)
{
    conn->want &= ~(unsigned)(FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE);
    conn->max_read = FEXP_IO_MAX; /* as of fexp_fuse_new() */
    conn->max_write = MIN(conn->max_write, FEXP_IO_MAX);
    conn->max_background = BACKGROUND;
    conn->congestion_threshold = BACKGROUND * 3 / 4;
#ifdef FUSE_CAP_DIRECT_IO_ALLOW_MMAP
    conn->want |= conn->capable & FUSE_CAP_DIRECT_IO_ALLOW_MMAP;
#endif
}

/* The mount is one file. */
static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    fuse_reply_err(req, ENOENT);
}

/* ---- attributes */

/* The time changes when the node has been written to. */
static void note_changes(FexpExport *x, BlkNode *node)
{
    BlkCounts counts;
    uint64_t changes;

    blk_node_counts(node, &counts);
    changes = counts.operations[BLK_COUNT_WRITE] + counts.operations[BLK_COUNT_UNMAP] +
              counts.failed[BLK_COUNT_WRITE];
    if (x->mtime.tv_sec && x->changes == changes)
        return;
    x->changes = changes;
    clock_gettime(CLOCK_REALTIME, &x->mtime);
}

static void fill(FexpExport *x, struct stat *st)
{
    struct tidemark_info info;
    BlkNode *node = blk_user_enter(x->disk);
    TM_GUARD(&x->lock);

    blk_node_info(node, &info);
    note_changes(x, node);
    blk_user_leave(x->disk);
    *st = (struct stat){
        .st_ino = FUSE_ROOT_ID,
        .st_mode = S_IFREG | x->mode,
        .st_nlink = 1,
        .st_uid = x->uid,
        .st_gid = x->gid,
        .st_size = (off_t)info.size,
        .st_blksize = (blksize_t)MAX(FEXP_ALIGN, info.request_alignment),
        .st_blocks = (blkcnt_t)((info.allocated == UINT64_MAX ? info.size : info.allocated) / 512),
        .st_atim = x->mtime,
        .st_mtim = x->mtime,
        .st_ctim = x->mtime,
    };
}

static void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *info)
{
    struct stat st;

    fill(fuse_req_userdata(req), &st);
    fuse_reply_attr(req, &st, 0);
}

/* What can be done is done as a whole. */
static int check_attributes(const FexpExport *x, const struct stat *st, int set)
{
    int can = FUSE_SET_ATTR_SIZE | FUSE_SET_ATTR_MODE |
              (x->others ? FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID : 0);

    if (set & ~can)
        return ENOTSUP;
    /* Only the owner gets there. */
    if (set & FUSE_SET_ATTR_MODE && !x->others && st->st_mode & (S_IRWXG | S_IRWXO))
        return EPERM;
    if (set & FUSE_SET_ATTR_MODE && !x->writable && st->st_mode & (S_IWUSR | S_IWGRP | S_IWOTH))
        return EROFS;
    return set & FUSE_SET_ATTR_SIZE && !x->writable ? EACCES : 0;
}

static void set_attributes(FexpExport *x, const struct stat *st, int set)
{
    TM_GUARD(&x->lock);

    if (set & FUSE_SET_ATTR_MODE)
        x->mode = st->st_mode & 07777;
    if (set & FUSE_SET_ATTR_UID)
        x->uid = st->st_uid;
    if (set & FUSE_SET_ATTR_GID)
        x->gid = st->st_gid;
}

static void resized(FexpRequest *r, int result)
{
    struct stat st;

    if (result < 0) {
        fexp_answer(r, result);
        return;
    }
    set_attributes(r->x, &r->st, r->mode);
    fill(r->x, &st);
    fuse_reply_attr(r->req, &st, 0);
    fexp_request_end(r);
}

static void op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *st, int set,
                       struct fuse_file_info *info)
{
    FexpExport *x = fuse_req_userdata(req);
    int err = check_attributes(x, st, set);
    FexpRequest *r;

    if (err) {
        fuse_reply_err(req, err);
        return;
    }
    r = fexp_request_new(req);
    if (!r)
        return;
    r->st = *st;
    r->mode = set;
    if (set & FUSE_SET_ATTR_SIZE)
        fexp_resize(r, (uint64_t)st->st_size, false, resized);
    else
        resized(r, 0);
}

/* ---- opening */

/* A thread of this process would wait for the others, which may wait for it: a disk can't stand on
 * an export of the same daemon. */
static bool is_own_thread(fuse_req_t req)
{
    char path[64];

    snprintf(path, sizeof(path), "/proc/self/task/%ld", (long)fuse_req_ctx(req)->pid);
    return access(path, F_OK) == 0;
}

static int begin(FexpExport *x, fuse_req_t req, const struct fuse_file_info *info)
{
    int ret;

    if ((info->flags & O_ACCMODE) != O_RDONLY && !x->writable)
        return EACCES;
    if (is_own_thread(req))
        return EDEADLK;
    ret = blk_export_session_begin(x->blk);
    if (ret == 0)
        __atomic_add_fetch(&x->opens, 1, __ATOMIC_ACQ_REL);
    return -ret;
}

/* libfuse has no name for each flag of the kernel, which ignores those that it doesn't know. */
static void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *info)
{
    struct fuse_open_out out = {
        .fh = (info->flags & O_ACCMODE) != O_RDONLY,
        .open_flags = FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES,
    };
    int err = begin(fuse_req_userdata(req), req, info);

    if (err)
        fuse_reply_err(req, err);
    else
        fuse_reply_buf(req, (const char *)&out, sizeof(out));
}

static void op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *info)
{
    FexpExport *x = fuse_req_userdata(req);

    blk_export_session_end(x->blk);
    if (__atomic_sub_fetch(&x->opens, 1, __ATOMIC_ACQ_REL) == 0 && blk_export_shutting_down(x->blk))
        fexp_cut(x);
    fuse_reply_err(req, 0);
}

const struct fuse_lowlevel_ops fexp_operations = {
    .init = op_init,
    .lookup = op_lookup,
    .getattr = op_getattr,
    .setattr = op_setattr,
    .open = op_open,
    .read = fexp_op_read,
    .write = fexp_op_write,
    .flush = fexp_op_flush,
    .release = op_release,
    .fsync = fexp_op_fsync,
    .fallocate = fexp_op_fallocate,
    .lseek = fexp_op_lseek,
};
