/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/copy/transfer.h: carries a plan out: many reads in flight on several connections, each
 * with its thread, which writes what arrives into a sink.
 *
 * Invariant: a byte counts as done when the sink has it (not yet synced). The first failure
 * stops all threads and is the one reported. Several transfers may run at once. Threads:
 * tc_transfer_run is called by one; tc_transfer_cancel and tc_transfer_counts by any meanwhile. */
#pragma once
#include "client/copy/plan.h"
#include "client/copy/rate.h"
#include "client/copy/sink.h"
#include "client/copy/source.h"

typedef struct TcTransfer TcTransfer;

typedef struct TcTransferCounts {
    uint64_t done;   /* bytes of the plan, read or zeroed */
    uint64_t read;   /* bytes from the source */
    uint64_t zeroed; /* bytes of the sink made zero, without reading or having read zeroes */
} TcTransferCounts;

enum { TC_CONNECTIONS_MAX = 64, TC_REQUESTS_MAX = 1024 };
#define TC_READ_SIZE (UINT64_C(256) << 10)

typedef struct TcTransferOptions {
    unsigned connections; /* @source's, and more if the server allows that; 1 at least */
    unsigned requests;    /* reads in flight on each */
    unsigned
        writers;  /* threads that store what has arrived, if there are not as many connections */
    bool fresh;   /* the sink reads as zeroes: zeroes that are read need no writing */
    bool release; /* trim what has been stored: see backup-begin */
    TcRate *rate; /* borrowed; NULL: no limit */
} TcTransferOptions;

/* @source and @plan are borrowed and outlive the transfer. */
TcTransfer *tc_transfer_new(TcSource *source, TcPlan *plan, const TcTransferOptions *options);
/* False with @error set when something failed, or without one when it was cancelled. @sink is
 * borrowed, @name what messages call it: "target 'disk.img'". Runs once. */
bool tc_transfer_run(TcTransfer *transfer, TcSink *sink, const char *name, GError **error);
/* Threads: any, at any time between new and free. */
void tc_transfer_cancel(TcTransfer *transfer);
void tc_transfer_counts(TcTransfer *transfer, TcTransferCounts *counts);
/* Connections that were used: to be asked when it has run. */
unsigned tc_transfer_connections(const TcTransfer *transfer);
void tc_transfer_free(TcTransfer *transfer);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TcTransfer, tc_transfer_free)
