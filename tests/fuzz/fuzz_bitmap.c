/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/fuzz/fuzz_bitmap.c: bitmaps as files. The checksum is added, so that what it covers is
 * reached; and the input is read without it, too. */
#include "bitmap/copy.h"
#include "client/bitmap/file.h"

#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void take(const TcBitmapFile *file)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(BmpCopy) copy = bmp_copy_new(tc_json_number(file->head, "size"),
                                           tc_json_number(file->head, "granularity"), &error);
    g_autoptr(GString) text = g_string_new(NULL);
    uint64_t at = 0, again = 0;

    /* Either a result or a reason. */
    if (!copy == !error)
        abort();
    for (guint i = 0; copy && i < file->runs->len; i++) {
        if (!bmp_copy_parse(copy, &at, file->runs->pdata[i], NULL))
            return;
    }
    if (copy && bmp_copy_print(copy, &again, SIZE_MAX, text))
        abort();
    if (again > at)
        abort();
}

static void parse(char *text, size_t length)
{
    g_autoptr(GError) error = NULL;
    g_auto(TcBitmapFile) file = { 0 };
    bool ok = tc_bitmap_file_parse(text, length, "x", &file, &error);

    if (ok == (error != NULL))
        abort();
    if (ok)
        take(&file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    GString *sealed = g_string_new_len((const char *)data, (gssize)size);

    tc_bitmap_file_end(sealed);
    size_t length = sealed->len;
    parse(g_string_free(sealed, FALSE), length);
    parse(g_strndup((const char *)data, size), size);
    return 0;
}
