/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/bucket_none.c: repositories in buckets, in a build without libcurl. */
#include "client/repository/repository_internal.h"

static bool is(const char *path)
{
    return true; /* opening it reports the reason */
}

static bool prepare(TcRepository *repo, bool create, GError **error)
{
    return tm_error_set(error, "'%s' can't be opened: this program was built without libcurl",
                        repo->path);
}

static void unlock(TcRepository *repo)
{
}

const TcRepoPlace tc_repo_bucket = { .is = is, .prepare = prepare, .unlock = unlock };
