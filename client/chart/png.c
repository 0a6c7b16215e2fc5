/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/chart/png.c: a chart as PNG (ISO/IEC 15948): 8-bit RGB, no filter, one IDAT chunk, and its
 * title and content in words as text chunks. */
#include "client/chart/drawing.h"
#include "client/text.h"
#include <string.h>
#include <zlib.h>

typedef struct Pixels {
    unsigned width, height;
    size_t stride; /* bytes a row, with that of its filter at the beginning */
    uint8_t *rows;
} Pixels;

/* Clipped. */
static void rect(void *opaque, unsigned x, unsigned y, unsigned width, unsigned height,
                 uint32_t rgb, int class)
{
    Pixels *p = opaque;

    for (unsigned row = y; row < MIN(y + height, p->height); row++) {
        uint8_t *at = p->rows + row * p->stride + 1;

        for (unsigned i = x; i < MIN(x + width, p->width); i++) {
            at[3 * i] = (uint8_t)(rgb >> 16);
            at[3 * i + 1] = (uint8_t)(rgb >> 8);
            at[3 * i + 2] = (uint8_t)rgb;
        }
    }
}

/* Each pixel of the font is a square; the baseline is below its seventh row. */
static void text(void *opaque, unsigned x, unsigned y, unsigned size, TcAnchor anchor, uint32_t rgb,
                 const char *words)
{
    g_autofree char *clean = tc_printable(words);
    g_autofree char *ascii = g_str_to_ascii(clean, "C");
    unsigned scale = size / 7, advance = (TC_FONT_WIDTH + 1) * scale;
    unsigned length = (unsigned)strlen(ascii) * advance;

    x -= anchor == TC_ANCHOR_END ? MIN(length, x) : 0;
    for (const char *c = ascii; *c; c++, x += advance)
        for (unsigned row = 0; row < TC_FONT_HEIGHT; row++)
            for (unsigned i = 0; i < TC_FONT_WIDTH; i++)
                if (tc_font_row(*c, row) >> (TC_FONT_WIDTH - 1 - i) & 1)
                    rect(opaque, x + i * scale, y + row * scale - 7 * scale, scale, scale, rgb, -1);
}

static void append_u32(GString *out, uint32_t value)
{
    const uint8_t bytes[] = { (uint8_t)(value >> 24), (uint8_t)(value >> 16), (uint8_t)(value >> 8),
                              (uint8_t)value };

    g_string_append_len(out, (const char *)bytes, sizeof(bytes));
}

static void append_chunk(GString *out, const char *type, const void *data, size_t length)
{
    uint32_t crc = (uint32_t)crc32(crc32(0, (const Bytef *)type, 4), data, (uInt)length);

    append_u32(out, (uint32_t)length);
    g_string_append_len(out, type, 4);
    g_string_append_len(out, data, (gssize)length);
    append_u32(out, crc);
}

/* International text: keyword, not compressed, no language, no translated keyword, UTF-8. */
static void append_text(GString *out, const char *keyword, const char *words)
{
    g_autofree char *clean = tc_printable(words);
    g_autoptr(GString) data = g_string_new(keyword);

    g_string_append_len(data, "\0\0\0\0\0", 5);
    g_string_append(data, clean);
    append_chunk(out, "iTXt", data->str, data->len);
}

GString *tc_drawing_png(const TcChart *chart)
{
    GString *out = g_string_new_len("\x89PNG\r\n\x1a\n", 8);
    g_autoptr(GString) header = g_string_new(NULL);
    g_autofree char *words = tc_drawing_words(chart);
    Pixels pixels = { 0 };
    TcPainter painter = { &pixels, rect, text };
    g_autofree uint8_t *rows = NULL, *packed = NULL;
    uLongf length;

    tc_drawing_size(chart, &pixels.width, &pixels.height);
    pixels.stride = 1 + (size_t)3 * pixels.width;
    length = compressBound(pixels.stride * pixels.height);
    pixels.rows = rows = g_malloc0(pixels.stride * pixels.height);
    packed = g_malloc(length);
    tc_drawing_paint(chart, &painter);
    append_u32(header, pixels.width);
    append_u32(header, pixels.height);
    g_string_append_len(header, "\x08\x02\0\0\0", 5);
    append_chunk(out, "IHDR", header->str, header->len);
    append_text(out, "Title", chart->title);
    append_text(out, "Description", words);
    compress2(packed, &length, rows, pixels.stride * pixels.height, Z_BEST_COMPRESSION);
    append_chunk(out, "IDAT", packed, length);
    append_chunk(out, "IEND", "", 0);
    return out;
}
