/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/fuse/fuse_internal.h: what the files about FUSE exports share.
 *
 *   mount.c       the process that mounts; mounter.c is the daemon's end of it
 *   session.c     the connection to the kernel: who holds it, requests, their bounds
 *   data.c        read, write, flush, zeroing
 *   allocate.c    fallocate
 *   size.c        what changes the size, which the main thread does
 *   seek.c        SEEK_DATA, SEEK_HOLE
 *   file.c        open, attributes, the table of operations
 *   channel.c     takes requests from the kernel, on the loop threads
 *   export.c      the type of exports
 *
 * The connection holds a reference to the export, and is held by its channel and by each request.
 * When the last of them has gone, so has the connection: the kernel fails what is asked of the file
 * from then on. */
#pragma once
#include "server/fuse/fuse.h"

#include "block/io/request.h"
#include "util/log.h"
#include "util/sync.h"

#include <fuse_lowlevel.h>
#include <sys/stat.h>

#define FEXP_IO_MAX   (1u << 20) /* bytes of a read or write; the kernel's largest by default */
#define FEXP_RUNNING  128u       /* requests at a time; more stay with the kernel */
#define FEXP_ALIGN    4096u      /* of memory that a medium may want aligned */
#define FEXP_PATH_MAX 4096u
#define FEXP_TEXT_MAX 512u

typedef struct FexpExport FexpExport;
typedef struct FexpRequest FexpRequest;

/* Where requests come from. One loop thread at a time owns it. */
typedef struct FexpChannel {
    BlkSource source; /* an epoll set: the kernel's descriptor, and the one that ends it */
    FexpExport *x;
    bool busy;           /* atomic: it takes a request */
    struct fuse_buf buf; /* what is received; mem is libfuse's, or NULL */
    FexpRequest *spare;  /* or NULL */
    void *data;          /* FEXP_IO_MAX bytes for what is read, aligned; or NULL */
} FexpChannel;

struct FexpExport {
    int refs;       /* atomic: of the connection, see above */
    BlkExport *blk; /* the connection's reference */
    BlkUser *disk;  /* borrowed from it */
    BlkEngine *engine;
    FexpMounter *mounter;
    char *path;   /* where it is mounted, without symbolic links */
    bool mounted; /* main thread */
    bool writable, growable, others;
    size_t align; /* of memory that is written, for the medium's sake */
    struct fuse_session *fuse;
    int stop;  /* an eventfd: the channel ends */
    int set;   /* the channel's epoll set */
    bool cut;  /* atomic: everything ends */
    int opens; /* atomic: open files, each of which is a session of the export */
    FexpChannel channel;

    pthread_mutex_t lock; /* guards the rest; a leaf */
    unsigned running;     /* requests */
    bool paused;          /* the channel waits for them to become fewer */
    mode_t mode;
    uid_t uid;
    gid_t gid;
    uint64_t changes; /* of the node, at mtime */
    struct timespec mtime;
    FexpRequest *first, **last; /* those that the main thread has to do */
    guint idle;                 /* which will do them; 0: there are none */
};

struct FexpRequest {
    BlkRequest blk;
    FexpExport *x;
    fuse_req_t req;
    void *mem; /* freed with it; or NULL */
    BlkWork work;

    /* Done by the main thread: another size, then what follows from it. */
    uint64_t size;
    bool at_least; /* shorter is longer already */
    void (*then)(FexpRequest *r, int result);
    FexpRequest *next;

    /* An operation's own */
    int mode;       /* of fallocate, or to_set of setattr */
    int whence;     /* of lseek */
    struct stat st; /* of setattr */
};

/* ---- mounter.c; main thread */

/* Mounts over the regular file @path; returns the kernel's descriptor, or -1. @id is shown as the
 * source. *removed: a mount that a killed daemon had left there was removed first. */
int fexp_mount(FexpMounter *mounter, const char *path, const char *id, bool others, bool *removed,
               GError **error);
bool fexp_is_mounted(const FexpMounter *mounter, const char *path);
/* Takes the mount away from its path; files that are open stay so. */
bool fexp_unmount(FexpMounter *mounter, const char *path, GError **error);

/* ---- mount.c */

typedef enum { FEXP_MOUNT, FEXP_UNMOUNT, FEXP_SEAL } FexpOrder;
typedef struct FexpAsk {
    FexpOrder order;
    bool others;
    char id[FEXP_PATH_MAX], path[FEXP_PATH_MAX];
} FexpAsk;
typedef struct FexpAnswer {
    bool ok, removed;
    char text[FEXP_TEXT_MAX]; /* the error */
} FexpAnswer;
/* The process: serves @socket until its other end is closed. */
void fexp_mount_serve(int socket) __attribute__((noreturn));
/* A libfuse session that is like those of the process that mounts. NULL: no memory. */
struct fuse_session *fexp_fuse_new(const char *id, bool others, const struct fuse_lowlevel_ops *ops,
                                   size_t size, void *userdata);

/* ---- session.c; any thread */

void fexp_ref(FexpExport *x);
void fexp_unref(FexpExport *x);
/* Ends the channel and fails what waits; with the last request the connection ends. */
void fexp_cut(FexpExport *x);
bool fexp_is_cut(const FexpExport *x);
uint64_t fexp_size(FexpExport *x); /* of the disk, now */

/* A request that counts, and holds the connection, until it is put back. NULL: no memory, which is
 * answered. */
FexpRequest *fexp_request_new(fuse_req_t req);
/* It is answered. */
void fexp_request_end(FexpRequest *r);
/* Answers with an error, or with success where that has no value, and ends it. @result: 0 or
 * -errno. */
void fexp_answer(FexpRequest *r, int result);
/* Counts a request of the disk, and reports its failure, unless it was given up. */
void fexp_count(FexpRequest *r, int result);
/* Whether the channel may take one more; if not, it is armed when there are fewer. */
bool fexp_may_take(FexpExport *x);
/* The channel whose request this thread handles. */
FexpChannel *fexp_channel(void);
void fexp_set_channel(FexpChannel *channel);

/* ---- data.c */
void fexp_op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
                  struct fuse_file_info *info);
void fexp_op_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t offset,
                   struct fuse_file_info *info);
void fexp_op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *info);
void fexp_op_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *info);
/* Zeroes the range, which is within the disk, and answers. */
void fexp_zero(FexpRequest *r, uint64_t offset, uint64_t length, bool unmap);

/* ---- size.c */
/* Has the main thread give the disk that size, then calls @then there: 0 or -errno. */
void fexp_resize(FexpRequest *r, uint64_t size, bool at_least,
                 void (*then)(FexpRequest *r, int result));
/* Fails those that wait. Main thread. */
void fexp_resize_stop(FexpExport *x);

/* ---- seek.c */
void fexp_op_lseek(fuse_req_t req, fuse_ino_t ino, off_t offset, int whence,
                   struct fuse_file_info *info);

/* ---- allocate.c */
void fexp_op_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t offset, off_t length,
                       struct fuse_file_info *info);

/* ---- file.c */
extern const struct fuse_lowlevel_ops fexp_operations;

/* ---- channel.c */
/* Begins to take requests; takes a reference. */
bool fexp_channel_start(FexpExport *x, GError **error);
