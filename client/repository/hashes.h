/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/hashes.h: the hashes of the blocks that an image of a repository has.
 *
 * The disk is divided in blocks of TC_BLOCK bytes, a cluster of the image each. An image has runs
 * of blocks, in order and apart from each other: data, with a SHA-256 a block, or zeroes. What is
 * in no run is in the parent, or reads as zeroes where there is none. A block in a run of data that
 * was found to be all zeroes has a hash of 32 zero bytes, and is no data in the image.
 * The file's layout is in docs/repository.md; its own SHA-256 is in the manifest. */
#pragma once
#include "client/repository/error.h"
#include "util/sys.h"
#include <inttypes.h>

#define TC_BLOCK (UINT64_C(64) << 10)
enum { TC_HASH_SIZE = 32 };

typedef enum { TC_RUN_NONE, TC_RUN_DATA, TC_RUN_ZERO } TcRunKind;

typedef struct TcRun {
    uint64_t offset, length; /* bytes; multiples of TC_BLOCK, but for the disk's end */
    TcRunKind kind;
} TcRun;

/* ---- runs, as they are collected: in order. Threads: one. */
typedef struct TcRuns TcRuns;

TcRuns *tc_runs_new(uint64_t size);
/* The next piece of the disk, in order, without regard to blocks. A block that has some TC_RUN_DATA
 * is data; one that is TC_RUN_ZERO all over is zero; one of TC_RUN_ZERO and TC_RUN_NONE is data.
 * Neighbours of one kind are joined. Fails only for want of memory. */
bool tc_runs_add(TcRuns *runs, uint64_t offset, uint64_t length, TcRunKind kind, GError **error);
/* After the last: completes the last block. */
bool tc_runs_end(TcRuns *runs, GError **error);
uint64_t tc_runs_bytes(const TcRuns *runs, TcRunKind kind);
size_t tc_runs_count(const TcRuns *runs);
const TcRun *tc_runs_get(const TcRuns *runs, size_t i);
void tc_runs_free(TcRuns *runs);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TcRuns, tc_runs_free)

/* ---- the file. Threads: set, get and find by several at once; set on distinct blocks. */
typedef struct TcHashes TcHashes;

/* The SHA-256 of @length bytes, and as hexadecimal. */
void tc_hash(const void *data, size_t length, uint8_t hash[TC_HASH_SIZE]);
void tc_hash_text(const uint8_t hash[TC_HASH_SIZE], char hex[65]);

/* Creates @path, which must not exist, with room for the hashes of @runs (taken on success). */
TcHashes *tc_hashes_create(const TmSys *sys, const char *path, TcRuns *runs, uint64_t size,
                           GError **error);
/* Opens it and checks it against @tree (hexadecimal) and @size. What is wrong with it is
 * TC_REPO_ERROR_DAMAGED. */
TcHashes *tc_hashes_open(const TmSys *sys, const char *path, const char *tree, uint64_t size,
                         GError **error);
const TcRuns *tc_hashes_runs(const TcHashes *hashes);
/* The run that @offset is in (its kind may be NONE), to its end or that of the disk: *length bytes
 * are left from @offset on. */
TcRunKind tc_hashes_run(const TcHashes *hashes, uint64_t offset, uint64_t *length);
/* What the image has at @offset, which is in the disk, and in *length how far that goes on at
 * least. A block of a run of data is TC_RUN_ZERO if it was found to be that. */
TcRunKind tc_hashes_find(const TcHashes *hashes, uint64_t offset, uint64_t *length);
/* Of @n blocks from @offset (a multiple of TC_BLOCK) on, in one run of data, TC_HASH_SIZE bytes
 * each; 32 zero bytes: that block is zeroes. 0 or -errno; -EINVAL: they are not in one run. Each
 * block is set once. While a file is being made, there is nothing to get or find in it. */
int tc_hashes_set(TcHashes *hashes, uint64_t offset, const uint8_t *values, size_t n);
int tc_hashes_get(const TcHashes *hashes, uint64_t offset, uint8_t *values, size_t n);
/* All are set. Makes it durable, but for its name, and gives its SHA-256. */
bool tc_hashes_finish(TcHashes *hashes, char tree[65], GError **error);
void tc_hashes_free(TcHashes *hashes);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TcHashes, tc_hashes_free)
