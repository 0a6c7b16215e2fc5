/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/fuzz/memory_sys.h: files in memory under the system-call table, a few at a time, so that a
 * fuzzer leaves nothing behind and meets the same identities in every run: inode numbers count from
 * 1 in the order of creation, times stand still, syncing costs nothing, extended attributes are
 * there. Not thread-safe beyond what a store does. */
#pragma once
#include "util/sys.h"
#include <glib.h>

extern const TmSys memory_sys;

/* A file of that content (sparse up to @size if that is more); replaces what was there. */
void memory_sys_put(const char *path, const void *data, size_t length, uint64_t size);
/* Its bytes, or NULL if there is no such file. Returned (g_byte_array_unref). */
GByteArray *memory_sys_get(const char *path);
/* The attribute that the files with one have: the table keeps just one, the disk's. */
void memory_sys_set_xattr(const void *value, size_t size); /* size 0: none */
size_t memory_sys_get_xattr(void *value, size_t size);
/* Drops all files; nothing may be open or mapped any more: aborts if something is. */
void memory_sys_reset(void);
