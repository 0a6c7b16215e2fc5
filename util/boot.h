/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* util/boot.h: which boot of the machine this is.
 *
 * Threads: any. */
#pragma once
#include <stdint.h>

/* The kernel's random identity of this boot (proc(5), random/boot_id). Where it can't be read,
 * random bytes: they equal no other answer, so nothing is taken to have survived since then. */
void tm_boot_id(uint8_t id[16]);
