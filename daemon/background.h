/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* daemon/background.h: --daemonize: the parent waits until the child is up, then leaves. */
#pragma once
#include <glib.h>
#include <stdbool.h>

/* Forks; the parent does not return: it exits with 0 once background_ready() is called, with 1 if
 * the child ends before. Before any thread is started. Returns a descriptor for
 * background_ready(). */
int background_start(GError **error);
/* The child: detaches from the terminal (standard streams go to /dev/null, the directory to /). */
bool background_ready(int fd, GError **error);
