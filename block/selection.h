/* block/selection.h: making the selection of bitmaps that an export offers. Private to block/. */
#pragma once
#include "block/export.h"

/* The bitmaps named, of @node and the nodes below it, or of the nodes that the names give. All or
 * nothing; a reference. @exclusive: one that is busy elsewhere is refused, as QEMU does. Errors:
 * not found, busy, inconsistent, named twice, enabled on an export that cannot write. Main thread.
 */
BlkSelection *blk_selection_make(BlkNode *node, bool writable, const BlkBitmapName *names, size_t n,
                                 bool exclusive, GError **error);
