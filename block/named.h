/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/named.h: which of the files that an image names may be opened.
 *
 * An image may come from anybody, and what it names may be anything. A name is a path, relative to
 * the directory of the image; what else a backing file may be called (block/described.h) is opened
 * only where any name is. Threads: any. */
#pragma once
#include <stdbool.h>

/* The choices of an option, NULL-terminated, and its default. In "directory", the first, the name
 * must lead to a regular file in the image's own directory or below it, whatever links and ".." it
 * has. With "any" it may lead anywhere, with "none" nowhere. */
extern const char *const blk_names_choices[];
#define BLK_NAMES_DEFAULT "directory"

/* What @name means in the image @image (a path; NULL: it is in no file). @which: "directory" or
 * "any". 0 or -errno:
 *   -EPROTONOSUPPORT  it is no path
 *   -EXDEV            "directory" does not allow it
 *   other             it can't be opened
 * *path: the path, also when it can't be opened; returned (g_free). *fd: refers (O_PATH) to the
 * file that it led to, so that blk_name_is() can compare it with what was opened; -1 with "any". */
int blk_name_resolve(const char *image, const char *name, const char *which, char **path, int *fd);
/* Whether the file that is open as @opened is the one of *fd. */
bool blk_name_is(int fd, int opened);
