/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/top/view.h: the figures of a daemon as lines of text: the list of disks, or one of them.
 *
 * Threads: main. */
#pragma once
#include "client/top/frame.h"
#include <json-c/json.h>

typedef struct TcTopView {
    json_object *figures; /* of tc_top_figures(), borrowed; NULL: there are none yet */
    const char *socket;   /* borrowed */
    double interval;      /* seconds */
    bool paused, detail, help;
    const char *problem; /* why there are no newer figures, borrowed, or NULL */
    unsigned sort;       /* the column */
    char *selected;      /* node of the disk, owned by the view's owner, or NULL */
    GHashTable *history; /* node to GArray of TcTopMoment */
} TcTopView;

/* What a disk did in an interval, bytes a second. */
typedef struct TcTopMoment {
    double read, written;
} TcTopMoment;

enum { TC_TOP_HISTORY = 240 }; /* moments kept for each disk */

/* Columns that the disks can be sorted by. */
unsigned tc_top_sorts(void);
/* The disks of the figures in the order shown: json_object *, borrowed. Returned. */
GPtrArray *tc_top_disks(const TcTopView *view);
/* Adds the figures to the history of their disks. */
void tc_top_remember(TcTopView *view);
/* All of it, in @rows lines; 0: as many as it takes, for what is no screen. */
void tc_top_draw(const TcTopView *view, TcFrame *frame, unsigned rows);
