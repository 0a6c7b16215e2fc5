/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp/keyval.h: the command line's "key=value,..." as a JSON object (QEMU util/keyval.c's syntax).
 *
 * "a.b=c" is {"a": {"b": "c"}}; "a.0=x,a.1=y" is {"a": ["x", "y"]}; ",," within a value is a comma;
 * of equal keys the last one holds. Every scalar is a string; qmp_check_keyval() gives them their
 * types.
 *
 * Threads: any. */
#pragma once
#include "qmp/schema/table.h"

/* An object (a reference) or NULL. With @implied_key, a first value without a key stands for it. */
json_object *qmp_keyval_parse(const char *text, const char *implied_key, GError **error);

/* What an option like --blockdev takes: JSON, if it begins with '{', else key=value,... Checked
 * against
 * @type and typed: a reference, or NULL. */
json_object *qmp_option_parse(const QmpTypes *types, const QmpType *type, const char *text,
                              const char *implied_key, GError **error);
