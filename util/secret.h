/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* util/secret.h: memory for passwords and keys: kept out of core dumps and, as far as the limits
 * let it, out of swap, and wiped before it is given back.
 *
 * Threads: any; one secret by one at a time. */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct TmSecret {
    uint8_t *data; /* a NUL follows its end; NULL: none */
    size_t length;
    size_t mapped;
} TmSecret;

/* Room for @size bytes, all zero. false: no memory. @secret was never filled, or cleared. */
bool tm_secret_new(TmSecret *secret, size_t size, GError **error);
/* The content of a file or of a pipe (/dev/fd/N), which is waited for a few seconds at most. */
bool tm_secret_read(TmSecret *secret, const char *path, size_t max, GError **error);
/* All zeroes is fine. */
void tm_secret_clear(TmSecret *secret);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(TmSecret, tm_secret_clear)

/* From here on this process leaves no core dump, and no other of its user can look into it: for
 * what libraries keep of keys. Whoever loads one calls it first. */
void tm_secret_no_dumps(void);
