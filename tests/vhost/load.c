/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/vhost/load.c: vhost-load: a guest that reads or writes at random places of a disk, one
 * thread for each queue, and says as JSON how fast. With --verify it does requests of all types and
 * checks them, and with --reconnect it lives on when its server has ended and another one is there.
 *
 * SIGTERM ends it before its time. With --file it is a program that does the same to a file, to
 * compare with. */
#include "tests/vhost/client.h"
#include "tests/vhost/verify.h"

#include <err.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <linux/virtio_blk.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define SECOND      UINT64_C(1000000000)
#define PATIENCE_MS 30000 /* for one request */
#define PATIENCE    (PATIENCE_MS * UINT64_C(1000000))
#define STEPS       32u /* of the histogram, from a power of two to the next */
#define BUCKETS     (40 * STEPS)

typedef struct Load {
    VcOptions guest;
    const char *path;
    bool file, write, poll, verify, reconnect;
    double seconds;
} Load;

typedef struct Lane {
    const Load *load;
    VcQueue *q; /* or NULL, and then */
    int fd;
    pthread_t thread;
    Verify *verify;
    uint64_t size, state, end;
    unsigned in_flight;
    uint64_t count, total_ns, last; /* requests, their time, when the last one was done */
    uint64_t histogram[BUCKETS];
} Lane;

static unsigned lanes_left; /* atomic, as the next */
static bool asked_to_end;   /* before its time */

