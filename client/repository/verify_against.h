/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/verify_against.h: "tidemark verify --against". Threads: main. */
#pragma once
#include "client/cli.h"
#include "client/progress.h"
#include "client/repository/repository.h"

/* Compares and reports; the exit status. @repo is open to READ. */
int tc_run_verify_against(const TcInvocation *invocation, TcRepository *repo,
                          const TcManifest *point, TcProgress *progress);
