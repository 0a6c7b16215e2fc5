/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/images.h: the images of a repository, each opened by itself: which block is in
 * which image is known from the hashes.
 *
 * Threads: main. */
#pragma once
#include "client/image/image.h"
#include "client/repository/hashes.h"
#include "client/repository/repository.h"

/* The bytes that the image of a disk of @size bytes has. */
uint64_t tc_repo_image_size(uint64_t size);
/* What the image of @disk calls its backing file: returned, NULL: it has none. */
char *tc_repo_backing_name(const TcPointDisk *disk);
/* Makes the image of @disk, which must not exist, and opens it for writing; an increment on
 * something of which nothing is known, so that zeroes are recorded. Borrowed: the node. */
BlkNode *tc_repo_image_create(const TcRepository *repo, TcImage *image, const char *point,
                              const TcPointDisk *disk, GError **error);
/* The hashes of @disk, as tc_hashes_open(). Returned. Threads: as the repository. */
TcHashes *tc_repo_open_hashes(const TcRepository *repo, const char *point, const TcPointDisk *disk,
                              GError **error);
/* Whether it is a regular file whose header says of size, clusters, backing file and data file what
 * the manifest does: else TC_REPO_ERROR_DAMAGED. */
bool tc_repo_image_check(const TcRepository *repo, const char *point, const TcPointDisk *disk,
                         GError **error);
/* Opens it for writing, where what is let go of is freed. Checked as above. Borrowed. */
BlkNode *tc_repo_image_change(const TcRepository *repo, TcImage *image, const char *point,
                              const TcPointDisk *disk, GError **error);
/* The node with the bytes of the image, to be read, as BlockdevOptions that hold in any process of
 * this machine. A new reference. */
json_object *tc_repo_image_file(const TcRepository *repo, const char *point,
                                const TcPointDisk *disk);
/* Opens the bytes of the image, for checks of its tables. Borrowed. */
BlkNode *tc_repo_image_bytes(const TcRepository *repo, TcImage *image, const char *point,
                             const TcPointDisk *disk, GError **error);
/* Opens it for reading, without what it stands on, of which it says nothing. Checked as above; an
 * error that is not TC_REPO_ERROR_DAMAGED says nothing of the image. Borrowed. */
BlkNode *tc_repo_image_open(const TcRepository *repo, TcImage *image, const char *point,
                            const TcPointDisk *disk, GError **error);
