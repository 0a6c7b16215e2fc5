/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* util/together.h: things that wait, done at the same time: syncs of many files take hardly longer
 * than one. Any thread. */
#pragma once
#include "util/sys.h"

/* @fn of each of 0 to @n - 1, on threads of their own, up to TM_TOGETHER_MAX at a time. Returns
 * when all have. */
void tm_together(void (*fn)(void *opaque, size_t i), void *opaque, size_t n);
#define TM_TOGETHER_MAX 32u

/* tm_fdatasync() of each; an entry of -1 is left out. results: 0 or -errno. With a table that is
 * not the kernel's one after the other: it may count the calls. */
void tm_fdatasync_all(const TmSys *sys, const int *fds, int *results, size_t n);
