/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/users.h: users that follow their node to another one: what block/filters.c and those who
 * use nodes so need. The rest about users is in block/node.h. */
#pragma once
#include "block/node.h"

/* Its requests go through block/io/request.h's functions for users, and it reaches its node
 * otherwise only between enter and leave: filters that are put in or taken out get between it and
 * its node. Before it does any of that. Main thread. */
void blk_user_follow(BlkUser *user);
/* Borrowed until leave; enter may wait for a moment. Any thread, inside of no node. */
BlkNode *blk_user_enter(BlkUser *user);
void blk_user_leave(BlkUser *user);

/* A request has ended; for block/io/request.h. Any thread. */
void blk_user_done(BlkUser *user);
/* How many have begun and not ended. Any thread. */
unsigned blk_user_inside(const BlkUser *user);

/* It may be released meanwhile. block/node_life.c */
BlkUser *blk_user_ref(BlkUser *user);
void blk_user_unref(BlkUser *user);

/* That the node is nobody's backing: an overlay relies on it. Main thread. */
bool blk_node_check_no_backing(BlkNode *node, GError **error);

/* References to the users of a node. Main thread, as the next. */
GPtrArray *blk_users_list(BlkNode *node);
/* Gives those of @users that are still users that other node. They are quiesced: nothing of theirs
 * is in flight. All or, if there is a conflict, none. */
bool blk_users_move(GPtrArray *users, BlkNode *to, GError **error);
