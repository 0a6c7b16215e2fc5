/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* daemon/pidfile.h: --pidfile: the process id in a file that stays locked while the daemon lives.
 *
 * What is at the path is taken over only if it is a file of one name that holds a number or
 * nothing, is no symbolic link, and nobody has locked it; it is removed only while it is still this
 * one. */
#pragma once
#include <glib.h>
#include <stdbool.h>

typedef struct Pidfile Pidfile;

/* Creates and locks @path and writes the id. Errors: not creatable, held by another process,
 * something else. */
Pidfile *pidfile_create(const char *path, GError **error);
/* Removes the file; NULL is fine. */
void pidfile_remove(Pidfile *pidfile);
