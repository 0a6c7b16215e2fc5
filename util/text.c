/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* util/text.c: bytes as text. */
#include "util/text.h"

char *tm_text_of(const char *bytes, gsize length)
{
    GString *text = g_string_sized_new(length);
    const char *end = bytes + length;

    while (bytes < end) {
        const char *wrong;

        g_utf8_validate(bytes, end - bytes, &wrong);
        g_string_append_len(text, bytes, wrong - bytes);
        if (wrong < end)
            g_string_append_printf(text, "\\x%02x", (unsigned char)*wrong++);
        bytes = wrong;
    }
    return g_string_free(text, FALSE);
}
