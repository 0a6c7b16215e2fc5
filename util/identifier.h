/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* util/identifier.h: what QEMU takes for an id (util/id.c): letters, digits, '-', '.', '_',
 * beginning with a letter. Any thread. */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <string.h>

static inline bool tm_identifier(const char *text)
{
    return g_ascii_isalpha(text[0]) &&
           text[strspn(text, G_CSET_A_2_Z G_CSET_a_2_z G_CSET_DIGITS "-._")] == '\0';
}
