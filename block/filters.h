/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/filters.h: putting filters in and taking them out while their disks are in use.
 *
 * A filter is put between its first child and those who use that: the parents, and the users that
 * follow (block/users.h), as exports do. What the filter itself stands on stays as it is (a target
 * whose backing is the source), and so do jobs.
 *
 * No request takes the old way when the new one is in force: requests of followers have ended, and
 * new ones are parked; what parents do in between waits for its child.
 *
 * Main thread. */
#pragma once
#include "block/node.h"

/* No request of what stands on one of those nodes, nor of their followers, is in flight, nor begins
 * before the end. Nests; within a hold, filters are put in and out, and changes of bitmaps are
 * made (block/bitmaps.h). What is flushed inside delays all: flush before. */
typedef struct BlkHold BlkHold;
BlkHold *blk_hold_begin(BlkNode *const *nodes, size_t n);
void blk_hold_end(BlkHold *hold); /* NULL is fine */

/* References to the users of @from that would use @to if it were put above @from: neither jobs nor
 * what @to stands on. */
GPtrArray *blk_users_above(BlkNode *from, const BlkNode *to);
/* Gives them all that node instead of theirs. Within a hold of both; blk_graph_sort() follows.
 * Errors: permission conflicts. */
bool blk_users_lift(GPtrArray *users, BlkNode *to, GError **error);

/* All @n of them at one instant, or none. The first child is what the filter has at that time, so
 * several filters of a disk come to stand one above the other. Errors: permission conflicts, with
 * QEMU's messages. */
bool blk_filters_insert(BlkNode *const *filters, size_t n, GError **error);
/* The users of the filters, but those that don't follow, use their first children instead. */
void blk_filters_remove(BlkNode *const *filters, size_t n);

/* The highest of the filters that code has put in above the node (a backup, a job), whose writers
 * have to be above them; the node itself if there is none. Borrowed. */
BlkNode *blk_filters_top(BlkNode *node);

/* The first node below the filters that code has put in at @node: what users mean by its place.
 * @node itself if it is no such filter. Borrowed. */
BlkNode *blk_filters_below(BlkNode *node);

/* Gives a user that follows another node. Errors: permission conflicts; @to is read-only. */
bool blk_user_move(BlkUser *user, BlkNode *to, GError **error);
