/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* daemon/config.h: configuration files: options of the command line in a file, tidemarkd.conf(5).
 *
 * A file is one JSON object with comments, of the type qmp_type_configuration. Each item of its
 * lists has the arguments of a QMP command and is carried out as the option of that kind is, so
 * there is one check of them. Threads: the main one. */
#pragma once
#include "daemon/cmdline.h"

#define CONFIG_MAX (64u << 20) /* bytes of a file */

/* Syntax alone is checked. Errors: "FILE:LINE: ...". Returned: config_free. */
Config *config_read(const char *path, GError **error);
void config_free(Config *config);               /* NULL is fine */
const char *config_path(const Config *config);  /* absolute; borrowed */
json_object *config_root(const Config *config); /* an object; borrowed */
/* "FILE:LINE: PATH", or without PATH if it is empty: for messages. Returned. */
char *config_place(const Config *config, const char *path);

/* What a file says as options, of a kind at a time, in the order in which they have to be carried
 * out. What is malformed is left out: check.h complains of it. The options borrow from @config. */
void config_options(Config *config, GArray *options);
/* @options with those of the file in place of each --config; the files go to @configs (Config). A
 * returned GArray of CmdOption (g_array_unref). */
GArray *config_expand(const GArray *options, GPtrArray *configs, GError **error);

/* Where an option is, for messages: "--blockdev VALUE", or "FILE:LINE: blockdevs[0]", and with
 * @within ("" for nothing) "FILE:LINE: blockdevs[0].file.filename". Returned. */
char *option_place(const CmdOption *option, const char *within);

/* The name of a kind as a file has it ("blockdevs"); NULL: it has none that is a list of items. */
const char *config_section(CmdKind kind);
