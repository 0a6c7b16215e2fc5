/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/io/copy_up.h: what a node shows of its backing becomes its own: copy-on-read.
 *
 * What is read stays the same, so no bitmap of the node, or of one above it, is marked. What a
 * format writes to its file for that is marked there, as any other write. */
#pragma once
#include "block/node.h"

/* Whether the first of the range, or a part of it, may be in a backing only. *length: how far that
 * holds. Doesn't wait. The caller has the range in flight on a node above. Any thread. */
bool blk_copy_up_due(BlkNode *node, uint64_t offset, uint64_t *length);

/* Copies what is in a backing only, of @node or the node whose content it shows, in whole clusters.
 * @bottom: the name of the lowest layer of which something is copied; NULL: there is none. 0 or
 * -errno, with some of it copied. The same caller, on the blocking lane. */
int blk_copy_up(BlkNode *node, const char *bottom, uint64_t offset, uint64_t length);

/* The child whose content a filter shows, or NULL: it is none. Borrowed. */
BlkNode *blk_copy_up_filtered(const BlkNode *node);
