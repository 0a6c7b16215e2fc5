/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/cmd_forget.c: "tidemark forget REPOSITORY POINT". */
#include "client/commands.h"
#include "client/repository/repository.h"
#include "client/repository/view.h"
#include "client/text.h"
#include <string.h>

static const TcOption options[] = {
    TC_WAIT_OPTION,
    { 0 },
};

/* Whether nothing stands on it. */
static bool check_free(const TcRepository *repo, const TcManifest *point, GError **error)
{
    for (guint i = 0; i < point->disks->len; i++) {
        const TcPointDisk *d = point->disks->pdata[i];
        g_autoptr(GPtrArray) children = tc_repo_children(repo, point->point, d->name);

        if (children->len)
            return tm_error_set(error,
                                "point '%s' stays: disk '%s' of point '%s' stands on it; forget "
                                "that one first",
                                point->point, d->name, ((TcManifest *)children->pdata[0])->point);
    }
    return true;
}

static bool forget(TcRepository *repo, const char *name, GError **error)
{
    const TcManifest *point = tc_repo_point(repo, name);
    uint64_t freed = 0;
    g_autofree char *size = NULL;

    if (!point)
        return tc_repo_find(repo, name, error) &&
               tm_error_set(error, "'%s' is not the name of a point", name);
    for (guint i = 0; i < point->disks->len; i++) {
        uint64_t n = tc_repo_occupied(repo, point->point, point->disks->pdata[i]);

        freed += n == UINT64_MAX ? 0 : n;
    }
    if (!check_free(repo, point, error) || !tc_repo_remove(repo, name, error))
        return false;
    size = tc_human_size(freed);
    printf("Removed point %s: %s freed.\n", name, size);
    return true;
}

static int run(const TcInvocation *inv)
{
    TcRepoOptions o = { .use = TC_REPO_CHANGE, .what = inv->path };
    g_autoptr(GError) error = NULL;
    g_autoptr(TcRepository) repo = NULL;

    if (!tc_option_wait(inv, &o.wait_s, &error))
        return tc_fail_usage(inv, g_steal_pointer(&error));
    repo = tc_repo_open(tc_arg(inv, 0), &o, &error);
    if (!repo || !forget(repo, tc_arg(inv, 1), &error))
        return tc_fail(g_steal_pointer(&error));
    return TC_EXIT_OK;
}

const TcCommand tc_command_forget = {
    .name = "forget",
    .args = "REPOSITORY POINT",
    .summary = "Removes a point from a repository",
    .details = "Other points keep all that they have.\n",
    .min_args = 2,
    .max_args = 2,
    .options = options,
    .run = run,
};
