/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* daemon/cmdline.h: tidemarkd's command line, as a list in the order given.
 *
 * qemu-storage-daemon's options, with its messages. What an option means is main.c's. */
#pragma once
#include <glib.h>
#include <json-c/json.h>
#include <stdbool.h>

typedef enum {
    CMD_BITMAP, /* of a configuration file only */
    CMD_BLOCKDEV,
    CMD_CHARDEV,
    CMD_CHECK,
    CMD_CONFIG,
    CMD_DAEMONIZE,
    CMD_DUMP_CONFIG,
    CMD_EXPORT,
    CMD_HELP,
    CMD_IO_ENGINE,
    CMD_LOG_LEVEL,
    CMD_METRICS,
    CMD_MODULE,
    CMD_MODULE_DIR,
    CMD_MONITOR,
    CMD_NBD_SERVER,
    CMD_OBJECT,
    CMD_PIDFILE,
    CMD_SANDBOX,
    CMD_TRACE,
    CMD_USER,
    CMD_VERSION,
    CMD_KINDS, /* how many there are */
} CmdKind;

typedef struct Config Config;

typedef struct CmdOption {
    CmdKind kind;
    const char *name;  /* "blockdev", for messages; static */
    const char *value; /* borrowed from argv; NULL for an option without one */
    /* Of a configuration file (config.h), which has them; else NULL. */
    const Config *file;
    const char *path;  /* "blockdevs[0]" */
    json_object *args; /* the arguments of the command; NULL: it has a value instead */
} CmdOption;

/* A returned GArray of CmdOption (g_array_unref), or NULL. */
GArray *cmd_parse(int argc, char **argv, GError **error);
/* The text of --help, on standard output. */
void cmd_print_help(void);
/* How to begin, on standard error: for who gives no options. */
void cmd_print_usage(void);
