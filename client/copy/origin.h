/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/copy/origin.h: what a file remembers of the disk that it is a copy of.
 *
 * It is kept in an extended attribute of the file or, where the file system has none, in a file
 * beside it (FILE.tidemark-copy). It is JSON:
 *   { "version": 1, "state": "complete", "source": "nbd://host:10809/disk0", "bitmap": null,
 *     "file": "4711-1795916230.920846000" }
 * "file" is the file's inode number and time of birth. A record beside it of another file does not
 * count; an attribute goes with a duplicate ('cp -a', 'rsync -X', 'mv' to another file system),
 * which later updates of the original pass by. 'mv' within a file system keeps both.
 * Invariant: a file is called complete only once all of it has been synced.
 * Threads: any, one at a time for a file. */
#pragma once
#include "util/error.h"
#include "util/sys.h"

typedef enum {
    TC_ORIGIN_NONE,     /* nothing is known */
    TC_ORIGIN_COMPLETE, /* it is as the disk was */
    TC_ORIGIN_COPYING,  /* a full copy began */
    TC_ORIGIN_UPDATING, /* a copy of what is dirty in the bitmap began */
} TcOriginState;

typedef struct TcOrigin {
    TcOriginState state;
    char *source; /* as tc_origin_source() has it */
    char *bitmap; /* NULL but for UPDATING */
    bool moved;   /* the record is that of another file, of which this one is a duplicate */
} TcOrigin;

void tc_origin_clear(TcOrigin *origin);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(TcOrigin, tc_origin_clear)
/* The disk at an NBD URI, without what may change from copy to copy: TLS, the current directory,
 * the spelling. Returned. */
char *tc_origin_source(const char *uri);
/* Fills @origin, which tc_origin_clear() empties, for the file at @path. What can't be understood
 * is TC_ORIGIN_NONE. Errors: it can't be read. */
bool tc_origin_read(const TmSys *sys, const char *path, TcOrigin *origin, GError **error);
/* Makes the file @fd at @path remember it, durably; NULL: that it is no copy. */
bool tc_origin_write(const TmSys *sys, int fd, const char *path, const TcOrigin *origin,
                     GError **error);
