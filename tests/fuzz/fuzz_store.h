/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/fuzz/fuzz_store.h: what the fuzzer of stores is made of. */
#pragma once
#include "util/sys.h"
#include <glib.h>
#include <stdint.h>

/* ---- memory_sys.c: files in memory under the system-call table, a few at a time, so that a
 * fuzzer leaves nothing behind and meets the same identities in every run: inode numbers count from
 * 1 in the order of creation, times stand still, syncing costs nothing, extended attributes are
 * there. Not thread-safe beyond what a store does. */

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

/* ---- store_seal.c: changes of a store's bytes that leave every check right, as only a
 * forger makes them. Whatever isn't there is left alone. */

/* A field of a superblock's copy becomes @value (or, for one that is bytes, begins with it). */
void seal_super_field(GByteArray *file, unsigned copy, unsigned field, uint64_t value);
/* An entry of the map's table: @value's low bits are added to the epoch, @state is any. */
void seal_entry(GByteArray *file, uint32_t index, uint64_t value, unsigned state);
/* A word of the map says these 32 bits. */
void seal_word(GByteArray *file, uint32_t index, uint32_t bits);
/* A byte of the catalogue is changed and the catalogue sealed. */
void seal_catalogue_byte(GByteArray *file, uint32_t offset, uint8_t with);
/* All checks that have a place are made right. */
void seal_all(GByteArray *file);
/* What the superblock that counts says of the disk's size, or @otherwise. */
uint64_t seal_disk_size(const GByteArray *file, uint64_t otherwise);
