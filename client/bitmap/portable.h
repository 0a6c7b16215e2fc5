/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/bitmap/portable.h: bitmaps out of a daemon as the text of a file (file.h), and back into
 * one. Threads: main. */
#pragma once
#include "client/bitmap/file.h"
#include "client/daemon/qmp_client.h"

/* Appends the file of the bitmap as it is now. */
bool tc_bitmap_export(TcQmp *qmp, const char *node, const char *name, GString *text,
                      GError **error);
/* Makes a bitmap of the file, or merges it: @options (taken) are arguments of
 * block-dirty-bitmap-import, with node and name. */
bool tc_bitmap_import(TcQmp *qmp, const TcBitmapFile *file, json_object *options, GError **error);
