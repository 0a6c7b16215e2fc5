/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/copy/release.h: what of the source need not be kept any more, in long ranges: a request
 * for each piece would cost the server a third of what reading it does.
 *
 * Pieces are taken in the order of their offsets and come back in any. Windows of the source,
 * each with a few MiB of pieces and what is between them, are free when all their pieces are back.
 * Threads: any, under the caller's lock. */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct TcRelease TcRelease;
typedef struct TcWindow TcWindow;

TcRelease *tc_release_new(void);
void tc_release_free(TcRelease *release);
/* The piece at @offset, after all before, is being read: the window that it is in, borrowed until
 * the piece is back. */
TcWindow *tc_release_take(TcRelease *release, uint64_t offset, uint64_t length);
/* @length bytes of @window's are stored. True: *range bytes at *offset are not needed any more. */
bool tc_release_back(TcRelease *release, TcWindow *window, uint64_t length, uint64_t *offset,
                     uint64_t *range);
