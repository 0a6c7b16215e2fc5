/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/engine/engine_internal.h: ring.c: one io_uring, shared by the threads of an engine. */
#pragma once
#include "block/engine/engine.h"

typedef struct BlkRing BlkRing;

/* Errors: the kernel or its policy has no io_uring. */
BlkRing *blk_ring_new(GError **error);
void blk_ring_free(BlkRing *ring);             /* nothing may be in flight; NULL is fine */
bool blk_ring_add(BlkRing *ring, BlkAio *aio); /* false if it is full */
void blk_ring_submit(BlkRing *ring);
/* Readable when there is something to reap: by one thread at a time, which completes it. */
int blk_ring_event(const BlkRing *ring);
void blk_ring_reap(BlkRing *ring);
