/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* util/endian.h: big-endian (wire) and little-endian (store) loads and stores at any alignment. */
#pragma once
#include <endian.h>
#include <stdint.h>
#include <string.h>

#define TM_ENDIAN_PAIR(bits, order)                                                                \
    static inline uint##bits##_t tm_get_##order##bits(const void *p)                               \
    {                                                                                              \
        uint##bits##_t v;                                                                          \
        memcpy(&v, p, sizeof(v));                                                                  \
        return order##bits##toh(v);                                                                \
    }                                                                                              \
    static inline void tm_put_##order##bits(void *p, uint##bits##_t v)                             \
    {                                                                                              \
        v = hto##order##bits(v);                                                                   \
        memcpy(p, &v, sizeof(v));                                                                  \
    }

TM_ENDIAN_PAIR(16, be)
TM_ENDIAN_PAIR(32, be)
TM_ENDIAN_PAIR(64, be)
TM_ENDIAN_PAIR(16, le)
TM_ENDIAN_PAIR(32, le)
TM_ENDIAN_PAIR(64, le)
#undef TM_ENDIAN_PAIR
