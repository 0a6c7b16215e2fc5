/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/text.c: see text.h. */
#include "client/text.h"
#include <errno.h>
#include <langinfo.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static const char size_letters[] = "KMGTPE";

char *tc_human_size(uint64_t bytes)
{
    unsigned unit = 0;
    double scaled = (double)bytes;

    /* 1023.95 would be printed as 1024.0 of the smaller unit */
    while (scaled >= 1023.95 && size_letters[unit]) {
        scaled /= 1024;
        unit++;
    }
    if (!unit)
        return g_strdup_printf("%" PRIu64 " B", bytes);
    if (!(bytes & ((UINT64_C(1) << (10 * unit)) - 1)))
        return g_strdup_printf("%" PRIu64 " %ciB", bytes >> (10 * unit), size_letters[unit - 1]);
    return g_strdup_printf("%.1f %ciB", scaled, size_letters[unit - 1]);
}

char *tc_percent(uint64_t part, uint64_t whole)
{
    double percent = whole ? 100.0 * (double)part / (double)whole : 0;

    if (!part)
        return g_strdup("0 %");
    if (part >= whole)
        return g_strdup("100 %");
    if (percent < 0.1)
        return g_strdup("<0.1 %");
    return g_strdup_printf("%.1f %%", MIN(percent, 99.9));
}

char *tc_clock(double seconds)
{
    uint64_t s = seconds < 0 ? 0 : seconds > 1e9 ? 1000000000 : (uint64_t)seconds;

    if (s < 3600)
        return g_strdup_printf("%u:%02u", (unsigned)(s / 60), (unsigned)(s % 60));
    return g_strdup_printf("%u:%02u:%02u", (unsigned)(s / 3600), (unsigned)(s / 60 % 60),
                           (unsigned)(s % 60));
}

/* @value with at most three digits that count and a letter of @letters for the powers of @base. */
static char *short_number(double value, double base, const char *letters)
{
    unsigned unit = 0;

    if (!(value > 0))
        return g_strdup("0");
    /* 999.95 would be printed as 1000.0 of the smaller unit */
    while (value >= base - 0.05 && letters[unit]) {
        value /= base;
        unit++;
    }
    if (!unit && value < 0.1)
        return g_strdup("<0.1");
    /* whole bytes and what has three digits anyway */
    return value >= 99.95 || value == (double)(uint64_t)value
               ? g_strdup_printf("%.0f%.*s", value, unit ? 1 : 0, letters + unit - !!unit)
               : g_strdup_printf("%.1f%.*s", value, unit ? 1 : 0, letters + unit - !!unit);
}

char *tc_short_size(double bytes)
{
    return short_number(bytes, 1024, size_letters);
}

char *tc_short_count(double count)
{
    return short_number(count, 1000, "kMGTPE");
}

char *tc_short_time(double ns)
{
    static const char *const units[] = { "ns", "us", "ms", "s" };
    unsigned unit = 0;

    while (ns >= 999.5 && unit + 1 < G_N_ELEMENTS(units)) {
        ns /= 1000;
        unit++;
    }
    return g_strdup_printf(ns < 9.95 && unit > 1 ? "%.1f%s" : "%.0f%s", ns, units[unit]);
}

bool tc_parse_size(const char *text, uint64_t *bytes)
{
    unsigned shift = 0;
    uint64_t value;
    char *end;

    if (!g_ascii_isdigit(text[0]))
        return false;
    errno = 0;
    value = g_ascii_strtoull(text, &end, text[0] == '0' && (text[1] | 32) == 'x' ? 16 : 10);
    if (errno)
        return false;
    if (*end) {
        const char *letter = strchr(size_letters, g_ascii_toupper(*end));

        if (letter) {
            shift = 10 * (unsigned)(letter - size_letters + 1);
            end++;
            if (*end == 'i' && end[1] == 'B')
                end++;
        }
        if (*end == 'B' || (*end == 'b' && !shift))
            end++;
    }
    if (*end || (shift && value >> (64 - shift)))
        return false;
    *bytes = value << shift;
    return true;
}

char *tc_printable(const char *text)
{
    char *valid = g_utf8_make_valid(text, -1);

    /* C1 controls are two bytes in UTF-8: C2 80 to C2 9F */
    for (unsigned char *p = (unsigned char *)valid; *p; p++) {
        if (*p < 0x20 || *p == 0x7f)
            *p = '?';
        else if (*p == 0xc2 && p[1] < 0xa0)
            p[0] = p[1] = '?';
    }
    return valid;
}

static unsigned char_width(gunichar c)
{
    return g_unichar_iszerowidth(c) ? 0 : g_unichar_iswide(c) ? 2 : 1;
}

size_t tc_text_fit(const char *text, unsigned columns)
{
    const char *at = text;

    for (; *at; at = g_utf8_next_char(at)) {
        unsigned width = char_width(g_utf8_get_char(at));

        if (width > columns)
            break;
        columns -= width;
    }
    return (size_t)(at - text);
}

unsigned tc_text_width(const char *text)
{
    unsigned width = 0;

    for (; *text; text = g_utf8_next_char(text))
        width += char_width(g_utf8_get_char(text));
    return width;
}

char *tc_wrapped(unsigned indent, unsigned hang, const char *text, unsigned columns)
{
    g_autofree char *clean = tc_printable(text);
    g_auto(GStrv) words = g_strsplit(clean, " ", -1);
    g_autoptr(GString) out = g_string_new(NULL);
    glong at = indent;

    g_string_append_printf(out, "%*s", (int)indent, "");
    for (unsigned i = 0; words[i]; i++) {
        glong width = g_utf8_strlen(words[i], -1);

        if (i && columns && at + 1 + width >= (glong)columns) {
            g_string_append_printf(out, "\n%*s", (int)hang, "");
            at = hang;
        } else if (i) {
            g_string_append_c(out, ' ');
            at++;
        }
        g_string_append(out, words[i]);
        at += width;
    }
    g_string_append_c(out, '\n');
    return g_string_free(g_steal_pointer(&out), FALSE);
}

void tc_print_wrapped(FILE *out, unsigned indent, unsigned hang, const char *text)
{
    unsigned columns = 0, rows;
    g_autofree char *lines = NULL;

    if (isatty(fileno(out)))
        tc_terminal_size(out, &columns, &rows);
    lines = tc_wrapped(indent, hang, text, columns);
    fputs(lines, out);
}

bool tc_terminal_colors(FILE *stream)
{
    const char *no_color = g_getenv("NO_COLOR"), *term = g_getenv("TERM");

    return isatty(fileno(stream)) && !(no_color && *no_color) && term && strcmp(term, "dumb");
}

bool tc_terminal_utf8(void)
{
    return !strcmp(nl_langinfo(CODESET), "UTF-8");
}

static unsigned from_environment(const char *name, unsigned otherwise)
{
    const char *text = g_getenv(name);
    guint64 value;

    return text && g_ascii_string_to_unsigned(text, 10, 1, 10000, &value, NULL) ? (unsigned)value
                                                                                : otherwise;
}

void tc_terminal_size(FILE *stream, unsigned *columns, unsigned *rows)
{
    struct winsize size;

    if (!ioctl(fileno(stream), TIOCGWINSZ, &size) && size.ws_col && size.ws_row) {
        *columns = size.ws_col;
        *rows = size.ws_row;
        return;
    }
    *columns = from_environment("COLUMNS", 80);
    *rows = from_environment("LINES", 24);
}
