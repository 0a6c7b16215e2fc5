/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/cmd_forget.c: "tidemark forget": removes points by their names. */
#include "client/commands.h"
#include "client/repository/removal.h"
#include <string.h>

static const TcOption options[] = {
    TC_REMOVAL_OPTIONS,
    { 0 },
};

static bool mark(TcRemoval *removal, const char *name, GError **error)
{
    GArray *fates = tc_removal_fates(removal);

    for (guint i = 0; i < fates->len; i++) {
        TcFate *f = &g_array_index(fates, TcFate, i);

        if (strcmp(f->point, name))
            continue;
        g_clear_pointer(&f->why, g_free);
        return true;
    }
    return tc_repo_fail_name(tc_removal_repo(removal), name, error);
}

/* A point that was named and can't go is an error; one that a rule leaves only stays. */
static bool check(TcRemoval *removal, GError **error)
{
    g_autoptr(TcMergePlan) plan = tc_merge_plan(tc_removal_repo(removal));
    GArray *fates = tc_removal_fates(removal);

    for (guint i = 0; i < fates->len; i++) {
        const TcFate *f = tc_removal_fate(removal, i);
        g_autofree char *kept = NULL;
        TcMergeCost cost = { 0 };

        if (f->why)
            continue;
        if (!tc_merge_plan_remove(plan, f->point, &cost, &kept, error))
            return false;
        if (kept)
            return tm_error_set(error, "point '%s' can't be removed: %s; nothing was changed",
                                f->point, kept);
    }
    return true;
}

static int run(const TcInvocation *inv)
{
    int status;
    g_autoptr(TcRemoval) removal = tc_removal_new(inv, &status);
    g_autoptr(GError) error = NULL;

    if (!removal)
        return status;
    for (guint i = 1; i < inv->args->len && tc_arg(inv, i); i++)
        if (!mark(removal, tc_arg(inv, i), &error))
            return tc_fail(g_steal_pointer(&error));
    if (!check(removal, &error))
        return tc_fail(g_steal_pointer(&error));
    return tc_removal_run(removal);
}

const TcCommand tc_command_forget = {
    .name = "forget",
    .args = "REPOSITORY POINT...",
    .summary = "Removes points from a repository",
    .details =
        "Other points keep all that they have: a point within a chain is removed by merging, as\n"
        "'tidemark prune' does. A point on which two others stand can't be removed.\n",
    .min_args = 2,
    .max_args = -1,
    .options = options,
    .run = run,
};
