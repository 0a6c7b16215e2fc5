/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/stress/qcow2_threads.c: several threads at one qcow2 image, with system calls that take
 * their time.
 *
 *     stress-qcow2 [--seed N] [--seconds N] [--threads N] [--no-unref] IMAGE [BASE]
 *
 * Every sector is owned by one thread, which alone changes it and knows what it holds; in half of
 * the places neighbours in a cluster have different owners. What is written says, in every 16
 * bytes, for which sector it was meant. So a thread finds its own sectors as it left them, and
 * nobody ever finds what was meant for another place. At the end the image is opened again, holds
 * what it should, and has no fault, not even a leak. Its BASE must hold zeroes or such sectors,
 * too. */
#include "block/graph.h"
#include "block/image/image.h"
#include "block/io/request.h"
#include "block/registry.h"
#include "tests/crash/run.h"
#include "util/range.h"
#include "util/sync.h"
#include "util/sys.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define THREADS_MAX 32u
#define DISK_MAX    (UINT64_C(16) << 20)

typedef struct World {
    BlkGraph *graph;
    BlkNode *node;
    uint64_t size, cluster, seed;
    unsigned threads;
    uint32_t *version; /* of each sector; 0: zeroes */
    gboolean no_unref;
    bool stop;     /* atomic */
    char *failure; /* atomic: the first */
    uint64_t done; /* atomic: operations */
} World;

typedef struct Worker {
    unsigned number;
    Rng rng;
    uint8_t *buf;
    int sockets[2];
    pthread_t thread;
} Worker;

static World w;

static void failed(const char *format, ...) G_GNUC_PRINTF(1, 2);
static void failed(const char *format, ...)
{
    char *none = NULL, *text;
    va_list ap;

    va_start(ap, format);
    text = g_strdup_vprintf(format, ap);
    va_end(ap);
    if (!__atomic_compare_exchange_n(&w.failure, &none, text, false, __ATOMIC_ACQ_REL,
                                     __ATOMIC_ACQUIRE))
        g_free(text);
    __atomic_store_n(&w.stop, true, __ATOMIC_RELEASE);
}

/* ---- calls that take their time */

static void dawdle(void)
{
    static _Thread_local Rng rng;

    if (!rng.state)
        rng.state = w.seed ^ (uintptr_t)&rng;
    switch (rng_below(&rng, 12)) {
    case 0:
        g_usleep(rng_below(&rng, 400));
        break;
    case 1:
    case 2:
        sched_yield();
    }
}

static ssize_t slow_preadv2(int fd, const struct iovec *iov, int n, off_t offset, int flags)
{
    ssize_t ret;

    dawdle();
    ret = tm_sys_kernel.preadv2(fd, iov, n, offset, flags);
    dawdle();
    return ret;
}

static ssize_t slow_pwritev2(int fd, const struct iovec *iov, int n, off_t offset, int flags)
{
    dawdle();
    return tm_sys_kernel.pwritev2(fd, iov, n, offset, flags);
}

static int slow_sync(int fd)
{
    dawdle();
    return 0;
}

/* ---- sectors */

static unsigned owner(uint64_t sector)
{
    uint64_t group = sector * SECTOR / (2 * w.cluster);

    return (unsigned)((group * 7 / 3 % 2 ? group : sector) % w.threads);
}

/* As far from @sector on as it is the same one's. */
static uint64_t owned(uint64_t sector, uint64_t most)
{
    uint64_t n = 1;

    while (n < most && (sector + n) * SECTOR < w.size && owner(sector + n) == owner(sector))
        n++;
    return n;
}

static void fill(uint8_t *to, uint64_t sector, uint32_t version)
{
    if (!version) {
        memset(to, 0, SECTOR);
        return;
    }
    for (unsigned i = 0; i < SECTOR; i += 16) {
        uint64_t place = sector + 1, what = (uint64_t)version << 32 | i;

        memcpy(to + i, &place, 8);
        memcpy(to + i + 8, &what, 8);
    }
}

/* Whether all of it was meant for this place. */
static bool belongs(const uint8_t *from, uint64_t sector)
{
    for (unsigned i = 0; i < SECTOR; i += 16) {
        uint64_t place, what;

        memcpy(&place, from + i, 8);
        memcpy(&what, from + i + 8, 8);
        if ((place || what) && (place != sector + 1 || (uint32_t)what != i))
            return false;
    }
    return true;
}

