/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/fuse/none.c: exports of the type "fuse" in a build without libfuse3: there are none. */
#include "server/fuse/fuse.h"

#include "util/error.h"

FexpMounter *fexp_mounter_new(void)
{
    return NULL;
}

void fexp_mounter_seal(FexpMounter *mounter, const char *why)
{
}

void fexp_mounter_free(FexpMounter *mounter)
{
}

static bool start(void *opaque, BlkExport *x, const BlkExportOptions *options, GError **error)
{
    return tm_error_set(
        error,
        "Export '%s' of type 'fuse' is not possible: this program was built without libfuse3",
        blk_export_id(x));
}

void fexp_register(BlkExports *exports, FexpMounter *mounter)
{
    BlkExportType type = { .name = "fuse", .start = start };

    blk_exports_add_type(exports, &type);
}
