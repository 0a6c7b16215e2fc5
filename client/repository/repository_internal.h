/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/repository_internal.h: what the files of a repository share.
 *
 * Threads: main. */
#pragma once
#include "client/repository/place.h"
#include "util/file.h"

#define TC_REPO_FILE     "tidemark-repository.json"
#define TC_REPO_LOCK     "lock"
#define TC_REPO_LAST     "last.json"
#define TC_REPO_MERGE    "merge.json"
#define TC_REPO_VERIFIED "verified.json"

struct TcRepository {
    const TcRepoPlace *place;
    const TmSys *sys;
    char *path, *id;
    TcRepoUse use;
    int lock_fd;
    struct TcBucket *bucket; /* bucket.h; NULL: it is in none */
    GPtrArray *points, *damaged, *debris, *foreign;
    TcManifest *going; /* client/repository/merge.h; NULL: none */
};

/* ---- images.c */

/* A file as the node that has the bytes of an image. A new reference. */
json_object *tc_repo_file_options(const char *path, bool writable);

/* ---- lock.c: the locks of directories, as TcRepoPlace has them */

bool tc_directory_lock(TcRepository *repo, const TcRepoOptions *options, GError **error);
void tc_directory_unlock(TcRepository *repo);
bool tc_directory_relock(TcRepository *repo, TcRepoUse use);
bool tc_directory_is_written(const TcRepository *repo);
char *tc_directory_tag(const TcRepository *repo);

/* ---- files.c: files of directories, but for the first */

/* Whether it can be a file of a point. */
bool tc_repo_is_own_file(const char *name);
/* Whether something is at @path, a link that leads nowhere included. */
bool tc_repo_exists(const char *path);
/* Whether it is a directory itself, and no link to one. */
bool tc_repo_is_directory(const char *path);
/* For reading: a regular file, or TC_REPO_ERROR_DAMAGED: it is something else, or not there; or
 * another error, which says nothing of it. The descriptor, or -1. */
int tc_repo_open_file(const char *path, struct stat *st, GError **error);
/* As tm_file_read(), of a file that is opened so. */
bool tc_repo_read_file(const char *path, size_t max, char **text, size_t *length, GError **error);
/* Of what was made, renamed or removed. */
bool tc_repo_sync_name(const TmSys *sys, const char *path, GError **error);

/* Removes the directory of a point that has no manifest, if it has nothing but what is ours. */
bool tc_repo_remove_directory(const TmSys *sys, const char *path, GError **error);

/* ---- scan.c */

/* Fills points, damaged, debris and foreign anew. */
bool tc_repo_scan(TcRepository *repo, GError **error);

/* ---- time.c */

/* *end: ns since 1970 after the day, minute or second that @text names. */
bool tc_repo_parse_time(const char *text, uint64_t *end);

/* ---- repository.c */

/* There is a point of that name: false. */
bool tc_repo_name_taken(const TcRepository *repo, const char *point, GError **error);

/* As tc_repo_point(), or the one that is going: what others may stand on. */
TcManifest *tc_repo_standing(const TcRepository *repo, const char *name);
void tc_repo_sort(TcRepository *repo);
/* Its manifest is on the medium. @manifest is taken, and replaces one of the same name. */
void tc_repo_add_point(TcRepository *repo, TcManifest *manifest);
