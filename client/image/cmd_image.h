/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/image/cmd_image.h: what the subcommands of "tidemark image" share. Threads: main. */
#pragma once
#include "client/commands.h"
#include "client/image/image.h"

extern const TcCommand tc_command_image_bitmap;
extern const TcCommand tc_command_image_check;
extern const TcCommand tc_command_image_create;
extern const TcCommand tc_command_image_info;
extern const TcCommand tc_command_image_map;
extern const TcCommand tc_command_image_resize;

#define TC_FORMAT_OPTION                                                                           \
    {                                                                                              \
        "format", "FMT", "raw or qcow2 (default: qcow2 if FILE has its magic, else raw)", 'f'      \
    }
#define TC_SHARE_OPTION                                                                            \
    {                                                                                              \
        "force-share", NULL, "open FILE even if another program writes to it", 'U'                 \
    }
#define TC_OUTPUT_OPTION                                                                           \
    {                                                                                              \
        "output", "json|human", "print in the form of qemu-img"                                    \
    }
/* qemu-img's, not shown: only to be refused in words that help. */
#define TC_IMAGE_OPTS_OPTION                                                                       \
    {                                                                                              \
        "image-opts", NULL, NULL                                                                   \
    }
#define TC_QUIET_OPTION                                                                            \
    {                                                                                              \
        "quiet", NULL, "print only errors", 'q'                                                    \
    }

/* --format, --force-share and --backing-names, those of them that the command has.
 * --image-opts is refused. false: misuse. */
bool tc_image_options(const TcInvocation *inv, TcImageOptions *options, GError **error);
/* --json or --output. false: misuse. */
bool tc_image_output(const TcInvocation *inv, bool *json, GError **error);
/* A size with a suffix, perhaps with a fraction ("1.5G", "1024.0"). False: it is none. */
bool tc_image_size(const char *text, uint64_t *bytes);
