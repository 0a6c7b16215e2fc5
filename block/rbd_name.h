/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/rbd_name.h: the names that QEMU gives to images in Ceph clusters:
 *
 *   rbd:POOL/[NAMESPACE/]IMAGE[@SNAPSHOT][:conf=FILE][:id=USER]
 *
 * A character that would end a part stands there as itself after a backslash. Other options of QEMU
 * are refused: they set whatever Ceph has. Threads: any. */
#pragma once
#include "util/error.h"

#include <json-c/json.h>
#include <stdbool.h>

#define BLK_RBD_PREFIX "rbd:"

bool blk_is_rbd_name(const char *name);
/* The definition of a node of the driver rbd; a reference. @options: whether the name may have
 * some. NULL: the name is none, and @error says why, with the name. */
json_object *blk_rbd_definition(const char *name, bool options, GError **error);
