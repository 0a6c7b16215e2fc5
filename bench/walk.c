/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* bench/walk.c: what bench/run asks of a server that fio can't: dirtying a disk in a pattern, and
 * walking over a metadata context.
 *
 *   walk dirty URI RUNS STEP      dirties RUNS runs: one block every STEP bytes, pipelined
 *   walk trim URI RUNS STEP       the same by trimming, which takes no room
 *   walk scatter URI COUNT [DEPTH [SEED [SECONDS]]]
 *                                 COUNT writes of a block at random places of the whole disk, or
 *                                 fewer when the time is up
 *   walk sprinkle URI COUNT       the same by trimming
 *   walk extents URI CONTEXT [N]  walks over CONTEXT from end to end, N times
 *
 * Prints one JSON object. Places come from a fixed seed: every server meets the same ones. */
#include <inttypes.h>
#include <libnbd.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { BLOCK = 4096 };

static const uint64_t max_request = 1 << 30; /* multiple of every block size; within 32 bits */

/* What is done to how many blocks. */
typedef struct Work {
    uint64_t count;
    uint64_t step; /* between blocks; 0: anywhere */
    uint64_t seed;
    uint64_t seconds; /* 0: as long as it takes */
    int depth;
    int trim;
} Work;

/* What a walk has seen: @next is where it goes on, as far as the last reply's extents led. */
typedef struct Walk {
    const char *context;
    uint64_t next;
    uint64_t extents, replies;
} Walk;

static void die(const char *what)
{
    fprintf(stderr, "walk: %s: %s\n", what, nbd_get_error() ? nbd_get_error() : "failed");
    exit(1);
}

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static uint64_t number(const char *text)
{
    char *end;
    uint64_t value = strtoull(text, &end, 0);

    if (*end || end == text) {
        fprintf(stderr, "walk: '%s' is not a number\n", text);
        exit(2);
    }
    return value;
}

static uint64_t random_next(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* ---- dirty, scatter */

static void drain(struct nbd_handle *nbd, int until)
{
    while (nbd_aio_in_flight(nbd) > until) {
        if (nbd_poll(nbd, -1) < 0)
            die("connection");
    }
}

static int written(void *opaque, int *error)
{
    uint64_t *failed = opaque;

    *failed += *error != 0;
    return 1; /* retire */
}

static int touch(struct nbd_handle *nbd, const Work *work, uint64_t offset, uint64_t *failed)
{
    static const char block[BLOCK] = "dirty";
    nbd_completion_callback done = { .callback = written, .user_data = failed };

    return work->trim ? nbd_aio_trim(nbd, BLOCK, offset, done, 0) < 0
                      : nbd_aio_pwrite(nbd, block, BLOCK, offset, done, 0) < 0;
}

static void touch_blocks(struct nbd_handle *nbd, const Work *work)
{
    uint64_t blocks = (uint64_t)nbd_get_size(nbd) / BLOCK, seed = work->seed, failed = 0;
    uint64_t done = 0;
    double began = now();

    for (; done < work->count; done++) {
        uint64_t offset = work->step ? done * work->step : random_next(&seed) % blocks * BLOCK;

        if (touch(nbd, work, offset, &failed))
            die("write");
        drain(nbd, work->depth - 1);
        if (work->seconds && now() - began > (double)work->seconds)
            break;
    }
    drain(nbd, 0);
    if (failed) {
        fprintf(stderr, "walk: %" PRIu64 " of %" PRIu64 " writes failed\n", failed, done);
        exit(1);
    }
    printf("{\"writes\": %" PRIu64 ", \"seconds\": %.6f}\n", done, now() - began);
}

/* ---- extents */

static int on_extents(void *opaque, const char *context, uint64_t offset, uint32_t *entries,
                      size_t count, int *error)
{
    Walk *walk = opaque;

    (void)error;

    if (strcmp(context, walk->context))
        return 0;
    walk->replies++;
    walk->extents += count / 2;
    for (size_t i = 0; i < count; i += 2)
        offset += entries[i];
    walk->next = offset;
    return 0;
}

static void walk_extents(struct nbd_handle *nbd, const char *context, uint64_t times)
{
    Walk walk = { .context = context };
    uint64_t size = (uint64_t)nbd_get_size(nbd);
    double began = now();

    for (uint64_t i = 0; i < times; i++) {
        for (uint64_t offset = 0; offset < size; offset = walk.next) {
            uint64_t length = size - offset < max_request ? size - offset : max_request;

            walk.next = offset;
            if (nbd_block_status(
                    nbd, length, offset,
                    (nbd_extent_callback){ .callback = on_extents, .user_data = &walk }, 0) < 0)
                die("block status");
            if (walk.next == offset) {
                fprintf(stderr, "walk: no extent at %" PRIu64 "\n", offset);
                exit(1);
            }
        }
    }
    printf("{\"extents\": %" PRIu64 ", \"replies\": %" PRIu64 ", \"seconds\": %.6f}\n",
           walk.extents, walk.replies, now() - began);
}

static int usage(void)
{
    fprintf(stderr,
            "usage: walk dirty|trim URI RUNS STEP | scatter URI COUNT [DEPTH [SEED [SECONDS]]] | "
            "sprinkle URI COUNT | extents URI CONTEXT [TIMES]\n");
    return 2;
}

int main(int argc, char **argv)
{
    struct nbd_handle *nbd = nbd_create();
    const char *mode = argc > 1 ? argv[1] : "";
    int extents = !strcmp(mode, "extents"), scatter = !strcmp(mode, "scatter");
    int sprinkle = !strcmp(mode, "sprinkle"), trim = !strcmp(mode, "trim");
    Work work = { .seed = 88172645463325252u, .depth = 64, .trim = trim || sprinkle };

    if (extents    ? argc != 4 && argc != 5
        : scatter  ? argc < 4 || argc > 7
        : sprinkle ? argc != 4
                   : (!trim && strcmp(mode, "dirty")) || argc != 5)
        return usage();
    if (!nbd || (extents && nbd_add_meta_context(nbd, argv[3]) < 0) ||
        nbd_connect_uri(nbd, argv[2]) < 0)
        die(argv[2]);
    if (extents) {
        if (nbd_can_meta_context(nbd, argv[3]) != 1) {
            fprintf(stderr, "walk: the server has no context '%s'\n", argv[3]);
            return 1;
        }
        walk_extents(nbd, argv[3], argc == 5 ? number(argv[4]) : 1);
    } else {
        work.count = number(argv[3]);
        if (scatter) {
            work.depth = argc > 4 ? (int)number(argv[4]) : work.depth;
            work.seed += argc > 5 ? number(argv[5]) : 0;
            work.seconds = argc > 6 ? number(argv[6]) : 0;
        } else if (!sprinkle) {
            work.step = number(argv[4]);
        }
        touch_blocks(nbd, &work);
    }
    nbd_shutdown(nbd, 0);
    nbd_close(nbd);
    return 0;
}