static uint64_t now(clockid_t clock)
{
    struct timespec t;

    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

static uint64_t place(Lane *lane)
{
    uint32_t block = lane->load->guest.block;

    lane->state ^= lane->state << 13;
    lane->state ^= lane->state >> 7;
    lane->state ^= lane->state << 17;
    return lane->state % (lane->size / block) * block;
}

static void ask_to_end(int number)
{
    __atomic_store_n(&asked_to_end, true, __ATOMIC_RELAXED);
}

static bool is_over(const Lane *lane, uint64_t time)
{
    return time >= lane->end || __atomic_load_n(&asked_to_end, __ATOMIC_RELAXED);
}

/* ---- latencies */

static unsigned bucket_of(uint64_t ns)
{
    unsigned log = ns < STEPS ? 0 : 63 - (unsigned)__builtin_clzll(ns) - 5;
    unsigned bucket = log * STEPS + (unsigned)(ns >> log);

    return bucket < BUCKETS ? bucket : BUCKETS - 1;
}

/* The lowest value in there. */
static uint64_t value_of(unsigned bucket)
{
    unsigned log = bucket < 2 * STEPS ? 0 : bucket / STEPS - 1;

    return (uint64_t)(bucket - log * STEPS) << log;
}

static void count_done(Lane *lane, uint64_t began, uint64_t ended)
{
    lane->count++;
    lane->total_ns += ended - began;
    lane->histogram[bucket_of(ended - began)]++;
    lane->last = ended;
}

static double percentile(Lane *lanes, unsigned n, double part)
{
    uint64_t all = 0, below = 0;
    unsigned i;

    for (unsigned l = 0; l < n; l++)
        all += lanes[l].count;
    for (i = 0; i < BUCKETS && below <= (uint64_t)((double)all * part); i++) {
        for (unsigned l = 0; l < n; l++)
            below += lanes[l].histogram[i];
    }
    return (double)value_of(i ? i - 1 : 0) / 1000;
}

/* ---- a queue */

static bool submit_next(Lane *lane, VcRequest *r, bool over)
{
    if (lane->verify)
        return verify_submit(lane->verify, lane->q, r, over);
    if (over)
        return false;
    vc_submit(lane->q, r, lane->load->write ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN, place(lane),
              lane->load->guest.block);
    return true;
}

static void submit_all(Lane *lane, uint64_t time)
{
    VcRequest *r;

    while ((r = vc_take(lane->q))) {
        r->began = time;
        if (!submit_next(lane, r, is_over(lane, time))) {
            vc_release(lane->q, r);
            break;
        }
        lane->in_flight++;
    }
    vc_publish(lane->q);
}

static void await_any(Lane *lane, uint64_t since)
{
    if (!lane->load->poll)
        vc_wait(lane->q, PATIENCE_MS);
    if (now(CLOCK_MONOTONIC) - since > PATIENCE)
        errx(1, "queue %u: %u requests are not done in half a minute", lane->q->index,
             lane->in_flight);
}

static void take_done(Lane *lane, VcRequest *r, uint64_t time)
{
    if (lane->verify)
        verify_done(lane->verify, r);
    else if (*r->status != VIRTIO_BLK_S_OK)
        errx(1, "a request at %" PRIu64 " failed: status %u", r->offset, *r->status);
    count_done(lane, r->began, time);
    vc_release(lane->q, r);
    lane->in_flight--;
}

static void run_queue(Lane *lane)
{
    uint64_t time = now(CLOCK_MONOTONIC);

    for (;;) {
        VcRequest *r;

        submit_all(lane, time);
        if (!lane->in_flight)
            return;
        while (!(r = vc_reap(lane->q)))
            await_any(lane, time);
        time = now(CLOCK_MONOTONIC);
        do
            take_done(lane, r, time);
        while ((r = vc_reap(lane->q)));
    }
}

/* ---- a file */

static void run_file(Lane *lane)
{
    uint32_t block = lane->load->guest.block;
    uint64_t began = now(CLOCK_MONOTONIC);
    char *data = malloc(block);

    if (!data)
        err(2, "memory");
    memset(data, 1, block);
    while (!is_over(lane, began)) {
        uint64_t offset = place(lane);
        ssize_t n = lane->load->write ? pwrite(lane->fd, data, block, (off_t)offset)
                                      : pread(lane->fd, data, block, (off_t)offset);

        if (n != (ssize_t)block)
            err(1, "at %" PRIu64, offset);
        count_done(lane, began, now(CLOCK_MONOTONIC));
        began = lane->last;
    }
    free(data);
}

/* ---- all of them */

static void *lane_main(void *opaque)
{
    Lane *lane = opaque;

    if (lane->q)
        run_queue(lane);
    else
        run_file(lane);
    __atomic_sub_fetch(&lanes_left, 1, __ATOMIC_RELEASE);
    return NULL;
}

static void connect_again(const Load *load, VcGuest *guest)
{
    const char *failed = "the server has gone";
    uint64_t end = now(CLOCK_MONOTONIC) + PATIENCE;

    while (load->reconnect && now(CLOCK_MONOTONIC) < end &&
           __atomic_load_n(&lanes_left, __ATOMIC_ACQUIRE)) {
        failed = vc_connect(guest, load->path);
        if (!failed)
            return;
        usleep(5000);
    }
    if (__atomic_load_n(&lanes_left, __ATOMIC_ACQUIRE))
        errx(1, "%s: %s", load->path, failed);
}

/* Until the lanes are at their ends. How often the server was another one. */
static unsigned watch_server(const Load *load, VcGuest *guest)
{
    unsigned times = 0;

    while (__atomic_load_n(&lanes_left, __ATOMIC_ACQUIRE)) {
        struct pollfd p = { .fd = guest ? guest->socket : -1, .events = POLLIN };

        if (poll(&p, 1, 10) > 0 || (load->verify && vc_pause(guest))) {
            connect_again(load, guest);
            times++;
        }
    }
    return times;
}

static uint64_t cpu_of(const VcGuest *guest)
{
    clockid_t clock;

    if (clock_getcpuclockid(guest ? guest->server : 0, &clock) != 0)
        errx(1, "the processor time of the server is not known");
    return now(clock);
}

static void start_lanes(const Load *load, Lane *lanes, VcGuest *guest, int fd, uint64_t size)
{
    unsigned n = load->guest.queues;
    uint64_t begin = now(CLOCK_MONOTONIC), blocks = size / load->guest.block / n;

    if (!blocks)
        errx(1, "the disk has less than a block for each queue");
    lanes_left = n;
    for (unsigned i = 0; i < n; i++) {
        Lane *lane = &lanes[i];

        lane->load = load;
        lane->q = guest ? &guest->queues[i] : NULL;
        lane->fd = fd;
        lane->size = size;
        lane->state = begin + i * 2 + 1;
        lane->end = begin + (uint64_t)(load->seconds * (double)SECOND);
        if (load->verify)
            lane->verify = verify_new(i * blocks, blocks, load->guest.block, lane->state);
        if (pthread_create(&lane->thread, NULL, lane_main, lane) != 0)
            errx(2, "no thread can be made");
    }
}

static void report(const Load *load, Lane *lanes, const VcGuest *guest, uint64_t began,
                   uint64_t cpu_ns, unsigned again)
{
    uint64_t count = 0, kicks = 0, waits = 0, last = began + 1, total_ns = 0, changed = 0;
    unsigned n = load->guest.queues;

    for (unsigned i = 0; i < n; i++) {
        count += lanes[i].count;
        total_ns += lanes[i].total_ns;
        last = lanes[i].last > last ? lanes[i].last : last;
        changed += verify_changed(lanes[i].verify);
        kicks += guest ? guest->queues[i].kicks : 0;
        waits += guest ? guest->queues[i].waits : 0;
    }
    count += !count;
    printf("{\"requests\": %" PRIu64 ", \"bytes\": %" PRIu64
           ", \"seconds\": %.6f, \"iops\": %.1f, \"mean_us\": %.3f, \"p50_us\": %.3f, "
           "\"p99_us\": %.3f, \"server_cpu_us\": %.3f, \"kicks\": %" PRIu64 ", \"waits\": %" PRIu64
           ", \"changed\": %" PRIu64 ", \"reconnected\": %u}\n",
           count, count * load->guest.block, (double)(last - began) / (double)SECOND,
           (double)count * (double)SECOND / (double)(last - began),
           (double)total_ns / (double)count / 1000, percentile(lanes, n, 0.5),
           percentile(lanes, n, 0.99), (double)cpu_ns / 1000 / (double)count, kicks, waits, changed,
           again);
}

static void run(const Load *load, VcGuest *guest, int fd, uint64_t size)
{
    unsigned n = load->guest.queues, again;
    Lane *lanes = calloc(n, sizeof(Lane));
    uint64_t cpu = cpu_of(guest), began = now(CLOCK_MONOTONIC);

    if (!lanes)
        err(2, "memory");
    start_lanes(load, lanes, guest, fd, size);
    again = watch_server(load, guest);
    for (unsigned i = 0; i < n; i++)
        pthread_join(lanes[i].thread, NULL);
    cpu = again ? 0 : cpu_of(guest) - cpu;
    report(load, lanes, guest, began, cpu, again);
    for (unsigned i = 0; i < n; i++)
        verify_free(lanes[i].verify);
    free(lanes);
}

static void load_guest(const Load *load)
{
    VcGuest *guest = vc_guest_new(&load->guest);
    const char *failed = vc_connect(guest, load->path);

    if (failed)
        errx(1, "%s: %s", load->path, failed);
    run(load, guest, -1, guest->capacity);
    if ((failed = vc_stop(guest)))
        errx(1, "%s: %s", load->path, failed);
    vc_guest_free(guest);
}

static void load_file(const Load *load)
{
    int fd = open(load->path, (load->write ? O_RDWR : O_RDONLY) | O_CLOEXEC);
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0)
        err(1, "%s", load->path);
    run(load, NULL, fd, (uint64_t)st.st_size);
    close(fd);
}

