/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/serve/fuse_none.c: fuse_disks.h without libfuse3. */
#include "client/serve/fuse_disks.h"

const char *tc_fuse_missing(void)
{
    return "this program was built without libfuse3: 'tidemark serve REPOSITORY --at POINT' "
           "exports the disks over NBD";
}

bool tc_fuse_run(const char *dir, const GPtrArray *disks, uint64_t instant, const char *source,
                 void (*ready)(void *opaque), void *opaque, GError **error)
{
    return tm_error_set(error, "%s", tc_fuse_missing());
}
