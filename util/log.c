/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* util/log.c: see the header. */
#include "util/log.h"

#include <string.h>
#include <unistd.h>

static int log_level = TM_LOG_INFO;

void tm_log_set_level(TmLogLevel level)
{
    g_atomic_int_set(&log_level, (int)level);
}

/* Names that are logged may come from an image or a client: none makes a line of its own. */
static void one_line(char *text)
{
    for (; *text; text++) {
        if (g_ascii_iscntrl(*text) && *text != '\t')
            *text = '?';
    }
}

void tm_log(TmLogLevel level, const char *format, ...)
{
    static const char *const prefix[] = { "", "warning: ", "", "debug: " };
    G_STATIC_ASSERT(G_N_ELEMENTS(prefix) == TM_LOG_LEVELS);
    g_autofree char *text = NULL;
    g_autofree char *line = NULL;
    va_list ap;

    if ((int)level > g_atomic_int_get(&log_level))
        return;
    va_start(ap, format);
    text = g_strdup_vprintf(format, ap);
    va_end(ap);
    one_line(text);
    line = g_strdup_printf("%s: %s%s\n", g_get_prgname() ? g_get_prgname() : "tidemark",
                           prefix[level], text);
    if (write(STDERR_FILENO, line, strlen(line)) < 0)
        return; /* nowhere left to say so */
}
