/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/copy/writeback.h: the kernel begins to write a large file out while it is being made, so
 * that the sync at its end finds little left to do.
 *
 * A hint: it makes nothing durable, and its failure says nothing. Threads: any. */
#pragma once
#include <stdatomic.h>
#include <stdint.h>

typedef struct TcWriteback {
    int fd; /* borrowed; -1: do nothing */
    atomic_uint_fast64_t written;
} TcWriteback;

/* @length bytes more have been written into the file. */
void tc_writeback(TcWriteback *writeback, uint64_t length);