/* ---- options */

enum { QUEUES = 'q', DEPTH = 'd', BLOCK = 'b', SEGMENT = 'm', SECONDS = 's' };
enum { WRITE = 1, POLL, VERIFY, RECONNECT, FILE_, CHAINED, NO_EVENT_IDX };

static const struct option known[] = {
    { "queues", required_argument, NULL, QUEUES },
    { "depth", required_argument, NULL, DEPTH },
    { "block", required_argument, NULL, BLOCK },
    { "segment", required_argument, NULL, SEGMENT },
    { "seconds", required_argument, NULL, SECONDS },
    { "write", no_argument, NULL, WRITE },
    { "poll", no_argument, NULL, POLL },
    { "verify", no_argument, NULL, VERIFY },
    { "reconnect", no_argument, NULL, RECONNECT },
    { "file", no_argument, NULL, FILE_ },
    { "chained", no_argument, NULL, CHAINED },
    { "no-event-idx", no_argument, NULL, NO_EVENT_IDX },
    { 0 },
};

static uint32_t positive(const char *text, unsigned multiple)
{
    unsigned long n = strtoul(text, NULL, 10);

    if (!n || n > (UINT32_C(1) << 30) || n % multiple)
        errx(2, "'%s' is not a number from %u on, or no multiple of it", text, multiple);
    return (uint32_t)n;
}

static void set_option(Load *load, int option)
{
    switch (option) {
    case QUEUES:
        load->guest.queues = positive(optarg, 1);
        break;
    case DEPTH:
        load->guest.depth = positive(optarg, 1);
        break;
    case BLOCK:
        load->guest.block = positive(optarg, 4096);
        break;
    case SEGMENT:
        load->guest.segment = positive(optarg, 512);
        break;
    case SECONDS:
        load->seconds = strtod(optarg, NULL);
        break;
    case WRITE:
        load->write = true;
        break;
    case POLL:
        load->poll = true;
        break;
    case VERIFY:
        load->verify = true;
        break;
    case RECONNECT:
        load->reconnect = true;
        break;
    case FILE_:
        load->file = true;
        break;
    case CHAINED:
        load->guest.indirect = false;
        break;
    case NO_EVENT_IDX:
        load->guest.event_idx = false;
        break;
    default:
        errx(2, "usage: vhost-load [--queues N] [--depth N] [--block BYTES] [--segment BYTES] "
                "[--seconds N]\n       [--write | --verify] [--poll] [--reconnect] [--chained] "
                "[--no-event-idx] SOCKET\n       vhost-load --file [...] FILE");
    }
}

int main(int argc, char **argv)
{
    Load load = { .guest = { .queues = 1,
                             .depth = 1,
                             .block = 4096,
                             .segment = 65536,
                             .indirect = true,
                             .event_idx = true },
                  .seconds = 1 };
    int option;

    while ((option = getopt_long(argc, argv, "", known, NULL)) != -1)
        set_option(&load, option);
    if (optind + 1 != argc)
        set_option(&load, '?');
    load.path = argv[optind];
    signal(SIGTERM, ask_to_end);
    if (load.file)
        load_file(&load);
    else
        load_guest(&load);
    return 0;
}
