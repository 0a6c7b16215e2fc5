/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/error.h: the errors of repositories that have an exit status of their own.
 *
 * Threads: any. */
#pragma once
#include "util/error.h"

#define TC_REPO_ERROR tc_repo_error_quark()
GQuark tc_repo_error_quark(void);
typedef enum { TC_REPO_ERROR_LOCKED, TC_REPO_ERROR_DAMAGED } TcRepoError;

/* As tm_error_set(): always false. */
bool tc_repo_error_set(GError **error, TcRepoError code, const char *format, ...)
    G_GNUC_PRINTF(3, 4);
