/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* bitmap/store/catalogue_internal.h: the numbers of a catalogue's layout (docs/bitmap-store.md). */
#pragma once

#define INDEX_HEADER    56u
#define INDEX_TRAILER   24u /* the last bytes: where the second copy of the index is */
#define TRAILER_MAGIC   "TMTRAIL1"
#define RECORD_FIXED    24u
#define DIRECTORY_ENTRY 32u
#define REASON_MAX      1000u
#define PAGES_MAX       (1u << 30) /* bytes; a catalogue is less than 4 times that */

#define RECORD_ENABLED      1u
#define RECORD_INCONSISTENT 2u
#define RECORD_UNFINISHED   4u

/* References to pages: an ordinal + 1, or */
#define REF_NONE UINT64_C(0)
#define REF_FULL UINT64_MAX
