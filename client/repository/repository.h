/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/repository.h: recovery points, in a directory or in another place
 * (client/repository/place.h; docs/repository.md).
 *
 *   REPOSITORY/tidemark-repository.json   what it is: format, version, id
 *   REPOSITORY/lock                       who works on it
 *   REPOSITORY/POINT/manifest.json        written last: a point is there whole or not at all
 *   REPOSITORY/POINT/DISK.qcow2           its disks, each on its parent by a relative name
 *   REPOSITORY/POINT/DISK.hashes          and their hashes
 *   REPOSITORY/POINT/verified.json        the last result of verify
 *   REPOSITORY/merge.json                 a merge that is under way (client/repository/merge.h)
 *
 * Threads: main. */
#pragma once
#include "client/repository/manifest.h"
#include "util/sys.h"

typedef struct TcRepository TcRepository;

/* What a command is about to do, and with whom it can go on at the same time. */
typedef enum {
    TC_REPO_LIST,   /* reads what there is: takes no lock */
    TC_REPO_READ,   /* reads points: beside LIST, READ and ADD */
    TC_REPO_ADD,    /* adds a point: beside LIST and READ */
    TC_REPO_CHANGE, /* changes or removes points: beside LIST only */
} TcRepoUse;

typedef struct TcRepoOptions {
    TcRepoUse use;
    bool create;      /* make it (and @path) if it is not there, or is an empty directory */
    int wait_s;       /* for others to end: 0 not at all, -1 for ever */
    const char *what; /* the command, for whoever else waits: "tidemark backup" */
    const TmSys *sys; /* borrowed; NULL: the kernel's, which follow no link */
} TcRepoOptions;

/* Opens it, locks it, reads its manifests and, for ADD and CHANGE, completes a merge that was
 * interrupted and removes debris (which it logs). A point whose manifest is damaged is no error
 * here: see tc_repo_damaged(). Errors say who holds the lock. */
TcRepository *tc_repo_open(const char *path, const TcRepoOptions *options, GError **error);
void tc_repo_close(TcRepository *repo);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TcRepository, tc_repo_close)
/* A descriptor that holds its lock, for a process that goes on using it; -1: it needs none. */
int tc_repo_lock_fd(const TcRepository *repo);
/* Whether @path is a repository, without opening it. */
bool tc_repo_is(const char *path);
/* Whether @path names a place in a bucket: "s3://...". */
bool tc_repo_is_bucket(const char *path);

const char *tc_repo_path(const TcRepository *repo);
const char *tc_repo_id(const TcRepository *repo); /* a UUID */
/* Distinguishes the place from its copies, which have the same id: 8 hexadecimal digits.
 * Returned. The repository is locked. */
char *tc_repo_place(const TcRepository *repo);
const TmSys *tc_repo_sys(const TcRepository *repo);
/* Whether somebody adds, changes or removes points just now. */
bool tc_repo_is_written(const TcRepository *repo);
/* Bytes of new points that were sent to where the repository is, and all that are to be; *total 0:
 * none are. Threads: any. */
void tc_repo_sent(const TcRepository *repo, uint64_t *done, uint64_t *total);

/* TcManifest, borrowed, the oldest first: in their order, which is not always that of instants. */
const GPtrArray *tc_repo_points(const TcRepository *repo);
/* By name; or "latest"; or the newest that is not after a time ("2026-11-28", "2026-11-28 13:00",
 * local, or RFC 3339): the end of the day, minute or second that it names. Borrowed; the error
 * names what there is. */
TcManifest *tc_repo_find(const TcRepository *repo, const char *at, GError **error);
/* No point that can be used has that name: false, with an error that names those that there are. */
bool tc_repo_fail_name(const TcRepository *repo, const char *name, GError **error);
/* Only by name; borrowed or NULL. */
TcManifest *tc_repo_point(const TcRepository *repo, const char *name);
/* The newest point that has disk @name, or NULL: none. */
TcManifest *tc_repo_newest(const TcRepository *repo, const char *name);
/* The points whose disk @name stands on @point: TcManifest, returned. */
GPtrArray *tc_repo_children(const TcRepository *repo, const TcManifest *point, const char *name);
/* What @disk of @point stands on: TcManifest, itself first and a full last, each with the disk in
 * the same size; returned. TC_REPO_ERROR_DAMAGED: it is not so. */
GPtrArray *tc_repo_chain(const TcRepository *repo, const TcManifest *point, const char *disk,
                         GError **error);

typedef struct TcDamaged {
    char *point; /* the directory */
    char *why;
} TcDamaged;
const GPtrArray *tc_repo_damaged(const TcRepository *repo); /* TcDamaged */
/* Directories of points that were never completed: char *. */
const GPtrArray *tc_repo_debris(const TcRepository *repo);
/* Names in it that are none of a repository's: char *. */
const GPtrArray *tc_repo_foreign(const TcRepository *repo);

/* REPOSITORY/POINT/DISK.SUFFIX ("qcow2", "hashes"), or with DISK NULL REPOSITORY/POINT/SUFFIX.
 * Returned. */
char *tc_repo_file(const TcRepository *repo, const char *point, const char *disk,
                   const char *suffix);
/* Whether something is at such a path, or at that of a point. */
bool tc_repo_has(const TcRepository *repo, const char *path);
bool tc_repo_is_readable(const TcRepository *repo, const char *path);

/* Replaces POINT/manifest.json durably. CHANGE only. @manifest is taken on success. */
bool tc_repo_replace(TcRepository *repo, TcManifest *manifest, GError **error);
/* Removes the point from the repository: first its manifest, then its files. CHANGE only. The
 * caller has seen to it that nothing stands on it. */
bool tc_repo_remove(TcRepository *repo, const char *point, GError **error);
