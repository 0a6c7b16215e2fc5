/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/copy/transfer.h: carries a plan out: many reads in flight on several connections, each
 * with its thread, which writes what arrives into the target.
 *
 * Invariant: a byte counts as done when it is in the target (not yet synced). The first failure
 * stops all threads and is the one reported. Threads: tc_transfer_run is called by one;
 * tc_transfer_cancel and tc_transfer_counts by any meanwhile. */
#pragma once
#include "client/copy/plan.h"
#include "client/copy/source.h"
#include "client/copy/target.h"

typedef struct TcTransfer TcTransfer;

typedef struct TcTransferCounts {
    uint64_t done;   /* bytes of the plan, read or zeroed */
    uint64_t read;   /* bytes from the source */
    uint64_t zeroed; /* bytes of the target made zero, without reading or having read zeroes */
} TcTransferCounts;

enum { TC_CONNECTIONS_MAX = 64, TC_REQUESTS_MAX = 1024 };
#define TC_READ_SIZE (UINT64_C(256) << 10)

/* All are borrowed and outlive the transfer. @source's connection is used too; up to
 * @connections - 1 more are made, if the server allows that. @fresh: reading zeroes needs no
 * writing. */
TcTransfer *tc_transfer_new(TcSource *source, TcPlan *plan, unsigned connections, unsigned requests,
                            bool fresh);
/* False with @error set when something failed, or without one when it was cancelled. @target is
 * borrowed. Runs once. */
bool tc_transfer_run(TcTransfer *transfer, TcTarget *target, GError **error);
/* Threads: any, at any time between new and free. */
void tc_transfer_cancel(TcTransfer *transfer);
void tc_transfer_counts(TcTransfer *transfer, TcTransferCounts *counts);
/* Connections that were used: to be asked when it has run. */
unsigned tc_transfer_connections(const TcTransfer *transfer);
void tc_transfer_free(TcTransfer *transfer);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TcTransfer, tc_transfer_free)
