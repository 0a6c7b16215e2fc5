/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/chart/write.c: a drawing into a file. */
#include "client/chart/drawing.h"
#include <errno.h>
#include <string.h>

bool tc_chart_write(const TcChart *chart, TcChartFormat format, const char *path, GError **error)
{
    GString *text = (format == TC_CHART_SVG ? tc_drawing_svg : tc_drawing_png)(chart);
    bool to_stdout = !strcmp(path, "-");
    FILE *out = to_stdout ? stdout : fopen(path, "we");
    bool done = out && fwrite(text->str, 1, text->len, out) == text->len && !fflush(out);
    int problem = errno;

    g_string_free(text, TRUE);
    if (out && !to_stdout && fclose(out) && done) {
        problem = errno;
        done = false;
    }
    return done || tm_error_set_errno(error, problem, "could not write '%s'", path);
}
