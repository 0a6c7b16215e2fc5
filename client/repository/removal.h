/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/removal.h: commands that remove points: what that costs is said first, then it
 * is done, with progress, and can be interrupted at any moment.
 *
 * The oldest goes first, so each increment is written once at most; where images are not merged,
 * the newest does. Threads: main. */
#pragma once
#include "client/cli.h"
#include "client/repository/merge.h"

/* What becomes of a point. */
typedef struct TcFate {
    char *point;
    uint64_t instant;
    char *why;   /* it stays, or NULL: it goes */
    bool wanted; /* that it stays; else it only can't go */
    TcMergeCost cost;
} TcFate;

typedef struct TcRemoval TcRemoval;

/* Opens the repository that is the first argument of @inv, which has the options
 * TC_REMOVAL_OPTIONS. NULL: *status is that of the command, which was reported. */
TcRemoval *tc_removal_new(const TcInvocation *inv, int *status);
TcRepository *tc_removal_repo(TcRemoval *removal); /* borrowed */
/* TcFate of every point, the oldest first: all stay, with no reason (why is ""). Borrowed. */
GArray *tc_removal_fates(TcRemoval *removal);
/* The @i-th of them in the order in which they are removed. Borrowed. */
TcFate *tc_removal_fate(const TcRemoval *removal, guint i);
/* Carries it out. Returns the status of the command. */
int tc_removal_run(TcRemoval *removal);
void tc_removal_free(TcRemoval *removal);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TcRemoval, tc_removal_free)

#define TC_REMOVAL_OPTIONS                                                                         \
    { "dry-run", NULL, "only show what would be removed" }, TC_WAIT_OPTION, TC_NO_PROGRESS_OPTION, \
        TC_EVENTS_OPTION
