/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/engine/gate.h: the requests of one user of a node, counted from beginning to end, so that
 * the user can be given another node between two of them.
 *
 * A closed gate lets nothing in: what comes is parked, and begins when the gate opens. So no thread
 * waits at it, and what is inside, which may need workers or loops, comes to its end.
 *
 * Threads: any; close, wait and open one at a time. */
#pragma once
#include "block/engine/engine.h"
#include <pthread.h>

typedef struct BlkGate {
    uint32_t state;       /* atomic: how many are inside | CLOSED */
    pthread_mutex_t lock; /* guards the rest; a leaf */
    pthread_cond_t empty;
    BlkWork *first, **last; /* parked */
    unsigned closed;        /* how often over */
} BlkGate;

void blk_gate_init(BlkGate *gate);
void blk_gate_destroy(BlkGate *gate);

/* false: it is closed, and @work is parked, which blk_gate_open() returns. */
bool blk_gate_enter(BlkGate *gate, BlkWork *work);
void blk_gate_leave(BlkGate *gate);
unsigned blk_gate_inside(const BlkGate *gate); /* how many are */

void blk_gate_close(BlkGate *gate); /* nests */
void blk_gate_wait(BlkGate *gate);  /* closed: until nobody is inside */
/* What was parked, in order, linked by next, which is inside now; NULL: nothing, or it is still
 * closed. */
BlkWork *blk_gate_open(BlkGate *gate);