static bool holds(const uint8_t *from, uint64_t sector, uint32_t version)
{
    uint8_t wanted[SECTOR];

    fill(wanted, sector, version);
    return !memcmp(from, wanted, SECTOR);
}

static uint32_t version_of(const uint8_t *from)
{
    uint64_t what;

    memcpy(&what, from + 8, 8);
    return (uint32_t)(what >> 32);
}

/* ---- requests */

typedef struct Waiter {
    BlkRequest request;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool over;
    int result;
} Waiter;

static void waiter_done(BlkRequest *request, int result)
{
    Waiter *x = (Waiter *)request;
    TM_GUARD(&x->lock);

    x->result = result;
    x->over = true;
    pthread_cond_signal(&x->changed);
}

static int submit(BlkOp op, void *buf, uint64_t offset, uint64_t length, uint32_t flags)
{
    Waiter x = { .request = { .op = op,
                              .flags = flags,
                              .offset = offset,
                              .length = length,
                              .buf = buf,
                              .done = waiter_done },
                 .lock = PTHREAD_MUTEX_INITIALIZER,
                 .changed = PTHREAD_COND_INITIALIZER };
    int ret = blk_submit(w.node, &x.request);

    if (ret != -EINPROGRESS)
        return ret;
    TM_GUARD(&x.lock);
    while (!x.over)
        pthread_cond_wait(&x.changed, &x.lock);
    return x.result;
}

static void expect(int ret, const char *what, uint64_t sector, uint64_t n)
{
    if (ret < 0)
        failed("%s of %" PRIu64 " sectors at %" PRIu64 ": %s", what, n, sector, strerror(-ret));
}

/* ---- operations of a worker */

static void check_own(const Worker *x, const uint8_t *from, uint64_t sector)
{
    if (!belongs(from, sector))
        failed("sector %" PRIu64 " holds what was meant for another place", sector);
    else if (owner(sector) == x->number && !holds(from, sector, w.version[sector]))
        failed("sector %" PRIu64 " has version %u, not %u", sector, version_of(from),
               w.version[sector]);
}

static void op_read(Worker *x, uint64_t sector, uint64_t n)
{
    n = tm_min(n, w.size / SECTOR - sector);
    expect(submit(BLK_OP_READ, x->buf, sector * SECTOR, n * SECTOR, 0), "reading", sector, n);
    for (uint64_t i = 0; i < n; i++)
        check_own(x, x->buf + i * SECTOR, sector + i);
}

/* What a client keeps is read later. */
static void op_send(Worker *x, uint64_t sector, uint64_t n)
{
    ssize_t sent;

    n = tm_min(n, w.size / SECTOR - sector);
    sent = blk_send(w.node, x->sockets[0], sector * SECTOR, n * SECTOR);
    if (sent <= 0)
        return;
    dawdle();
    for (ssize_t at = 0, got; at < sent; at += got) {
        got = recv(x->sockets[1], x->buf + at, (size_t)(sent - at), 0);
        if (got <= 0)
            failed("receiving");
        if (got <= 0)
            return;
    }
    for (uint64_t i = 0; i < (uint64_t)sent / SECTOR; i++)
        if (!belongs(x->buf + i * SECTOR, sector + i))
            failed("sector %" PRIu64 " was sent with what was meant for another place", sector + i);
}

static void op_write(Worker *x, uint64_t sector, uint64_t n, uint32_t flags)
{
    for (uint64_t i = 0; i < n; i++)
        fill(x->buf + i * SECTOR, sector + i, ++w.version[sector + i]);
    expect(submit(BLK_OP_WRITE, x->buf, sector * SECTOR, n * SECTOR, flags), "writing", sector, n);
}

static void op_zero(uint64_t sector, uint64_t n, uint32_t flags)
{
    for (uint64_t i = 0; i < n; i++)
        w.version[sector + i] = 0;
    expect(submit(BLK_OP_WRITE_ZEROES, NULL, sector * SECTOR, n * SECTOR, flags), "zeroing", sector,
           n);
}

/* Whole clusters become zeroes; what is not cut off at cluster bounds stays. */
static void op_discard(Worker *x, uint64_t sector, uint64_t n)
{
    expect(submit(BLK_OP_DISCARD, NULL, sector * SECTOR, n * SECTOR, 0), "discarding", sector, n);
    expect(submit(BLK_OP_READ, x->buf, sector * SECTOR, n * SECTOR, 0), "reading", sector, n);
    for (uint64_t i = 0; i < n; i++) {
        if (holds(x->buf + i * SECTOR, sector + i, 0))
            w.version[sector + i] = 0;
        check_own(x, x->buf + i * SECTOR, sector + i);
    }
}

