/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/top/figures.h: what happened in a daemon between two moments.
 *
 * The daemon's counters only grow; a rate is the difference of two answers over the time between
 * them. The result is one JSON object, which 'tidemark top --json' prints and the screen draws, so
 * that both say the same. tidemark-top(1) describes its members. Figures that a server does not
 * count are absent. Threads: an object belongs to one. */
#pragma once
#include "client/daemon/qmp_client.h"

/* The kinds of requests, as members of the figures. */
typedef enum { TC_TOP_READ, TC_TOP_WRITE, TC_TOP_FLUSH, TC_TOP_DISCARD, TC_TOP_OPS } TcTopOp;
extern const char *const tc_top_ops[TC_TOP_OPS];

/* All that the daemon answers at this moment, an object by command: those that a server does not
 * have are absent. A new reference; NULL: the connection has ended, or it is not a block server. */
json_object *tc_top_ask(TcQmp *qmp, GError **error);
/* What happened in @seconds (> 0) from @before to @now, both of tc_top_ask(): a new reference.
 * @only (borrowed strings, NULL-terminated; empty: all) names disks by node, export id or export
 * name. */
json_object *tc_top_figures(json_object *before, json_object *now, double seconds,
                            const char *const *only);
/* Whether each name of @only is that of a disk in @now; the error suggests another one. */
bool tc_top_check_names(json_object *now, const char *const *only, GError **error);
