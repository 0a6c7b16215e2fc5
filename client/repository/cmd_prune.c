/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/cmd_prune.c: "tidemark prune": removes the points that a rule does not keep. */
#include "client/commands.h"
#include "client/repository/keep.h"
#include "client/repository/removal.h"
#include <string.h>

static const TcOption options[] = {
    { "keep", "KIND=N,...", "the newest N that are last, hourly, daily, weekly, monthly, yearly" },
    TC_REMOVAL_OPTIONS,
    { 0 },
};

static bool parse(const TcInvocation *inv, TcKeep *keep, GError **error)
{
    bool said = false;

    for (guint i = 0; i < inv->given->len; i++) {
        const TcGiven *given = &g_array_index(inv->given, TcGiven, i);

        if (strcmp(given->option->name, "keep"))
            continue;
        if (!tc_keep_parse(given->value, keep, error))
            return false;
        said = true;
    }
    return said || tm_error_set(error, "option --keep is missing, for example --keep "
                                       "last=7,daily=14,weekly=8,monthly=12");
}

static void apply(const TcKeep *keep, GArray *fates)
{
    g_autofree uint64_t *instants = g_new0(uint64_t, fates->len + 1);
    g_autofree char **why = g_new0(char *, fates->len + 1);

    for (guint i = 0; i < fates->len; i++)
        instants[i] = g_array_index(fates, TcFate, i).instant;
    tc_keep_apply(keep, instants, fates->len, why);
    for (guint i = 0; i < fates->len; i++) {
        TcFate *f = &g_array_index(fates, TcFate, i);

        g_free(f->why);
        f->why = why[i];
    }
}

static int run(const TcInvocation *inv)
{
    TcKeep keep = { 0 };
    g_autoptr(GError) error = NULL;
    g_autoptr(TcRemoval) removal = NULL;
    int status;

    if (!parse(inv, &keep, &error))
        return tc_fail_usage(inv, g_steal_pointer(&error));
    removal = tc_removal_new(inv, &status);
    if (!removal)
        return status;
    apply(&keep, tc_removal_fates(removal));
    return tc_removal_run(removal);
}

const TcCommand tc_command_prune = {
    .name = "prune",
    .args = "REPOSITORY",
    .summary = "Removes the points of a repository that a rule does not keep",
    .details =
        "last=N keeps the newest N points; hourly, daily, weekly, monthly and yearly the newest\n"
        "point of each of the newest N periods of local time that have one; N may be all. The\n"
        "newest point stays in any case. Points within a chain are removed by merging: of each,\n"
        "the next increment is written, and no source is read. It can be interrupted at any\n"
        "moment: the points that stay read as before.\n",
    .min_args = 1,
    .max_args = 1,
    .options = options,
    .run = run,
};
