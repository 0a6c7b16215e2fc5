/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/permissions.h: who may do what with a node: QEMU's permissions (BLK_PERM_* of its block.c).
 *
 * Each user of a node, that is a parent, an export or a job, needs some permissions and shares some
 * with the others. What a parent needs of a child and shares on it follows from what its own users
 * need and share, and from what the child is to it (block/parents.h). Whatever would bring together
 * one who needs a permission and one who doesn't share it is refused, with QEMU's message. Below
 * them all a file takes its image locks for what its users need and don't share.
 *
 * What differs from QEMU: parents don't share resize (they remember the size of what is below;
 * copy-before-write shares growing), and a data file is not shared for writing any more than the
 * image is.
 *
 * Two rules are not QEMU's, and are for image locks alone, so towards other programs: a disk that
 * is written through has no other writer; nor has one with bitmaps that is open for writing, for
 * they would not see what is written. In one process they do (block/parents.h).
 *
 * Threads: main, but for what says otherwise. */
#pragma once
#include "block/node.h"

/* A user of its node from now on, or no longer; what a parent needs and shares follows. Join: on
 * failure, too, it is to leave. Leave: any thread. */
bool blk_permissions_join(BlkUser *user, GError **error);
void blk_permissions_leave(BlkUser *user);

/* Gives each of @users, one at least, that is one still the node in *others, which becomes what it
 * had; NULL: it was released. All or, if there is a conflict, none. References stay the
 * caller's. */
bool blk_permissions_exchange(GPtrArray *users, BlkNode **others, GError **error);

/* Computes anew what @n nodes, one at least, need of what is below, and takes locks. On failure all
 * is as before. */
bool blk_permissions_refresh(BlkNode *const *nodes, size_t n, GError **error);

/* Whether the node has bitmaps to guard; false can't fail. */
bool blk_permissions_guard(BlkNode *node, bool guard, GError **error);
/* Whether nobody may write to its backing, as the node could not store what it has to mark then. */
bool blk_permissions_freeze(BlkNode *node, bool frozen, GError **error);

/* What takes and gives back the driver's handle, which locks hang on, does it between these. */
void blk_permissions_lock(BlkNode *node);
void blk_permissions_unlock(BlkNode *node);

/* Who doesn't share those of @needs that others may want (borrowed), or NULL. */
const char *blk_permissions_unshared(BlkNode *node, unsigned needs);
/* Whether a user that is no node needs to write. */
bool blk_permissions_written(BlkNode *node);
/* Whether anybody does but nodes that are among those. */
bool blk_permissions_written_beside(BlkNode *node, const GPtrArray *nodes);

/* How they are called; number i is that of the bit 1 << i. */
#define BLK_PERMS 5
/* The first are those that image locks know. */
#define BLK_PERMS_LOCKED 4
extern const char *const blk_perm_names[BLK_PERMS];

/* How a driver takes image locks. @needs and @unshared: BLK_PERM_*. */
typedef struct BlkLocks {
    /* Takes those that it doesn't hold yet. 0 or -errno, and then the host has the reason. */
    int (*take)(void *handle, unsigned needs, unsigned unshared);
    /* Gives back all others. */
    void (*keep)(void *handle, unsigned needs, unsigned unshared);
} BlkLocks;
