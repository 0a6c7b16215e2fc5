/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/backup/hook.h: the user's commands, around a backup. Threads: any. */
#pragma once
#include "util/error.h"

typedef struct TcHook {
    const char *option;                      /* "--before", for messages */
    const char *command;                     /* for sh -c; NULL: there is none */
    const char *repository, *point, *result; /* TIDEMARK_REPOSITORY and so on; NULL: not set */
} TcHook;

/* Runs it to its end, its output on standard error. It fails if its status is not 0. */
bool tc_hook_run(const TcHook *hook, GError **error);
