/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/unit/repository_util.h: a repository in a directory of the test, and disks that are written
 * as text. */
#pragma once
#include "client/repository/new_point.h"
#include "client/repository/repository.h"
#include "tests/asserts.h"
#include "util/range.h"

#include <glib/gstdio.h>

#define B TC_BLOCK

static char *dir, *path; /* a directory of the test, and the repository in it */

static inline void make_dir(void)
{
    dir = g_dir_make_tmp("tidemark-repository-XXXXXX", NULL);
    ck_assert_ptr_nonnull(dir);
    path = g_build_filename(dir, "repo", NULL);
}

static inline void remove_all(const char *name)
{
    g_autoptr(GDir) d = g_dir_open(name, 0, NULL);
    const char *entry;

    while (d && (entry = g_dir_read_name(d))) {
        g_autofree char *below = g_build_filename(name, entry, NULL);

        if (g_file_test(below, G_FILE_TEST_IS_DIR) && !g_file_test(below, G_FILE_TEST_IS_SYMLINK))
            remove_all(below);
        else
            g_unlink(below);
    }
    g_rmdir(name);
}

static inline void remove_dir(void)
{
    remove_all(dir);
    g_free(dir);
    g_free(path);
}

static inline void no_error(const GError *error)
{
    ck_assert_msg(!error, "%s", error ? error->message : "");
}

static inline TcRepository *open_repo(TcRepoUse use, const TmSys *sys, GError **error)
{
    TcRepoOptions options = {
        .use = use, .create = use == TC_REPO_ADD, .what = "a test", .sys = sys
    };

    return tc_repo_open(path, &options, error);
}

static inline TcRepository *repo_for(TcRepoUse use)
{
    g_autoptr(GError) error = NULL;
    TcRepository *repo = open_repo(use, NULL, &error);

    no_error(error);
    return repo;
}

/* A disk is written as a letter a block: its bytes, '0' for zeroes, '.' for nothing. */
static inline void fill(uint8_t *buf, char letter, uint64_t block, uint64_t length)
{
    for (uint64_t i = 0; i < length; i++)
        buf[i] = letter == '0' ? 0 : (uint8_t)(letter + i * 7 + i / 251 + block);
}

static inline TcRuns *runs_of(const char *blocks, uint64_t size)
{
    TcRuns *runs = tc_runs_new(size);

    for (uint64_t i = 0; blocks[i]; i++) {
        TcRunKind kind = blocks[i] == '.'   ? TC_RUN_NONE
                         : blocks[i] == 'z' ? TC_RUN_ZERO
                                            : TC_RUN_DATA;

        ck_assert(tc_runs_add(runs, i * B, tm_min(B, size - i * B), kind, NULL));
    }
    ck_assert(tc_runs_end(runs, NULL));
    return runs;
}

static inline int write_blocks(TcNewDisk *disk, const char *blocks, uint64_t size)
{
    uint8_t buf[B];
    int ret = 0;

    for (uint64_t i = 0; blocks[i] && ret == 0; i++) {
        uint64_t n = tm_min(B, size - i * B);

        fill(buf, blocks[i], i, n);
        if (blocks[i] != '.' && blocks[i] != 'z')
            ret = tc_new_disk_write(disk, i * B, buf, n);
    }
    return ret;
}
