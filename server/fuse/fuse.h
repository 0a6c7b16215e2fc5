/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/fuse/fuse.h: exports of the type "fuse": a node as a file, through libfuse3.
 *
 * The file is mounted over one that exists. Mounting needs rights that the daemon gives up, so a
 * process of its own does it, the mounter: it is started before the sandbox stands, mounts and
 * unmounts what the daemon asks it to, and unmounts everything when the daemon has ended, be it by
 * a kill. Main thread. */
#pragma once
#include "block/export/export.h"

typedef struct FexpMounter FexpMounter;

/* Starts the process. Before any thread is started, and before files are restricted. Where nothing
 * can be mounted, mounting says why. Returned: fexp_mounter_free. */
FexpMounter *fexp_mounter_new(void);
/* From now on it mounts nothing more; @why is borrowed, a constant. NULL is fine. */
void fexp_mounter_seal(FexpMounter *mounter, const char *why);
/* Nothing is mounted any more. Waits for the process to end, for some seconds at most. NULL is
 * fine. */
void fexp_mounter_free(FexpMounter *mounter);

/* Registers the type with @exports, and takes it out again, when there are no such exports any
 * more. @mounter: borrowed, outlives the exports; NULL: none was started. */
void fexp_register(BlkExports *exports, FexpMounter *mounter);
