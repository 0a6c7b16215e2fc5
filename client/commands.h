/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/commands.h: the subcommands, a file each. Threads: main. */
#pragma once
#include "client/cli.h"

extern const TcCommand tc_command_backup;
extern const TcCommand tc_command_bitmap;
extern const TcCommand tc_command_bitmap_check; /* "tidemark bitmap check" */
extern const TcCommand tc_command_bitmap_export;
extern const TcCommand tc_command_bitmap_import;
extern const TcCommand tc_command_bitmap_offer;
extern const TcCommand tc_command_bitmap_rotate;
extern const TcCommand tc_command_bitmap_withdraw;
extern const TcCommand tc_command_copy;
extern const TcCommand tc_command_copy_points;
extern const TcCommand tc_command_events;
extern const TcCommand tc_command_forget;
extern const TcCommand tc_command_image;
extern const TcCommand tc_command_info;
extern const TcCommand tc_command_list;
extern const TcCommand tc_command_map;
extern const TcCommand tc_command_migrate;
extern const TcCommand tc_command_mount;
extern const TcCommand tc_command_prune;
extern const TcCommand tc_command_qmp;
extern const TcCommand tc_command_report;
extern const TcCommand tc_command_restore;
extern const TcCommand tc_command_serve;
extern const TcCommand tc_command_sessions;
extern const TcCommand tc_command_top;
extern const TcCommand tc_command_verify;

/* "tidemark bitmap list FILE [NAME]": cmd_store.c. */
int tc_run_list_file(const TcInvocation *inv);
/* Whether that is what was meant, not a daemon's node. */
bool tc_means_file(const TcInvocation *inv);
/* The same by the first argument alone: the command has no --disk. */
bool tc_names_file(const TcInvocation *inv);

/* "tidemark bitmap check --against-snapshot SNAP NODE NAME": client/bitmap/snapshot.c. */
int tc_run_check_snapshot(const TcInvocation *inv);

/* "tidemark map --points REPOSITORY": client/repository/cmd_heat.c. */
int tc_run_map_points(const TcInvocation *inv);

/* "tidemark info REPOSITORY [POINT]": client/repository/cmd_info.c. */
int tc_run_info_repository(const TcInvocation *inv);

/* Reports @error (taken) as "tidemark: message" on standard error and returns TC_EXIT_FAILED, or
 * the status that a TC_REPO_ERROR has. */
int tc_fail(GError *error);
/* The same for misuse: also says where the help is; returns TC_EXIT_USAGE. */
int tc_fail_usage(const TcInvocation *invocation, GError *error);

#define TC_SOCKET_OPTION                                                                           \
    {                                                                                              \
        "socket", "PATH", "the daemon's QMP socket (default: see TIDEMARK_SOCKET in tidemark(1))"  \
    }
#define TC_DISK_OPTION                                                                             \
    {                                                                                              \
        "disk", "IMAGE", "the disk whose store is FILE"                                            \
    }
#define TC_NAMES_OPTION                                                                            \
    {                                                                                              \
        "backing-names", "directory|none|any",                                                     \
            "which files that images name are opened (default: those beside the image or below)"   \
    }
#define TC_JSON_OPTION                                                                             \
    {                                                                                              \
        "json", NULL, "print JSON for programs"                                                    \
    }
#define TC_EVENTS_OPTION                                                                           \
    {                                                                                              \
        "json", NULL, "print an event a line, as JSON, for programs"                               \
    }
#define TC_NO_PROGRESS_OPTION                                                                      \
    {                                                                                              \
        "no-progress", NULL, "show no progress"                                                    \
    }
#define TC_WAIT_OPTION                                                                             \
    {                                                                                              \
        "wait", "SECONDS", "wait for others that use the repository (default: 0)"                  \
    }
