/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/copy/sink.h: what the pieces of a copy are written into: a file or device, an image, an
 * NBD server, a point of a repository.
 *
 * Threads: write and zero are called by several at once, on distinct ranges. */
#pragma once
#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>

typedef struct TcSink TcSink;
struct TcSink {
    /* All of the range: 0 or -errno. @buf is the caller's. */
    int (*write)(TcSink *sink, uint64_t offset, const void *buf, size_t length);
    /* Makes it read as zeroes; @hole: deallocated where that is possible. 0 or -errno. */
    int (*zero)(TcSink *sink, uint64_t offset, uint64_t length, bool hole);
};
