/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp/commands/configuration.c: all that a daemon is made of, as one object: what a configuration
 * file has. Each list has the arguments of the command that makes one of its items. */
#include "qmp/schema/table.h"

#define OBJECT(c_name, type_name, list)                                                            \
    const QmpType c_name = { .kind = QMP_KIND_OBJECT, .name = type_name, .members = list }
#define ARRAY(c_name, type)                                                                        \
    static const QmpType c_name = { .kind = QMP_KIND_ARRAY, .name = "array", .element = &type }

/* ---- of the process ---- */

static const QmpMember monitor_members[] = {
    { "chardev", &qmp_type_str, false, "id of the channel" },
    { "mode", &qmp_type_str, true, "control" },
    { "pretty", &qmp_type_bool, true, "indented replies (default: off)" },
    { NULL },
};
OBJECT(qmp_type_monitor, "MonitorOptions", monitor_members);

static const char *const mode_values[] = { "off", "auto", "on", NULL };
static const QmpType mode_type = { .kind = QMP_KIND_ENUM,
                                   .name = "SandboxMode",
                                   .values = mode_values };
static const char *const files_values[] = { "any", "given", NULL };
static const QmpType files_type = { .kind = QMP_KIND_ENUM,
                                    .name = "SandboxFiles",
                                    .values = files_values };
static const QmpMember sandbox_members[] = {
    { "mode", &mode_type, false, "off, on, or as far as the kernel supports it (auto)" },
    { "files", &files_type, true, "which files it may open" },
    { "paths", &qmp_type_str_array, true, "files and directories that it may also open" },
    { NULL },
};
OBJECT(qmp_type_sandbox, "SandboxOptions", sandbox_members);

static const char *const engine_values[] = { "auto", "io_uring", "threads", NULL };
static const QmpType engine_type = { .kind = QMP_KIND_ENUM,
                                     .name = "IoEngine",
                                     .values = engine_values };

/* ---- the lists ---- */

ARRAY(objects, qmp_type_object_options);
ARRAY(blockdevs, qmp_type_blockdev_options);
ARRAY(bitmaps, qmp_type_bitmap_add);
ARRAY(servers, qmp_type_nbd_server_args);
ARRAY(exports, qmp_type_export_options);
ARRAY(chardevs, qmp_type_chardev_add);
ARRAY(monitors, qmp_type_monitor);

static const QmpMember members[] = {
    { "log-level", &qmp_type_str, true, "the option --log-level" },
    { "io-engine", &engine_type, true, "the option --io-engine" },
    { "modules", &qmp_type_str_array, true, "the options --module" },
    { "module-dirs", &qmp_type_str_array, true, "the options --module-dir" },
    { "sandbox", &qmp_type_sandbox, true, "the option --sandbox" },
    { "user", &qmp_type_str, true, "the option --user" },
    { "daemonize", &qmp_type_bool, true, "the option --daemonize" },
    { "pidfile", &qmp_type_str, true, "the option --pidfile" },
    { "objects", &objects, true, "arguments of object-add" },
    { "blockdevs", &blockdevs, true, "arguments of blockdev-add" },
    { "bitmaps", &bitmaps, true, "arguments of block-dirty-bitmap-add" },
    { "nbd-servers", &servers, true, "arguments of nbd-server-start" },
    { "exports", &exports, true, "arguments of block-export-add" },
    { "chardevs", &chardevs, true, "arguments of chardev-add" },
    { "monitors", &monitors, true, "the options --monitor" },
    { NULL },
};
OBJECT(qmp_type_configuration, "Configuration", members);
