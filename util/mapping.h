/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* util/mapping.h: shared file mappings that survive what happens to the file.
 *
 * Touching a page of a mapping that the file does not have any more, or that the medium can't read,
 * raises SIGBUS. For a guarded mapping the page is then replaced by an anonymous one and the
 * mapping is broken: whoever goes on reads zeroes and writes to nowhere, and finds out when he
 * asks.
 *
 * Threads: any; a mapping is opened and closed by one. */
#pragma once
#include "util/sys.h"

#include <stdbool.h>
#include <stddef.h>

typedef struct TmMapping {
    const TmSys *sys; /* borrowed */
    void *address;
    size_t length;
    int slot; /* in the table of guarded mappings */
} TmMapping;

/* Bytes of a page of a mapping of @fd: more than those of the processor on hugetlbfs. */
size_t tm_mapping_page_size(int fd);
/* Installs the handler for SIGBUS; without it SIGBUS ends the process. Once, at the start. */
void tm_mapping_guard_install(void);

/* Maps [offset, offset + length) of the file, aligned to its pages, not empty. 0 or -errno. */
int tm_mapping_open(TmMapping *mapping, const TmSys *sys, int fd, uint64_t offset, size_t length);
/* One that was never opened (all zeroes) is fine. */
void tm_mapping_close(TmMapping *mapping);
/* Whether a page was lost. */
bool tm_mapping_broken(const TmMapping *mapping);
