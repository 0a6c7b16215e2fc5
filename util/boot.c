/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* util/boot.c: see boot.h. */
#include "util/boot.h"
#include <glib.h>
#include <stdbool.h>
#include <string.h>

#define BOOT_ID "/proc/sys/kernel/random/boot_id"

/* 32 hex digits, with dashes anywhere. */
static bool parse(const char *text, uint8_t id[16])
{
    unsigned digits = 0;

    memset(id, 0, 16);
    for (; *text && *text != '\n'; text++) {
        int digit = g_ascii_xdigit_value(*text);

        if (*text == '-')
            continue;
        if (digit < 0 || digits == 32)
            return false;
        id[digits / 2] = (uint8_t)(id[digits / 2] << 4 | digit);
        digits++;
    }
    return digits == 32;
}

void tm_boot_id(uint8_t id[16])
{
    g_autofree char *text = NULL;

    if (g_file_get_contents(BOOT_ID, &text, NULL, NULL) && parse(text, id))
        return;
    for (unsigned i = 0; i < 4; i++) {
        uint32_t random = g_random_int();

        memcpy(id + 4 * i, &random, sizeof(random));
    }
}
