/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/crash/medium_calls.h: between the parts of the medium. */
#pragma once
#include "tests/crash/medium.h"

/* Index of a path's name, -1 if there is none and none shall be made, or outside of "/m". */
int medium_name(Medium *m, const char *path, bool make);
int medium_inode(Medium *m); /* a new one */
int medium_disk(const Medium *m, unsigned n);

uint8_t *image_touch(Image *image, size_t from, size_t to);
void image_allocate(Image *image, uint64_t from, uint64_t to);
void image_set_size(Image *image, uint64_t size);

void change_apply(const Change *change, Image *image, int *entries);
void medium_absorb(Medium *m, bool mapped);
void medium_event(Medium *m, const char *what);
void medium_wrote(Medium *m, int n, uint64_t from, uint64_t to);
void medium_changed_length(Medium *m, int n);
void medium_changed_xattr(Medium *m, int n);
void medium_changed_entry(Medium *m, int name, int from);
void medium_changed_mtime(Medium *m, int n);
/* @n: inode, or -2, the directory. @all: fsync. */
void medium_synced(Medium *m, int n, bool all);
void medium_sync_failed(Medium *m, int n, bool all);
void medium_broken(Medium *m, const char *format, ...) G_GNUC_PRINTF(2, 3);
