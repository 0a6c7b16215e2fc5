/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* daemon/cmdline.h: tidemarkd's command line, as a list in the order given.
 *
 * qemu-storage-daemon's options, with its messages. What an option means is main.c's. */
#pragma once
#include <glib.h>
#include <stdbool.h>

typedef enum {
    CMD_BLOCKDEV,
    CMD_CHARDEV,
    CMD_DAEMONIZE,
    CMD_EXPORT,
    CMD_HELP,
    CMD_IO_ENGINE,
    CMD_LOG_LEVEL,
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
} CmdKind;

typedef struct CmdOption {
    CmdKind kind;
    const char *name;  /* "--blockdev", for messages; static */
    const char *value; /* borrowed from argv; NULL for an option without one */
} CmdOption;

/* A returned GArray of CmdOption (g_array_unref), or NULL. */
GArray *cmd_parse(int argc, char **argv, GError **error);
/* The text of --help, on standard output. */
void cmd_print_help(void);
/* How to begin, on standard error: for who gives no options. */
void cmd_print_usage(void);
