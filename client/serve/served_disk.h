/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/serve/served_disk.h: the disks that "tidemark serve" was asked for: names, formats
 * (served_disk.c), those of a point (served_point.c), and their nodes in the daemon
 * (served_node.c).
 *
 * Whoever writes to a raw disk can make it begin as a qcow2 image. So an image that is qcow2 by its
 * content alone, not by its name, may not name other files, and a name that says raw is believed
 * only where the content agrees. Threads: main. */
#pragma once
#include "client/daemon/qmp_client.h"
#include "client/repository/repository.h"

typedef struct TcServedDisk {
    char *name; /* of its export */
    char *node;
    char *path;       /* absolute, or the name of one in a Ceph cluster */
    json_object *rbd; /* the definition of a node for that one, or NULL */
    const char *format;
    const char *backing_names; /* the option of qcow2; NULL: its default */
    bool is_block, read_only;
    GPtrArray *chain; /* of a point: char *, the images that it stands on, itself first; or NULL */
    GPtrArray *files; /* of a point: json_object *, the nodes with the bytes of these images */
    char *scratch;    /* an image for what is written, over a point; or NULL */
    uint64_t size;    /* of a point, or once it is served */
} TcServedDisk;

/* How they are served: strings are borrowed, for as long as the disks are there. */
typedef struct TcServedOptions {
    const char *format;        /* "raw", "qcow2", or NULL: by the image and its name */
    const char *backing_names; /* the option of qcow2; NULL: its default */
    bool read_only;
} TcServedOptions;

/* The disks that @words name: FILE, NAME=FILE or a directory of images; FILE may be the name of an
 * image in a cluster (block/rbd_name.h). TcServedDisk, returned. */
GPtrArray *tc_served_disks(const char *const *words, const TcServedOptions *options,
                           GError **error);
/* The disks of a point. @writable: over a scratch, which tc_served_disk_release() removes. */
GPtrArray *tc_served_point(const TcRepository *repo, const TcManifest *point, bool writable,
                           GError **error);
/* Opens the disk in the daemon at @qmp and exports it; fills in size. On failure nothing is left of
 * it there. */
bool tc_served_disk_add(TcServedDisk *disk, TcQmp *qmp, GError **error);
/* Undoes that, as far as it can be. */
void tc_served_disk_remove(const TcServedDisk *disk, TcQmp *qmp);
/* Removes the name of its scratch. */
void tc_served_disk_release(TcServedDisk *disk);
void tc_served_disk_free(TcServedDisk *disk);