static void op_compress(Worker *x, uint64_t sector, uint64_t n)
{
    uint64_t first = tm_align_up(sector * SECTOR, w.cluster);
    uint64_t end = tm_align_down((sector + n) * SECTOR, w.cluster);

    if (first >= end)
        return;
    for (uint64_t at = first; at < end; at += SECTOR)
        fill(x->buf + (at - first), at / SECTOR, ++w.version[at / SECTOR]);
    expect(blk_node_pwrite(w.node, x->buf, first, end - first, TIDEMARK_COMPRESSED), "compressing",
           sector, n);
}

static void operate(Worker *x)
{
    uint64_t sectors = w.size / SECTOR, sector = rng_below(&x->rng, sectors), n;
    uint64_t most = 1 + rng_below(&x->rng, rng_chance(&x->rng, 3) ? 300 : 20);
    uint64_t what = rng_below(&x->rng, 24);

    if (what < 5) {
        op_read(x, sector, most);
        return;
    }
    if (what < 7) {
        op_send(x, sector, most);
        return;
    }
    if (what == 7) {
        expect(submit(BLK_OP_FLUSH, NULL, 0, 0, 0), "flushing", 0, 0);
        return;
    }
    while (owner(sector) != x->number)
        sector = (sector + 1) % sectors;
    n = owned(sector, most);
    if (what < 17)
        op_write(x, sector, n, rng_chance(&x->rng, 12) ? TIDEMARK_FUA : 0);
    else if (what < 20)
        op_zero(sector, n, rng_chance(&x->rng, 2) ? TIDEMARK_MAY_UNMAP : 0);
    else if (what < 22)
        op_discard(x, sector, n);
    else
        op_compress(x, sector, n);
}

static void *work(void *opaque)
{
    Worker *x = opaque;

    while (!__atomic_load_n(&w.stop, __ATOMIC_ACQUIRE)) {
        operate(x);
        __atomic_add_fetch(&w.done, 1, __ATOMIC_RELAXED);
    }
    return NULL;
}

/* ---- the image */

static BlkNode *open_image(const char *image, const char *base, bool read_only)
{
    Rng rng = { w.seed };
    g_autofree char *below =
        base ? g_strdup_printf("{\"driver\": \"file\", \"filename\": \"%s\", \"read-only\": true}",
                               base)
             : g_strdup("null");
    g_autofree char *text = g_strdup_printf(
        "{\"driver\": \"qcow2\", \"node-name\": \"q\", \"read-only\": %s, \"discard\": \"unmap\", "
        "\"l2-cache-size\": %d, \"refcount-cache-size\": 1, \"pass-discard-other\": %s, "
        "\"discard-no-unref\": %s, \"backing\": %s, "
        "\"file\": {\"driver\": \"file\", \"filename\": \"%s\"}}",
        read_only ? "true" : "false", rng_chance(&rng, 2) ? 1 : 1 << 20,
        rng_chance(&rng, 2) ? "true" : "false", w.no_unref ? "true" : "false", below, image);
    json_object *options = json_tokener_parse(text);
    g_autoptr(GError) error = NULL;
    BlkNode *node = blk_graph_add(w.graph, options, &error);

    json_object_put(options);
    if (!node)
        failed("%s", error->message);
    return node;
}

static void close_image(void)
{
    g_autoptr(GError) error = NULL;

    if (!blk_graph_del(w.graph, "q", &error))
        failed("%s", error->message);
}

/* What is there, or whether it is what should be. */
static void read_all(BlkNode *node, bool learn)
{
    uint8_t sector[SECTOR];

    for (uint64_t s = 0; s < w.size / SECTOR; s++) {
        if (blk_node_pread(node, sector, s * SECTOR, SECTOR) < 0 || !belongs(sector, s))
            failed("sector %" PRIu64 " holds what was meant for another place", s);
        else if (learn)
            w.version[s] = version_of(sector);
        else if (!holds(sector, s, w.version[s]))
            failed("in the end sector %" PRIu64 " has version %u, not %u", s, version_of(sector),
                   w.version[s]);
    }
}

