/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* util/file.h: reading small files that a user names, without ever waiting for good; finding files
 * without leaving a directory; replacing small files as a whole; and making names durable.
 *
 * A path may lead to anything: opening a FIFO waits for who opens its other end, and a terminal or
 * a pipe may say nothing for ever.
 *
 * Threads: any. */
#pragma once
#include "util/sys.h"

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* A regular file or a pipe, for reading: a descriptor that doesn't wait, or -1. *size is that of a
 * file, UINT64_MAX for a pipe. */
int tm_file_open(const char *path, uint64_t *size, GError **error);
/* Reads to the end, @size bytes at most: how many there were; or -1. Waits a few seconds at most.
 * @path is for the message. */
ssize_t tm_file_fill(int fd, const char *path, void *buf, size_t size, GError **error);
/* A whole regular file. *text (g_free) ends in a NUL after *length bytes; @length may be NULL.
 * Errors: larger than @max. */
bool tm_file_read(const char *path, size_t max, char **text, size_t *length, GError **error);
/* An O_PATH descriptor of what @name leads to in @directory or below it: neither a link nor ".."
 * leads out of it. -1 and errno; EXDEV: it leads out of it. */
int tm_file_find_beneath(const char *directory, const char *name);

/* Makes durable that @path was made, renamed or removed, as far as that can be asked for: a
 * directory that can't be read, or whose file system syncs none, is passed over. 0 or -errno. */
int tm_file_sync_name(const TmSys *sys, const char *path);

/* What tm_file_replace() writes to first: @path with this added. Only a crash leaves it. */
#define TM_FILE_PARTIAL ".partial"
/* Replaces the file at @path as a whole, durably: what is there after a crash is all of the old
 * one or all of @text. A new file has @mode and the umask. On failure the old one is still there,
 * unless only its name could not be synced, which is not known then. The error names the file. */
bool tm_file_replace(const TmSys *sys, const char *path, const char *text, mode_t mode,
                     GError **error);
