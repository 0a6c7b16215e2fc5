/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* util/text.c: see the header. */
#include "util/text.h"

#include <string.h>

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

char *tm_text_line(const char *bytes, gsize max)
{
    g_autofree char *text = tm_text_of(bytes, strnlen(bytes, max + 1));
    GString *line = g_string_sized_new(strlen(text));
    gsize fits = 0; /* with the dots after it */

    for (const char *at = text; *at && line->len <= max; at = g_utf8_next_char(at)) {
        gunichar c = g_utf8_get_char(at);

        if (!g_unichar_isprint(c))
            g_string_append_printf(line, "\\x%02x", c);
        else
            g_string_append_unichar(line, c);
        if (line->len <= max - 3)
            fits = line->len;
    }
    if (line->len > max) {
        g_string_truncate(line, fits);
        g_string_append(line, "...");
    }
    return g_string_free(line, FALSE);
}

#define WORD_MAX 48u /* what is longer is no slip */

static unsigned least(unsigned a, unsigned b, unsigned c)
{
    return MIN(MIN(a, b), c);
}

/* How many letters to change, add, remove or exchange with their neighbours (optimal string
 * alignment). Both have at most WORD_MAX. */
static unsigned distance(const char *a, const char *b)
{
    unsigned rows[3][WORD_MAX + 1];
    unsigned *before = rows[0], *last = rows[1], *now = rows[2];

    for (unsigned j = 0; j <= strlen(b); j++)
        last[j] = j;
    for (unsigned i = 1; a[i - 1]; i++) {
        unsigned *spare = before;

        now[0] = i;
        for (unsigned j = 1; b[j - 1]; j++) {
            char x = g_ascii_tolower(a[i - 1]), y = g_ascii_tolower(b[j - 1]);

            now[j] = least(last[j] + 1, now[j - 1] + 1, last[j - 1] + (x != y));
            if (i > 1 && j > 1 && x == g_ascii_tolower(b[j - 2]) && y == g_ascii_tolower(a[i - 2]))
                now[j] = MIN(now[j], before[j - 2] + 1);
        }
        before = last;
        last = now;
        now = spare;
    }
    return last[strlen(b)];
}

const char *tm_text_nearest(const char *word, const char *const *words)
{
    size_t length = strlen(word);
    unsigned best = (unsigned)CLAMP(length / 3, 1, 3) + 1; /* so far is too far */
    const char *found = NULL;

    if (length < 2 || length > WORD_MAX)
        return NULL;
    for (; *words; words++) {
        unsigned d = strlen(*words) <= WORD_MAX ? distance(word, *words) : best;

        if (length >= 3 && g_str_has_prefix(*words, word))
            d = MIN(d, 1);
        if (d < best) {
            best = d;
            found = *words;
        }
    }
    return found;
}