static void check_image(const char *image)
{
    g_autofree char *text = g_strdup_printf(
        "{\"driver\": \"file\", \"node-name\": \"f\", \"read-only\": true, \"filename\": \"%s\"}",
        image);
    json_object *options = json_tokener_parse(text);
    g_autoptr(GError) error = NULL;
    BlkNode *file = blk_graph_add(w.graph, options, &error);
    BlkImageCheck result;

    json_object_put(options);
    if (!file || !blk_image_check(file, NULL, NULL, &result, &error))
        failed("check: %s", error->message);
    else if (result.corruptions || result.check_errors || result.leaks)
        failed("check: %" PRIu64 " leaks, %" PRIu64 " corruptions, %" PRIu64 " errors",
               result.leaks, result.corruptions, result.check_errors);
    blk_graph_del(w.graph, "f", NULL);
}

static void run(const char *image, const char *base, double seconds)
{
    struct tidemark_info info = { .struct_size = sizeof(info) };
    gint64 end = g_get_monotonic_time() + (gint64)(seconds * 1000000);
    static Worker workers[THREADS_MAX];

    w.node = open_image(image, base, false);
    if (!w.node)
        return;
    blk_node_info(w.node, &info);
    w.cluster = info.cluster_size;
    w.size = tm_min(info.size, DISK_MAX) / SECTOR * SECTOR;
    w.version = g_new0(uint32_t, w.size / SECTOR);
    read_all(w.node, true);
    for (unsigned i = 0; i < w.threads; i++) {
        Worker *x = &workers[i];

        *x = (Worker){ .number = i, .rng.state = w.seed * 100 + i, .buf = g_malloc(300 * SECTOR) };
        if (socketpair(AF_UNIX, SOCK_STREAM, 0, x->sockets) < 0 ||
            pthread_create(&x->thread, NULL, work, x) != 0)
            g_error("a thread");
    }
    while (g_get_monotonic_time() < end && !__atomic_load_n(&w.stop, __ATOMIC_ACQUIRE))
        g_usleep(10000);
    __atomic_store_n(&w.stop, true, __ATOMIC_RELEASE);
    for (unsigned i = 0; i < w.threads; i++) {
        pthread_join(workers[i].thread, NULL);
        close(workers[i].sockets[0]);
        close(workers[i].sockets[1]);
        g_free(workers[i].buf);
    }
    if (!w.failure)
        read_all(w.node, false);
    close_image();
    if (w.failure)
        return;
    w.node = open_image(image, base, true);
    if (w.node)
        read_all(w.node, false);
    close_image();
    check_image(image);
}

int main(int argc, char **argv)
{
    gint64 seed = 1, threads = 6;
    double seconds = 5;
    const GOptionEntry entries[] = {
        { "seed", 0, 0, G_OPTION_ARG_INT64, &seed, "of what is done", "N" },
        { "seconds", 0, 0, G_OPTION_ARG_DOUBLE, &seconds, "how long", "N" },
        { "threads", 0, 0, G_OPTION_ARG_INT64, &threads, "how many", "N" },
        { "no-unref", 0, 0, G_OPTION_ARG_NONE, &w.no_unref, "with discard-no-unref", NULL },
        { NULL }
    };
    GOptionContext *context = g_option_context_new("IMAGE [BASE] - many threads at a qcow2 image");
    BlkEngineOptions engine_options = { .io = BLK_IO_THREADS, .workers = 8 };
    g_autoptr(GError) error = NULL;
    BlkRegistry *registry;
    BlkEngine *engine;
    TmSys sys = tm_sys_kernel;

    g_option_context_add_main_entries(context, entries, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &error) || argc < 2)
        g_error("%s", error ? error->message : "which image?");
    g_option_context_free(context);
    sys.preadv2 = slow_preadv2;
    sys.pwritev2 = slow_pwritev2;
    sys.fdatasync = sys.fsync = slow_sync;
    w.seed = (uint64_t)seed;
    w.threads = (unsigned)CLAMP(threads, 1, (gint64)THREADS_MAX);
    registry = blk_registry_new(&sys);
    engine = blk_engine_new(&engine_options, NULL);
    w.graph = blk_graph_new(registry, engine, &sys);
    run(argv[1], argc > 2 ? argv[2] : NULL, seconds);
    blk_graph_free(w.graph);
    blk_engine_free(engine);
    blk_registry_free(registry);
    printf("%" PRIu64 " operations\n", w.done);
    if (w.failure)
        printf("--seed %" G_GINT64_FORMAT ": %s\n", seed, w.failure);
    g_free(w.version);
    return w.failure != NULL;
}
