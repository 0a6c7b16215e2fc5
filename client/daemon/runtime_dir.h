/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/daemon/runtime_dir.h: where the sockets of a user's own daemon are.
 *
 * Invariant: what is found in this directory was put there by this user (or root): nobody else can
 * write to it. Threads: any. */
#pragma once
#include "util/error.h"

#define TC_QMP_SOCKET_NAME "qmp.sock"
#define TC_NBD_SOCKET_NAME "nbd.sock"

/* $XDG_RUNTIME_DIR/tidemark; without that variable tidemark in /run/user/UID if that is the user's,
 * else /tmp/tidemark-UID. It need not exist. Returned. */
char *tc_runtime_dir(void);
/* Whether it exists, is this user's and can't be written by others. */
bool tc_runtime_dir_ours(const char *dir);
/* Makes @dir with mode 0700 and what is missing above it, and checks the above. */
bool tc_runtime_dir_make(const char *dir, GError **error);
/* Whether a program listens on the unix socket at @path. */
bool tc_socket_listens(const char *path);
