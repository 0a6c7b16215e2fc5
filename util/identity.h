/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* util/identity.h: users and groups by their names or numbers.
 *
 * Threads: the main one (getpwnam). */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <sys/types.h>

/* @gid: the user's own group. A number may be nobody's: then that is its group, too. Outputs are
 * untouched on failure. */
bool tm_user_find(const char *name, uid_t *uid, gid_t *gid, GError **error);
bool tm_group_find(const char *name, gid_t *gid, GError **error);
/* "USER[:GROUP]". */
bool tm_identity_find(const char *who, uid_t *uid, gid_t *gid, GError **error);
