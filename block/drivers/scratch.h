/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/scratch.h: what code that made a scratch node knows of it besides its driver.
 *
 * Threads: any, but for what says otherwise. */
#pragma once
#include "block/node.h"

/* How much room some scratch nodes may take together, and take. */
typedef struct BlkScratchBudget BlkScratchBudget;

BlkScratchBudget *blk_scratch_budget_new(uint64_t limit); /* bytes; 0: as much as there is */
void blk_scratch_budget_unref(BlkScratchBudget *budget);  /* its nodes keep it; NULL is fine */
uint64_t blk_scratch_budget_used(const BlkScratchBudget *budget);

/* The node, of driver scratch and not yet written, shares that instead of its own max-size. Main
 * thread. */
void blk_scratch_share(BlkNode *node, BlkScratchBudget *budget);
