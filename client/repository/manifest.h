/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/manifest.h: what a repository says of one point, as JSON (docs/repository.md).
 *
 * A manifest is read from a file that anybody may have changed: every field is checked, and the
 * whole against the digest in it, before it is used. Threads: main; a manifest that nobody changes
 * may be read by any. */
#pragma once
#include "client/repository/error.h"
#include <inttypes.h>
#include <json-c/json.h>

#define TC_MANIFEST_NAME "manifest.json"
/* The same while the point is being written: a directory that has only this is debris. */
#define TC_MANIFEST_PARTIAL "manifest.json.partial"

/* One disk of a point. All owned. */
typedef struct TcPointDisk {
    char *name;          /* "disk0" */
    uint64_t size;       /* bytes; at most TM_SIZE_MAX, not always a multiple of a block */
    char *parent;        /* the point that it stands on; NULL: it is a full */
    char *parent_id;     /* that point's id; NULL: nobody knows */
    char *why;           /* the reason for a full, NULL: none is known */
    char *compression;   /* "zlib", "zstd", or NULL */
    uint64_t stored;     /* bytes of blocks with data in its file, before they are compressed */
    uint64_t zero;       /* bytes of blocks that it records as zero */
    char tree[65];       /* SHA-256 of its file of hashes, hexadecimal */
    json_object *source; /* where it came from: type, node, uri, bitmap, ..., for people; or NULL */
} TcPointDisk;

typedef struct TcManifest {
    char *point;      /* its name, that of its directory */
    char *id;         /* a UUID */
    uint64_t instant; /* ns since 1970, UTC: the disks are as they were then */
    uint64_t order;   /* later points have greater ones, also if the clock was set back */
    char *tool;       /* "tidemark 0.1" */
    GPtrArray *disks; /* TcPointDisk, by name */
} TcManifest;

TcManifest *tc_manifest_new(const char *point);
void tc_manifest_free(TcManifest *manifest);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TcManifest, tc_manifest_free)
TcPointDisk *tc_point_disk_new(const char *name, uint64_t size);
void tc_point_disk_free(TcPointDisk *disk);
/* Whether it is @point that the disk stands on, and no other one with that name. */
bool tc_point_disk_stands_on(const TcPointDisk *disk, const TcManifest *point);
/* Borrowed; NULL: there is none. */
TcPointDisk *tc_manifest_disk(const TcManifest *manifest, const char *name);

/* Whether it can be the name of a point or of a disk: 1 to 100 letters, digits, '.', '_' and '-',
 * the first of them no '.' or '-'. @what is for the message. */
bool tc_point_check_name(const char *what, const char *name, GError **error);

/* The text of the file. Returned. */
char *tc_manifest_text(const TcManifest *manifest);
/* @path is for messages. @point is the name of the directory, which the manifest must have, too. */
TcManifest *tc_manifest_parse(const char *text, gsize length, const char *path, const char *point,
                              GError **error);
/* An object of JSON, which is all that is in @text, or TC_REPO_ERROR_DAMAGED. Returned. */
json_object *tc_repo_parse(const char *text, gsize length, const char *path, GError **error);
