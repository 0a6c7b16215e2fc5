/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/daemon/arguments.h: words of a command line as a QMP command's arguments.
 *
 * KEY=VALUE sets a member; dots in KEY step into objects and, by number, into arrays
 * ("file.driver", "sources.0"). VALUE takes the type that the server's schema says KEY has: a
 * string is taken as it is, a number may have a size suffix (k, M, G, ...), a boolean is on/off,
 * true/false, yes/no, an array is appended to each time its key comes. A value that starts with '{'
 * or '[' is JSON where an object or array is expected. Where the schema does not know the key,
 * VALUE is sent as the JSON number, boolean, null or quoted string that it is, else as a string.
 * KEY:=JSON is sent as it is.
 *
 * Threads: any. */
#pragma once
#include "client/daemon/schema.h"

/* Builds the arguments of @command from @words (NULL-terminated). @schema may be NULL. A new
 * reference; NULL with an @error that names the word. */
json_object *tc_arguments_build(const TcSchema *schema, const char *command,
                                const char *const *words, GError **error);
