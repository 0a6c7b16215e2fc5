/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/report/redact.h: takes secrets out of what is reported.
 *
 * It rather takes out too much. Of an object of the command line only the options that are known to
 * be harmless stay. Everywhere, names with passwords of URIs ("nbds://USER:PASSWORD@host") and the
 * values of what is called a password, secret, token or the like go; and the secrets that the
 * command line had go wherever else they are, such as in messages of the log.
 *
 * Threads: one at a time. */
#pragma once
#include "client/json.h"

#define TC_REDACTED "(removed)"

typedef struct TcRedactor TcRedactor;

TcRedactor *tc_redactor_new(void);
void tc_redactor_free(TcRedactor *redactor); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TcRedactor, tc_redactor_free)

/* A command line of tidemarkd: an array. Learns its secrets, which later calls take out. */
json_object *tc_redact_arguments(TcRedactor *redactor, const char *const *argv);
/* Text without secrets; g_free. */
char *tc_redact_text(const TcRedactor *redactor, const char *text);
/* The same of all strings in @value (borrowed), also of keys: a new reference. */
json_object *tc_redact_json(const TcRedactor *redactor, json_object *value);
