/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/vhost/verify.h: requests of all types at random places, whose results are checked: each
 * block has the bytes that the last request gave it. */
#pragma once
#include "tests/vhost/client.h"

/* A part of the disk that one queue has for itself. */
typedef struct Verify Verify;

Verify *verify_new(uint64_t first, uint64_t blocks, uint32_t block, uint64_t seed);
void verify_free(Verify *v);
/* Blocks that requests may have changed; of NULL 0. */
uint64_t verify_changed(const Verify *v);
/* Submits the next request; with @reads, one that reads what was not read yet. false: there is none
 * that may begin now. */
bool verify_submit(Verify *v, VcQueue *q, VcRequest *r, bool reads);
/* It is done. Ends the program if it did not succeed, or what it read is wrong. */
void verify_done(Verify *v, const VcRequest *r);
