/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* bitmap/store/keeper.h: who keeps a store that is not a file: something that has bytes under a
 * name, changes them at one instant, and knows which of several hosts may write them.
 *
 * Of a keeper it is asked that
 *  K1  a write happens as a whole or not at all, after those that were made before it, and is
 *      durable when it returns 0;
 *  K2  open() for writing shuts out whoever had it open for writing before: no write of theirs
 *      happens from then on, not even one that is on its way, and each returns an error;
 *  K3  after abandon() nobody writes to the disk through this node any more.
 *
 * Threads: any; the callers of one keeper come one at a time, but for abandon(). All but abandon()
 * may wait for as long as it takes. */
#pragma once
#include "include/tidemark/driver.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct tidemark_piece BmpPiece;

typedef struct BmpKeeper {
    void *opaque; /* borrowed by whoever has the keeper, as long as that is */
    /* *size: how many bytes there are; 0: no store. 0 or -errno; for reading only -EBUSY if
     * somebody has it open for writing. May be called again. */
    int (*open)(void *opaque, bool read_only, uint64_t *size);
    /* All of it, or -errno. */
    int (*read)(void *opaque, void *data, uint64_t length, uint64_t offset);
    /* The pieces, ascending, and then the length is @size; @replace: of what was there before
     * nothing stays. 0 or -errno: whether it has happened is unknown, but it will not happen
     * later. */
    int (*write)(void *opaque, const BmpPiece *pieces, size_t n, uint64_t size, bool replace);
    void (*abandon)(void *opaque);
} BmpKeeper;
