/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/options.h: the typed options of one node, parsed from a JSON object against its driver's
 * table.
 *
 * Member names with a dot ("cache.direct") stand for nested objects. Values are JSON-typed; the
 * command line's strings are converted before (qmp/keyval). Main thread. */
#pragma once
#include "include/tidemark/driver.h"
#include <glib.h>
#include <json-c/json.h>
#include <stdbool.h>

typedef struct BlkOptions BlkOptions;

/* The options every driver has: node-name, driver, active, read-only, auto-read-only, force-share,
 * cache.direct, cache.no-flush, discard, detect-zeroes. Ends with a NULL name. */
extern const struct tidemark_option blk_common_options[];

/* Checks @object: every member known (common, the driver's own, or a child), of its type, in
 * range, and every required one there. Messages as QEMU's ("Parameter 'filename' is missing",
 * "Invalid parameter type for 'size', expected: integer", "Parameter 'x' is unexpected", ...). */
BlkOptions *blk_options_parse(const struct tidemark_driver *driver, json_object *object,
                              GError **error);
/* The same for an object nested in another: @prefix ("file.", "" for none) goes before each name in
 * messages. */
BlkOptions *blk_options_parse_at(const struct tidemark_driver *driver, json_object *object,
                                 const char *prefix, GError **error);
/* A copy in which the option @name, a BOOL, is @value. */
BlkOptions *blk_options_with(const BlkOptions *options, const char *name, bool value);
void blk_options_free(BlkOptions *options); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(BlkOptions, blk_options_free)

/* Getters; borrowed. The option's existence is the caller's promise (asserted). */
bool blk_options_is_set(const BlkOptions *options, const char *name);   /* given or defaulted */
bool blk_options_is_given(const BlkOptions *options, const char *name); /* in the object itself */
const char *blk_options_string(const BlkOptions *options, const char *name);
/* UINT, SIZE; a BOOL as it was given. */
uint64_t blk_options_uint(const BlkOptions *options, const char *name);
/* Of a node that is inactive, read-only and force-share are on. */
bool blk_options_bool(const BlkOptions *options, const char *name);
/* What a child is to be: a string, an object, JSON null (explicitly none), or NULL. */
bool blk_options_child(const BlkOptions *options, const char *name, json_object **value);

/* What was given, in the object itself, but children: a reference. */
json_object *blk_options_given(const BlkOptions *options);

/* Whether @text, as a table's default is written, is a value of @option. Any thread. */
bool blk_option_accepts(const struct tidemark_option *option, const char *text);
