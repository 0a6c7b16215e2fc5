/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/top/frame.c: see frame.h. */
#include "client/top/frame.h"
#include "client/text.h"
#include <string.h>

static const char *const styles[TC_STYLES] = {
    [TC_STYLE_PLAIN] = "",           [TC_STYLE_BAR] = "\033[7m",
    [TC_STYLE_HEADER] = "\033[1m",   [TC_STYLE_SORTED] = "\033[1;4m",
    [TC_STYLE_SELECTED] = "\033[7m", [TC_STYLE_TITLE] = "\033[1;36m",
    [TC_STYLE_DIM] = "\033[2m",      [TC_STYLE_GOOD] = "\033[36m",
    [TC_STYLE_WARN] = "\033[33m",    [TC_STYLE_BAD] = "\033[1;31m",
};

TcFrame *tc_frame_new(unsigned columns, bool colors, bool utf8)
{
    TcFrame *frame = g_new0(TcFrame, 1);

    frame->columns = columns;
    frame->colors = colors;
    frame->utf8 = utf8;
    frame->lines = g_ptr_array_new_with_free_func(g_free);
    frame->line = g_string_new(NULL);
    return frame;
}

void tc_frame_free(TcFrame *frame)
{
    if (!frame)
        return;
    g_ptr_array_unref(frame->lines);
    g_string_free(frame->line, TRUE);
    g_free(frame);
}

/* @text is printable. */
static void put_clean(TcFrame *frame, TcStyle style, const char *text)
{
    size_t length = tc_text_fit(text, frame->columns - frame->used);
    bool styled = frame->colors && *styles[style] && length;
    g_autofree char *fitting = g_strndup(text, length);

    g_string_append(frame->line, styled ? styles[style] : "");
    g_string_append(frame->line, fitting);
    g_string_append(frame->line, styled ? "\033[0m" : "");
    frame->used += tc_text_width(fitting);
}

/* @text as this terminal can show it. Returned. */
static char *cleaned(const TcFrame *frame, const char *text)
{
    g_autofree char *clean = tc_printable(text);

    return frame->utf8 ? g_steal_pointer(&clean) : g_str_to_ascii(clean, "C");
}

void tc_frame_put(TcFrame *frame, TcStyle style, const char *text)
{
    g_autofree char *clean = cleaned(frame, text);

    put_clean(frame, style, clean);
}

void tc_frame_field(TcFrame *frame, TcStyle style, const char *text, unsigned width, bool right)
{
    g_autofree char *clean = cleaned(frame, text);
    g_autoptr(GString) field = g_string_new(clean);
    unsigned used = tc_text_width(clean);

    if (used > width) {
        g_string_truncate(field, tc_text_fit(clean, width ? width - 1 : 0));
        g_string_append(field, width ? (frame->utf8 ? "\u2026" : "~") : "");
        used = tc_text_width(field->str);
    }
    while (used < width) {
        if (right)
            g_string_prepend_c(field, ' ');
        else
            g_string_append_c(field, ' ');
        used++;
    }
    put_clean(frame, style, field->str);
}

void tc_frame_gauge(TcFrame *frame, TcStyle style, double part, unsigned width)
{
    unsigned full = (unsigned)(CLAMP(part, 0, 1) * width + 0.5);
    g_autoptr(GString) text = g_string_new(NULL), rest = g_string_new(NULL);

    for (unsigned i = 0; i < width; i++)
        g_string_append(i < full ? text : rest,
                        i < full ? (frame->utf8 ? "\u2588" : "#") : (frame->utf8 ? "\u2591" : "."));
    put_clean(frame, style, text->str);
    put_clean(frame, TC_STYLE_DIM, rest->str);
}

void tc_frame_history(TcFrame *frame, TcStyle style, const double *values, unsigned count,
                      unsigned width)
{
    static const char *const blocks[] = { " ",      "\u2581", "\u2582", "\u2583", "\u2584",
                                          "\u2585", "\u2586", "\u2587", "\u2588" };
    static const char *const ascii[] = { " ", ".", ".", ":", ":", "+", "+", "#", "#" };
    const char *const *heights = frame->utf8 ? blocks : ascii;
    unsigned first = count > width ? count - width : 0;
    g_autoptr(GString) text = g_string_new(NULL);
    double highest = 0;

    for (unsigned i = first; i < count; i++)
        highest = MAX(highest, values[i]);
    for (unsigned i = 0; i + count - first < width; i++)
        g_string_append_c(text, ' ');
    /* what is not nothing shows */
    for (unsigned i = first; i < count; i++)
        g_string_append(text, heights[values[i] > 0 ? 1 + (unsigned)(values[i] / highest * 7) : 0]);
    put_clean(frame, style, text->str);
}

void tc_frame_end(TcFrame *frame, TcStyle style)
{
    g_autofree char *blanks = g_strnfill(frame->columns - frame->used, ' ');

    if (style != TC_STYLE_PLAIN && frame->colors)
        put_clean(frame, style, blanks);
    if (!frame->colors)
        g_strchomp(frame->line->str);
    g_ptr_array_add(frame->lines, g_strdup(frame->line->str));
    g_string_truncate(frame->line, 0);
    frame->used = 0;
}
