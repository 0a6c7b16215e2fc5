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
 *   walk guest URI SECONDS [DEPTH [SEED [ORDER]]]
 *                                 writes, and how long they took: percentiles, and when those ended
 *                                 that took long, and how many us they took. ORDER: 4k at random
 *                                 places; once: at most one in 64 KiB; 64k: one after the other,
 *                                 64k-once: up to the end
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

enum { BLOCK = 4096, CLUSTER = 65536 };

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

/* ---- guest */

enum { DEPTH_MAX = 256, SLOW_MAX = 4096 };

static const uint64_t slow_us = 2000;

typedef struct Guest Guest;

typedef struct Slot {
    Guest *guest;
    double began;
    int busy;
} Slot;

/* Microseconds are counted exactly up to 64, and by 1/32 from there. */
struct Guest {
    Slot slots[DEPTH_MAX];
    uint64_t writes, failed, max;
    uint64_t counts[64 * 32];
    struct {
        double ended;
        uint64_t us;
    } slow[SLOW_MAX];
    size_t n_slow;
};

static unsigned count_of(uint64_t us)
{
    unsigned shift = 0;

    while (us >> shift >= 64)
        shift++;
    return shift * 32 + (unsigned)(us >> shift);
}

static uint64_t percentile(const Guest *guest, double part)
{
    uint64_t left = (uint64_t)((double)guest->writes * (1 - part));

    for (unsigned i = 64 * 32; i-- > 0;) {
        unsigned shift = i < 64 ? 0 : i / 32 - 1;

        if (guest->counts[i] > left)
            return (uint64_t)(i - shift * 32) << shift;
        left -= guest->counts[i];
    }
    return 0;
}

static int guest_written(void *opaque, int *error)
{
    Slot *slot = opaque;
    Guest *guest = slot->guest;
    double ended = now();
    uint64_t us = (uint64_t)((ended - slot->began) * 1e6);

    slot->busy = 0;
    guest->writes++;
    guest->failed += *error != 0;
    guest->max = us > guest->max ? us : guest->max;
    guest->counts[count_of(us)]++;
    if (us >= slow_us && guest->n_slow < SLOW_MAX) {
        guest->slow[guest->n_slow].ended = ended;
        guest->slow[guest->n_slow++].us = us;
    }
    return 1;
}

static void print_guest(const Guest *guest, double seconds)
{
    printf("{\"writes\": %" PRIu64 ", \"seconds\": %.6f, \"p50_us\": %" PRIu64
           ", \"p99_us\": %" PRIu64 ", \"max_us\": %" PRIu64 ", \"slow\": [",
           guest->writes, seconds, percentile(guest, 0.5), percentile(guest, 0.99), guest->max);
    for (size_t i = 0; i < guest->n_slow; i++)
        printf("%s[%.6f, %" PRIu64 "]", i ? ", " : "", guest->slow[i].ended, guest->slow[i].us);
    printf("]}\n");
}

/* Where the next write goes, and how much of it there is; false: all is done. */
static int guest_next(const char *order, uint64_t size, uint64_t n, uint64_t *seed,
                      uint64_t *offset, size_t *length)
{
    uint64_t clusters = size / CLUSTER;

    *length = BLOCK;
    if (!strncmp(order, "64k", 3)) {
        *length = CLUSTER;
        *offset = n % clusters * CLUSTER;
        return n < clusters || strcmp(order, "64k-once");
    } else if (!strcmp(order, "once")) {
        /* A prime that divides no such number of clusters: each comes once. */
        *offset = (n * 7919 + *seed) % clusters * CLUSTER;
        return n < clusters;
    } else {
        *offset = random_next(seed) % (size / BLOCK) * BLOCK;
    }
    return 1;
}

static void be_guest(struct nbd_handle *nbd, double seconds, int depth, uint64_t seed,
                     const char *order)
{
    static const char data[CLUSTER] = "guest";
    static Guest guest;
    uint64_t size = (uint64_t)nbd_get_size(nbd), n = 0;
    double began = now();
    int more = 1;

    while (more && now() - began < seconds) {
        for (int i = 0; i < depth; i++) {
            Slot *slot = &guest.slots[i];
            nbd_completion_callback done = { .callback = guest_written, .user_data = slot };
            uint64_t offset;
            size_t length;

            if (slot->busy || !more)
                continue;
            more = guest_next(order, size, n++, &seed, &offset, &length);
            if (!more)
                continue;
            *slot = (Slot){ &guest, now(), 1 };
            if (nbd_aio_pwrite(nbd, data, length, offset, done, 0) < 0)
                die("write");
        }
        drain(nbd, depth - 1);
    }
    drain(nbd, 0);
    if (guest.failed) {
        fprintf(stderr, "walk: %" PRIu64 " of %" PRIu64 " writes failed\n", guest.failed,
                guest.writes);
        exit(1);
    }
    print_guest(&guest, now() - began);
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
            "sprinkle URI COUNT | guest URI SECONDS [DEPTH [SEED [ORDER]]] | "
            "extents URI CONTEXT [TIMES]\n");
    return 2;
}

int main(int argc, char **argv)
{
    struct nbd_handle *nbd = nbd_create();
    const char *mode = argc > 1 ? argv[1] : "";
    int extents = !strcmp(mode, "extents"), scatter = !strcmp(mode, "scatter");
    int sprinkle = !strcmp(mode, "sprinkle"), trim = !strcmp(mode, "trim");
    int guest = !strcmp(mode, "guest");
    Work work = { .seed = 88172645463325252u, .depth = 64, .trim = trim || sprinkle };

    if (extents    ? argc != 4 && argc != 5
        : scatter  ? argc < 4 || argc > 7
        : guest    ? argc < 4 || argc > 7
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
    } else if (guest) {
        be_guest(nbd, strtod(argv[3], NULL), argc > 4 ? (int)(number(argv[4]) % DEPTH_MAX) : 32,
                 work.seed + (argc > 5 ? number(argv[5]) : 0), argc > 6 ? argv[6] : "4k");
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
