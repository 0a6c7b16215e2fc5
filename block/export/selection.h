/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/export/selection.h: making the selection of bitmaps that an export offers. Private to
 * block/. */
#pragma once
#include "block/export/export.h"

/* The bitmaps named, of @node and those whose content it shows, or of the nodes that the names
 * give: whatever size these have, what is beyond their end is clean. All or nothing; a reference.
 * @exclusive: one that is busy elsewhere is refused, as QEMU does. Errors: not found, busy,
 * inconsistent, named twice, enabled on an export that cannot write, unless its node was named.
 * Main thread. */
BlkSelection *blk_selection_make(BlkNode *node, bool writable, const BlkBitmapName *names, size_t n,
                                 bool exclusive, GError **error);
