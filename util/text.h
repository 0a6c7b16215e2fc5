/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* util/text.h: bytes that should be text, and may not be; words that are nearly others.
 *
 * Threads: any. */
#pragma once
#include <glib.h>
#include <stdbool.h>

/* Whether it is UTF-8, and has no NUL in it. */
static inline bool tm_is_text(const char *bytes, gsize length)
{
    return g_utf8_validate(bytes, (gssize)length, NULL);
}

/* Text for people and JSON (g_free): the same if it is text; else what is none as \xNN. */
char *tm_text_of(const char *bytes, gsize length);

/* The same, without a NUL in it, as one line of at most @max bytes: what is not printable is shown
 * as \xNN, too, and what is too long is cut and ends in "...". @max is at least 8. */
char *tm_text_line(const char *text, gsize max);

/* Which of the @words (NULL-terminated) @word is a slip of: a few letters are wrong, missing, too
 * many or exchanged, or in the other case, or the end is missing. Borrowed; NULL: none of them. */
const char *tm_text_nearest(const char *word, const char *const *words);
