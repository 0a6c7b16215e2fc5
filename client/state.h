/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/state.h: what a range of a disk holds, as people are shown it.
 *
 * Pure functions; any thread. */
#pragma once
#include "util/extent.h"
#include <inttypes.h>

/* The more important, the greater. */
typedef enum { TC_HOLE, TC_ZERO, TC_DATA, TC_DIRTY, TC_STATES } TcState;

/* base:allocation's flags (TM_STATE_*) as a state. */
static inline TcState tc_state_of_allocation(uint32_t flags)
{
    return flags & TM_STATE_HOLE ? TC_HOLE : flags & TM_STATE_ZERO ? TC_ZERO : TC_DATA;
}
