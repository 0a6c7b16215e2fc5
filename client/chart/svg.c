/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/chart/svg.c: a chart as SVG 1.1, with its title and its content in words for screen
 * readers, and without scripts, fonts or anything from elsewhere. */
#include "client/chart/drawing.h"
#include "client/text.h"
#include <string.h>

static void rect(void *opaque, unsigned x, unsigned y, unsigned width, unsigned height,
                 uint32_t rgb, int class)
{
    g_string_append_printf(opaque, "<rect x=\"%u\" y=\"%u\" width=\"%u\" height=\"%u\"", x, y,
                           width, height);
    if (class >= 0)
        g_string_append_printf(opaque, " class=\"c%d\"/>\n", class);
    else
        g_string_append_printf(opaque, " fill=\"#%06" PRIx32 "\"/>\n", rgb);
}

static char *escaped(const char *text)
{
    g_autofree char *clean = tc_printable(text);

    return g_markup_escape_text(clean, -1);
}

static void text(void *opaque, unsigned x, unsigned y, unsigned size, TcAnchor anchor, uint32_t rgb,
                 const char *words)
{
    g_autofree char *clean = escaped(words);

    g_string_append_printf(
        opaque, "<text x=\"%u\" y=\"%u\" font-size=\"%u\" fill=\"#%06" PRIx32 "\"%s>%s</text>\n", x,
        y, size, rgb, anchor == TC_ANCHOR_END ? " text-anchor=\"end\"" : "", clean);
}

GString *tc_drawing_svg(const TcChart *chart)
{
    GString *out = g_string_new("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    TcPainter painter = { out, rect, text };
    g_autofree char *title = escaped(chart->title), *words = tc_drawing_words(chart);
    g_autofree char *description = escaped(words);
    unsigned width, height;

    tc_drawing_size(chart, &width, &height);
    g_string_append_printf(out,
                           "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%u\" height=\"%u\" "
                           "viewBox=\"0 0 %u %u\" role=\"img\" aria-labelledby=\"title words\" "
                           "font-family=\"sans-serif\" shape-rendering=\"crispEdges\">\n"
                           "<title id=\"title\">%s</title>\n<desc id=\"words\">%s</desc>\n<style>",
                           width, height, width, height, title, description);
    for (guint i = 0; i < chart->classes->len; i++)
        g_string_append_printf(out, ".c%u{fill:#%06" PRIx32 "}", i,
                               g_array_index(chart->classes, TcChartClass, i).rgb);
    g_string_append(out, "</style>\n");
    tc_drawing_paint(chart, &painter);
    g_string_append(out, "</svg>\n");
    return out;
}
