/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/fuzz/store_seal.h: changes of a store's bytes that leave every check right, as only a
 * forger makes them. Whatever isn't there is left alone. */
#pragma once
#include <glib.h>
#include <stdint.h>

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
