/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* bitmap/store/record.h: a persistent bitmap as it is handed from what keeps it to the set and
 * back.
 *
 * Threads: any, one at a time per record. */
#pragma once
#include "bitmap/bits.h"
#include <glib.h>

/* What is known of one bitmap. */
typedef struct BmpRecord {
    char *name;
    uint8_t shift; /* log2 of the granularity */
    bool enabled, inconsistent;
    bool unfinished;    /* begun by a backup that has not ended: an opening leaves it out */
    char *reason;       /* why it is inconsistent or degraded; NULL: it is neither */
    uint64_t recovered; /* bytes dirty only because of recovery */
    BmpBits bits;       /* geometry: the disk's size and shift */
} BmpRecord;

void bmp_record_clear(BmpRecord *record); /* frees what it holds */
/* An array of them that clears them. Returned. */
GArray *bmp_records_new(void);
