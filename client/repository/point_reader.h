/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/point_reader.h: a disk as it was at a point, read through its chain, every
 * block checked against its hash.
 *
 * Threads: open and close on the main thread; reading by several at once. */
#pragma once
#include "block/node.h"
#include "client/repository/hashes.h"
#include "client/repository/repository.h"

typedef struct TcPointReader TcPointReader;

/* Opens the images of the chain read-only, as the manifests say it is; an image that says otherwise
 * is an error (TC_REPO_ERROR_DAMAGED). @repo is open to READ and outlives the reader. @alone: only
 * the image of that point, not those that it stands on, which then reads as zeroes. */
TcPointReader *tc_point_reader_open(TcRepository *repo, const TcManifest *point, const char *disk,
                                    bool alone, GError **error);
void tc_point_reader_close(TcPointReader *reader);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TcPointReader, tc_point_reader_close)
uint64_t tc_point_reader_size(const TcPointReader *reader);
/* Of the point's own image, which is opened without those below it; borrowed. */
BlkNode *tc_point_reader_node(const TcPointReader *reader);
const TcHashes *tc_point_reader_hashes(const TcPointReader *reader);

/* What is at @offset, by the hashes of the chain, without reading images: TC_RUN_DATA, else it
 * reads as zeroes; *length is how far that goes on. *point is where it is stored, or NULL. */
TcRunKind tc_point_reader_find(const TcPointReader *reader, uint64_t offset, uint64_t *length,
                               const TcManifest **point);
/* Whole blocks (the last one may be short). 0, -errno, or -EBADMSG: a block differs from its hash.
 * *bad is then the offset of the block, or of the batch that can't be read, and *point where it is
 * stored; nothing of @buf counts. -EINVAL, of the arguments, sets neither. */
int tc_point_reader_read(TcPointReader *reader, void *buf, uint64_t offset, size_t length,
                         uint64_t *bad, const TcManifest **point);
