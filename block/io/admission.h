/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/io/admission.h: takes a request past the throttles (block/io/throttle.h) that it reaches as
 * a whole, before it begins. */
#pragma once
#include <stdbool.h>

typedef struct BlkRequest BlkRequest;

/* false: it waits at one, and waiter.go() is called, maybe before this returns; then it is to be
 * asked again. Throttles whose state it can't learn without waiting are left to the lanes. Any
 * thread. */
bool blk_admit(BlkRequest *request);
