/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/place.h: what a repository needs of the place where it is, as a table.
 *
 * The files have the same names and contents in every place (docs/repository.md). A path is the
 * repository's (tc_repo_path()), that of a point's directory or one of tc_repo_file(); it names the
 * file in messages, whatever the place is.
 *
 * Threads: main. */
#pragma once
#include "client/repository/hashes.h"
#include "client/repository/repository.h"
#include "util/sys.h"

typedef struct TcRepoPlace {
    /* Whether images can be changed where they are: points within a chain can be removed. */
    bool merges;

    /* ---- the repository as a whole */

    /* Whether @path is one, without opening it. */
    bool (*is)(const char *path);
    /* Before anything else: that it can be used. @create: makes what is not there, short of the
     * file that says what it is. */
    bool (*prepare)(TcRepository *repo, bool create, GError **error);
    /* That it has nothing but what an interrupted attempt to make a repository leaves. */
    bool (*is_empty)(const TcRepository *repo, GError **error);
    void (*close)(TcRepository *repo); /* NULL: nothing is open */

    /* For repo->use and as long as @options say, or an error that says who has it. */
    bool (*lock)(TcRepository *repo, const TcRepoOptions *options, GError **error);
    void (*unlock)(TcRepository *repo);
    /* Has the locks of @use as well, if that needs no waiting; else those that it has. */
    bool (*relock)(TcRepository *repo, TcRepoUse use);
    /* See tc_repo_is_written() and tc_repo_place(). */
    bool (*is_written)(const TcRepository *repo);
    char *(*tag)(const TcRepository *repo);

    /* ---- names and small files */

    /* The names in the repository, or in a point: char *, returned. */
    GPtrArray *(*list)(const TcRepository *repo, const char *path, GError **error);
    /* Something is there, whatever it is. */
    bool (*exists)(const TcRepository *repo, const char *path);
    bool (*is_readable)(const TcRepository *repo, const char *path);
    bool (*is_directory)(const TcRepository *repo, const char *path);
    /* The bytes that a file occupies; UINT64_MAX: there is no such file. */
    uint64_t (*occupied)(const TcRepository *repo, const char *path);
    /* All of it; TC_REPO_ERROR_DAMAGED: it is not there, or is no file. */
    bool (*read)(const TcRepository *repo, const char *path, size_t max, char **text,
                 size_t *length, GError **error);
    /* As a whole and durably, whether it was there or not. */
    bool (*replace)(const TcRepository *repo, const char *path, const char *text, GError **error);

    /* ---- points */

    /* Makes that of a new point, which is debris until its manifest is there. @made: something is
     * there, even if it fails. */
    bool (*begin_point)(const TcRepository *repo, const char *path, bool *made, GError **error);
    /* Where its files are written, in a file system; @path is one of tc_repo_file(). Returned. */
    char *(*work_path)(const TcRepository *repo, const char *path);
    /* The files that were written there, which are synced, are in the place for good. @files are
     * paths of tc_repo_file(). */
    bool (*end_point)(const TcRepository *repo, const char *path, const GPtrArray *files,
                      GError **error);
    /* See tc_repo_sent(). NULL: nothing is sent. */
    void (*sent)(const TcRepository *repo, uint64_t *done, uint64_t *total);
    /* It has no manifest any more, durably: it is debris. */
    bool (*withdraw)(const TcRepository *repo, const char *point, GError **error);
    /* Removes that of a point that has no manifest, if it has nothing but what is ours. */
    bool (*remove_point)(const TcRepository *repo, const char *path, GError **error);

    /* ---- images and hashes that are read */

    /* A descriptor of the file, or of as much of its beginning as has the header and the names of
     * an image; -1. TC_REPO_ERROR_DAMAGED: it is not there, or is no file. */
    int (*open_head)(const TcRepository *repo, const char *path, struct stat *st, GError **error);
    /* The node that has its bytes, to be read, as BlockdevOptions. A new reference. */
    json_object *(*image)(const TcRepository *repo, const char *path);
    /* As tc_hashes_open(). */
    TcHashes *(*open_hashes)(const TcRepository *repo, const char *path, const char *tree,
                             uint64_t size, GError **error);
} TcRepoPlace;

extern const TcRepoPlace tc_repo_directory; /* directory.c */
extern const TcRepoPlace tc_repo_bucket;    /* bucket.c */

/* The one that @path names. Static. */
const TcRepoPlace *tc_repo_place_of(const char *path);
