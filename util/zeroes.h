/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* util/zeroes.h: whether bytes are all zero.
 *
 * Any thread. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* Of none: true. The C library's vector code compares them, and stops at the first other byte. */
static inline bool tm_all_zero(const void *bytes, uint64_t length)
{
    const uint8_t *p = bytes;

    return !length || (!p[0] && !memcmp(p, p + 1, length - 1));
}
