/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/bucket.h: what the files of a repository in a bucket share.
 *
 * Threads: main, but for what is said to be otherwise. */
#pragma once
#include "client/repository/repository_internal.h"
#include "s3/s3.h"
#include <pthread.h>

/* ---- bucket_lock.c: who may write at the same time */

/* The object "lock", which one writer has. Whoever has it writes it anew from time to time. If it
 * stays the same for TC_LEASE_S, another one may take it over. */
#define TC_LEASE_S 60u

typedef struct TcBucketLock {
    S3 *s3; /* borrowed */
    char *key;
    char *what;   /* the command */
    char *token;  /* of this lock, among all others */
    char *etag;   /* of what was written last; NULL: it is not ours */
    bool running; /* the thread that renews it is */
    pthread_t thread;
    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t wake;
    bool stop, lost;
    uint64_t count;   /* of what was written */
    gint64 confirmed; /* monotonic: when what was confirmed last was asked for */
} TcBucketLock;

void tc_bucket_lock_init(TcBucketLock *lock, S3 *s3, const char *key);
void tc_bucket_lock_clear(TcBucketLock *lock); /* gives it back */
/* @repo is for messages. */
bool tc_bucket_lock_take(TcBucketLock *lock, const TcRepository *repo, const TcRepoOptions *options,
                         GError **error);
/* That it is still ours. @now: asks the server, else by what it said last. */
bool tc_bucket_lock_check(TcBucketLock *lock, const TcRepository *repo, bool now, GError **error);
/* Whether somebody has it. */
bool tc_bucket_lock_is_held(TcBucketLock *lock);

/* ---- bucket_spool.c: files of this machine, for as long as the repository is open */

/* A new directory in TMPDIR, else in /var/tmp, that whoever comes after a crash removes. *fd keeps
 * it. Returned. */
char *tc_spool_new(int *fd, GError **error);
void tc_spool_free(char *path, int fd);

/* ---- bucket.c */

struct TcBucket {
    S3 *s3;
    char *bucket, *prefix; /* the prefix ends in '/', or is empty */
    GHashTable *objects;   /* names after the prefix: their sizes (uint64_t *) */
    TcBucketLock lock;
    char *spool; /* NULL: not needed so far */
    int spool_fd;
    _Atomic(uint64_t) sent, to_send; /* bytes of the files of new points */
};
