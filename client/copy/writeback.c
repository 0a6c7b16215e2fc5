/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/copy/writeback.c: see writeback.h. */
#include "client/copy/writeback.h"
#include <fcntl.h>

#define STEP (UINT64_C(16) << 20)

void tc_writeback(TcWriteback *w, uint64_t length)
{
    uint64_t before = w->fd < 0 ? 0 : atomic_fetch_add(&w->written, length);

    if (w->fd >= 0 && before / STEP != (before + length) / STEP)
        sync_file_range(w->fd, 0, 0, SYNC_FILE_RANGE_WRITE);
}
