/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/backup/qemu_view.h: which disks a QEMU process has, and how they are attached.
 *
 * A view is QEMU's answers of one moment. Threads: one at a time. */
#pragma once
#include "client/daemon/qmp_client.h"

typedef struct TcQemuView {
    json_object *block; /* query-block */
    json_object *nodes; /* query-named-block-nodes */
    json_object *graph; /* x-debug-query-block-graph; NULL: this QEMU has no such command */
} TcQemuView;

TcQemuView *tc_qemu_view_new(TcQmp *qmp, GError **error);
void tc_qemu_view_free(TcQemuView *view);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TcQemuView, tc_qemu_view_free)

typedef struct TcQemuDisk {
    char *node;   /* the format node: it has the bitmaps */
    char *device; /* QOM path of the device that has it, perhaps through filters; or NULL */
    bool direct;  /* the device is the only user of the node */
    bool read_only;
    bool persistent; /* the image can keep bitmaps */
    uint64_t size;
    char *file;           /* its image, or NULL */
    json_object *bitmaps; /* an array, borrowed from the view, or NULL */
} TcQemuDisk;

/* What @word means: the id or QOM path of a device, the name of a drive, or a node. */
TcQemuDisk *tc_qemu_disk_find(const TcQemuView *view, const char *word, GError **error);
void tc_qemu_disk_free(TcQemuDisk *disk);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TcQemuDisk, tc_qemu_disk_free)

/* What query-named-block-nodes says of @name: borrowed, or NULL. */
json_object *tc_qemu_view_node(const TcQemuView *view, const char *name);
/* The node that has the bitmap @name: borrowed, or NULL. */
const char *tc_qemu_view_node_of_bitmap(const TcQemuView *view, const char *name);
/* The QOM path of a device by what query-block calls it. Returned. */
char *tc_qemu_device_path(const char *qdev);
