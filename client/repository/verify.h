/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/verify.h: whether points are as they were written.
 *
 * Each image that the points stand on is checked by itself, once: its header against the manifest,
 * its tables, what is allocated against the runs, every block against its hash. Then it is known
 * what each point has lost: a block that a later image of the chain has anew is no loss.
 *
 * Threads: one at a time, but for what says otherwise. */
#pragma once
#include "client/repository/hashes.h"
#include "client/repository/repository.h"
#include <stdatomic.h>

/* The image of one disk of one point. */
typedef struct TcVerifyImage {
    const TcManifest *point; /* borrowed */
    const TcPointDisk *disk;
    char *lost;       /* why nothing of it counts, or NULL */
    GArray *bad;      /* TcRun: what differs, in order */
    GPtrArray *notes; /* char *: what is wrong, with no data lost */
} TcVerifyImage;

typedef struct TcVerify {
    TcRepository *repo; /* borrowed, open to READ */
    unsigned threads;
    GPtrArray *images; /* TcVerifyImage */
    uint64_t total;    /* bytes of blocks to be read */
    atomic_uint_fast64_t done;
    atomic_bool stop; /* any thread: set it to end early */
    GError *failure;  /* why an image could not be judged: it says nothing of the image */
} TcVerify;

/* All images that these points (TcManifest) stand on. */
void tc_verify_init(TcVerify *verify, TcRepository *repo, const GPtrArray *points);
void tc_verify_clear(TcVerify *verify);
/* Reads all of them. false: it was stopped (no error then), or an image could not be judged, for
 * want of memory, descriptors or permissions. */
bool tc_verify_run(TcVerify *verify, GError **error);

/* What is wrong with @point: lines for people (char *, returned). *whole: all data can be read as
 * they were. */
GPtrArray *tc_verify_point(TcVerify *verify, const TcManifest *point, bool *whole);

/* ---- verify_image.c */

void tc_verify_image(TcVerify *verify, TcVerifyImage *image);
