/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* daemon/fences.h: what the kernel can keep a process from: Landlock, seccomp, identities. What it
 * is used for is sandbox.h's.
 *
 * None of it can be taken back. Threads: the main one. */
#pragma once
#include <glib.h>
#include <stdbool.h>

/* The version of Landlock, 0: none. */
int landlock_version(void);
/* Forbids making anything but files and sockets, and executing; and, if @paths (NULL-terminated) is
 * given, whatever is not below one of them. A path that doesn't exist is passed over; one that
 * begins with "r:" is for reading only. 0 or -errno. */
int landlock_restrict(int version, char *const *paths);
/* @connects: the process may connect sockets. 0 or -errno. */
int seccomp_restrict(bool connects);
/* "NAME[:GROUP]", numbers or names. */
bool identity_drop(const char *who, GError **error);
