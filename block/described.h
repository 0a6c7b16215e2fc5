/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/described.h: names in images that are no paths, but describe what is to be opened.
 *
 * QEMU stores such names of backing files:
 *   json:{"driver": ..., "file": {...}}   members with dots, as in "file.filename", too
 *   file:PATH
 *   nbd://HOST[:PORT]/EXPORT, nbd+tcp://..., nbd+unix:///EXPORT?socket=PATH
 *   nbd:HOST:PORT[:exportname=EXPORT], nbd:unix:PATH[:exportname=EXPORT]
 *   rbd:POOL/[NAMESPACE/]IMAGE[@SNAPSHOT] (block/rbd_name.h)
 * What they may say is limited to where something is: no option of how it is opened, and no node
 * that exists. Threads: any. */
#pragma once
#include "util/error.h"

#include <json-c/json.h>

/* Whether @name is a path: nothing with a colon before its first slash. */
bool blk_name_is_path(const char *name);

/* The definition of a node (BlockdevOptions): an image of @format, the recorded one, in a file or
 * an export. @format NULL: the one that "json:" says; else there has to be one. Paths are relative
 * to the working directory, as in QEMU. A reference; NULL: the name is not taken, and @error says
 * why, but not the name. */
json_object *blk_name_definition(const char *name, const char *format, GError **error);
/* The path of the file, if the definition is of an image that is the whole of it; borrowed, or
 * NULL. */
const char *blk_name_definition_path(json_object *definition);
