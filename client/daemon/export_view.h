/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/daemon/export_view.h: an export of a daemon, found by the words that people know it by,
 * and the URI that NBD clients open it with.
 *
 * The JSON is the daemon's (query-block-exports). Threads: main. */
#pragma once
#include "client/copy/source.h"
#include "client/daemon/qmp_client.h"

/* The one of @exports with that id, else with that name, else of that node; of several, the first
 * that offers @bitmap (NULL: any). Borrowed; NULL if there is none. */
json_object *tc_export_find(json_object *exports, const char *word, const char *bitmap);
/* The same of the daemon's exports; a new reference. The error names what was probably meant. */
json_object *tc_export_query(TcQmp *qmp, const char *word, GError **error);
/* Whether it offers @bitmap; @node NULL: of whichever node. */
bool tc_export_offers(json_object *export_, const char *node, const char *bitmap);

/* Whether @word is the path of something that exists and is no directory. */
bool tc_is_file(const char *word);
/* The URI that @word stands for: a URI is its own; else it is an export of the daemon at @socket
 * (NULL: the default), as above. @instead: the command for the file that @word may be. Returned. */
char *tc_export_uri(const char *word, const char *socket, const char *bitmap, const char *instead,
                    GError **error);
/* tc_source_require() of a bitmap or another @context; the error of a bitmap that the daemon at
 * @socket has, but does not offer there, names the command that offers it. */
bool tc_export_require(TcSource *source, unsigned i, const char *context, const char *socket,
                       GError **error);
