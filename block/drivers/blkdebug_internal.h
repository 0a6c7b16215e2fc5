/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/blkdebug_internal.h: the rules of a blkdebug filter: which requests fail or take
 * longer. Private to blkdebug*.c.
 *   blkdebug.c         the options, and what requests do
 *   blkdebug_rules.c   rules, from options or a file, and what is in force
 *   blkdebug_config.c  the file
 *
 * Threads: reading and freeing main; the rest any. */
#pragma once
#include "include/tidemark/driver.h"

#include <glib.h>

/* What a request is, in the order of the option's choices. */
typedef enum {
    BLKDEBUG_READ,
    BLKDEBUG_WRITE,
    BLKDEBUG_WRITE_ZEROES,
    BLKDEBUG_DISCARD,
    BLKDEBUG_FLUSH,
    BLKDEBUG_BLOCK_STATUS,
    BLKDEBUG_IOS,
} BlkdebugIo;

typedef struct BlkdebugVerdict {
    int error; /* 0 or -errno */
    uint64_t delay_ns;
} BlkdebugVerdict;

/* Of an element of inject-error, inject-delay, set-state, and of a list of permissions. */
extern const struct tidemark_option blkdebug_error_fields[], blkdebug_delay_fields[],
    blkdebug_state_fields[], blkdebug_permission[];

typedef struct BlkdebugRules BlkdebugRules;

/* From the options of a node that is being opened, and raises 'none'. NULL: they make no sense, the
 * host has logged why. */
BlkdebugRules *blkdebug_rules_read(struct tidemark_node *node);
void blkdebug_rules_free(BlkdebugRules *rules); /* NULL is fine */

/* Raises the events of a request, and says what the rules have for it. A flush has no range. */
BlkdebugVerdict blkdebug_rules_meet(BlkdebugRules *rules, BlkdebugIo io, uint64_t offset,
                                    uint64_t length);
/* Raises 'pwritev_done'. */
void blkdebug_rules_written(BlkdebugRules *rules);

/* A section of the file: an element of that list. */
typedef struct BlkdebugSection {
    const char *list;   /* static */
    GHashTable *values; /* char * to char *: its fields */
} BlkdebugSection;

/* Those of the file, in order: a reference. NULL: the host has the reason. */
GPtrArray *blkdebug_config_read(struct tidemark_node *node, const char *path);
