/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/migrate/move.h: a disk goes from one daemon to another, with its exports and bitmaps.
 *
 * What a move needs to go on, or back, is in a file before anything is taken down: so whatever dies
 * meanwhile, the same move can be made again, in either direction. Each step asks what is there
 * and does the rest.
 *
 * Invariant: at most one of the daemons has the node active, and so can write. The locks of the
 * disk see to that, whatever this process believes. Threads: main. */
#pragma once
#include "client/backup/hook.h"
#include "client/daemon/qmp_client.h"

typedef struct TcMove {
    const char *node;     /* borrowed */
    const char *paths[2]; /* QMP sockets: of the source and of the target; borrowed */
    TcQmp *ends[2];       /* NULL: it does not answer */
    char *file;           /* the path of what is kept */
    json_object *kept;    /* that: "definition", "made", "stored", "exports", "bitmaps", "live" */
    double max_pause;     /* seconds */
    TcHook hook;          /* once the clients can go to the target */
    gint64 began;         /* of the pause, or 0; monotonic, us */
    double pause;         /* how long clients had to wait, in seconds */
} TcMove;

/* The path of what is kept of the move of @node, if the user names none. Returned. */
char *tc_move_file(const char *node);
/* Reads what an earlier move has left. *there: it is unfinished. Errors: it is of another move. */
bool tc_move_load(TcMove *move, bool *there, GError **error);
/* Before anything is taken down: what is to be moved, and whether the target can have it. */
bool tc_move_plan(TcMove *move, GError **error);
/* From the source to the target, or @back. */
bool tc_move_run(TcMove *move, bool back, GError **error);
/* Removes what is kept: the move is complete, or was taken back. */
void tc_move_drop(const TcMove *move);
/* (Re)opens the connections. *error: the target, or with @back the source, does not answer. */
bool tc_move_connect(TcMove *move, bool back, GError **error);
void tc_move_clear(TcMove *move);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(TcMove, tc_move_clear)

/* ---- shared by the files of this room */

/* The node of a daemon, of query-named-block-nodes: a reference; NULL without *error: it has
 * none. */
json_object *tc_move_node(TcQmp *qmp, const char *node, GError **error);
/* The bitmap of that name of such a node, borrowed; or NULL. */
json_object *tc_move_bitmap(json_object *node, const char *name);
/* Opens the node there, inactive, if it is not open. @end: index into paths. */
bool tc_move_provide(const TcMove *move, unsigned end, GError **error);
bool tc_move_save(const TcMove *move, GError **error);
