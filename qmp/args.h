/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp/args.h: arguments of shapes that several commands take; internal to qmp/. */
#pragma once
#include "block/export/export.h"
#include <json-c/json.h>

/* An array of bitmaps, each a name or {node, name}: returned (g_free), its strings borrowed from
 * @args. Absent: NULL and *n 0. */
BlkBitmapName *qmp_arg_bitmaps(json_object *args, const char *name, size_t *n);
/* An array of strings: returned (g_free), NULL-terminated, the strings borrowed from @args. Absent:
 * NULL and *n 0. */
const char **qmp_arg_strings(json_object *args, const char *name, size_t *n);
