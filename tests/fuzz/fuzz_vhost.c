/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/fuzz/fuzz_vhost.c: a client of an export of the type vhost-user-blk, as a list of steps:
 * messages of any content, bytes in the memory that it shares, kicks, a thread that goes on writing
 * to that memory, new connections. The server, engine and block layer are the real ones.
 *
 * After each input the session must end with its connection, and what differs on the disk must be
 * dirty. */
#include "block/graph.h"
#include "block/registry.h"
#include "qmp/context.h"
#include "qmp/json/json.h"
#include "server/vhost/vhost_internal.h"
#include "util/clock.h"
#include "util/endian.h"
#include "util/sys.h"

#include <errno.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define DISK      (256u << 10)
#define GRANULE   4096u
#define GUEST     0x10000u /* the address of its memory for the guest; for the client USER */
#define USER      0x100000u
#define MEMORY    (128u << 10)
#define QUEUES    2u
#define SIZE      16u
#define RING      4096u /* bytes of memory for a queue: descriptors, available, used */
#define AVAIL     1024u
#define USED      2048u
#define DATA      (QUEUES * RING) /* where requests are */
#define AREA      (QUEUES * 512u) /* of requests in flight */
#define STEPS     200u
#define PATIENCE  (UINT64_C(20) * 1000 * 1000 * 1000) /* ns without any progress */
#define A_TURN_US 300

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct Input {
    const uint8_t *data;
    size_t size;
} Input;

/* What there is in a process. */
static struct {
    BlkExports *exports;
    VhostExport *x;
    BmpBitmap *bitmap;
    BmpSet *set;
    uint8_t *disk, *before;
    char name[32]; /* of its abstract socket */
} world;

/* What a client has. */
typedef struct Client {
    int socket, memory, area, kick[QUEUES], call[QUEUES];
    uint8_t *shared, *noted; /* memory, area */
    pthread_t scribbler;
    bool scribbles; /* atomic: to go on */
    uint32_t seed;
    uint32_t from, length;
    unsigned next; /* slot of a request */
} Client;

/* ---- the input: numbers that are not there are 0 */

static uint32_t take(Input *in, unsigned bytes)
{
    uint32_t v = 0;

    for (unsigned i = 0; i < bytes && in->size; i++, in->data++, in->size--)
        v |= (uint32_t)*in->data << 8 * i;
    return v;
}

static size_t take_bytes(Input *in, void *to, size_t n)
{
    n = MIN(n, in->size);
    memcpy(to, in->data, n);
    in->data += n;
    in->size -= n;
    return n;
}

/* ---- the server */

static void command(QmpContext *qmp, const char *name, const char *arguments)
{
    g_autoptr(GError) error = NULL;
    json_object *args = NULL;

    if (!qmp_json_parse(arguments, &args, &error) || !qmp_dispatch(qmp, name, args, NULL, &error))
        g_error("%s: %s", name, error->message);
    json_object_put(args);
}

static void *map(int fd, size_t size)
{
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

    if (at == MAP_FAILED)
        abort();
    return at;
}

static void start(void)
{
    BlkEngineOptions engine_options = { .io = BLK_IO_AUTO };
    BlkRegistry *registry = blk_registry_new(&tm_sys_kernel);
    BlkEngine *engine = blk_engine_new(&engine_options, NULL);
    BlkGraph *graph = blk_graph_new(registry, engine, &tm_sys_kernel);
    QmpContextOptions options = { .graph = graph, .exports = blk_exports_new(graph) };
    g_autofree char *node = NULL, *export = NULL;
    QmpContext *qmp = qmp_context_new(&options);
    int fd = memfd_create("disk", 0);
    BlkExport *blk;

    tm_mapping_guard_install();
    if (fd < 0 || ftruncate(fd, DISK) < 0)
        abort();
    vhost_register(options.exports, NULL);
    g_snprintf(world.name, sizeof(world.name), "tidemark-fuzz-%d", getpid());
    node = g_strdup_printf("{'driver': 'file', 'node-name': 'd', 'discard': 'unmap',"
                           " 'locking': 'off', 'filename': '/proc/self/fd/%d'}",
                           fd);
    export = g_strdup_printf("{'type': 'vhost-user-blk', 'id': 'e', 'node-name': 'd',"
                             " 'writable': true, 'num-queues': %u,"
                             " 'addr': {'type': 'unix', 'abstract': true, 'path': '%s'}}",
                             QUEUES, world.name);
    command(qmp, "blockdev-add", node);
    command(qmp, "block-dirty-bitmap-add", "{'node': 'd', 'name': 'b', 'granularity': 4096}");
    command(qmp, "block-export-add", export);
    blk = blk_exports_find_id(options.exports, "e");
    world.exports = options.exports;
    world.x = blk_export_serving(blk);
    world.set = blk_node_bitmaps(blk_export_node(blk));
    world.bitmap = bmp_set_find(world.set, "b", NULL);
    world.disk = map(fd, DISK);
    world.before = g_malloc(DISK);
}

/* The main loop goes on until nothing is left to do for it. */
static void settle(Client *c)
{
    uint64_t began = tm_now_ns();
    uint8_t sink[4096];
    int unread = 0;

    do {
        VhostSession *s;

        while (g_main_context_iteration(NULL, FALSE))
            ;
        while (recv(c->socket, sink, sizeof(sink), MSG_DONTWAIT) > 0)
            ;
        s = world.x->session;
        if (s && !s->waits && ioctl(s->fd, FIONREAD, &unread) < 0)
            abort();
        if (!s || (!s->waits && !unread))
            return;
        g_usleep(10);
    } while (tm_now_ns() - began < PATIENCE);
    abort();
}

/* ---- a client */

static void connect_client(Client *c)
{
    struct sockaddr_un at = { .sun_family = AF_UNIX };
    socklen_t length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(world.name));
    uint64_t began = tm_now_ns();

    g_strlcpy(at.sun_path + 1, world.name, sizeof(at.sun_path) - 1);
    c->socket = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->socket < 0 || connect(c->socket, (struct sockaddr *)&at, length) < 0)
        abort();
    while (!world.x->session) {
        if (tm_now_ns() - began > PATIENCE)
            abort();
        if (!g_main_context_iteration(NULL, FALSE))
            g_usleep(100);
    }
}

/* The session ends with its connection. */
static void disconnect(Client *c)
{
    uint64_t began = tm_now_ns();

    close(c->socket);
    while (world.x->session || !__atomic_load_n(&world.x->vacant, __ATOMIC_ACQUIRE)) {
        if (tm_now_ns() - began > PATIENCE)
            abort();
        if (!g_main_context_iteration(NULL, FALSE))
            g_usleep(20);
    }
}

static void send_message(Client *c, uint32_t request, uint32_t flags, const void *payload,
                         uint32_t size, const int *fds, unsigned n_fds)
{
    VhostHead head = { request, flags, size };
    struct iovec iov[] = { { &head, sizeof(head) }, { (void *)payload, size } };
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(VHOST_FDS * sizeof(int))];
    } control = { 0 };
    struct msghdr m = { .msg_iov = iov, .msg_iovlen = 2 };

    if (n_fds) {
        m.msg_control = &control;
        m.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
        control.header = (struct cmsghdr){ CMSG_LEN(n_fds * sizeof(int)), SOL_SOCKET, SCM_RIGHTS };
        memcpy(CMSG_DATA(&control.header), fds, n_fds * sizeof(int));
    }
    sendmsg(c->socket, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
    settle(c);
}

static void say(Client *c, uint32_t request, const void *payload, uint32_t size, int fd)
{
    send_message(c, request, VHOST_VERSION, payload, size, &fd, fd >= 0);
}

static void say_state(Client *c, uint32_t request, unsigned queue, uint32_t v)
{
    VhostRingState state = { queue, v };

    say(c, request, &state, sizeof(state), -1);
}

static void share_memory(Client *c)
{
    VhostPayload p = { .memory = { .n = 1, .region = { { GUEST, MEMORY, USER, 0 } } } };

    say(c, VHOST_SET_MEM_TABLE, &p, 8 + sizeof(VhostRegionInfo), c->memory);
}

/* What a driver does before it sends requests. */
static void start_queues(Client *c, unsigned how)
{
    uint64_t features = UINT64_C(1) << VIRTIO_F_VERSION_1 | 1u << VIRTIO_BLK_F_FLUSH |
                        1u << VIRTIO_RING_F_INDIRECT_DESC | 1u << VHOST_F_PROTOCOL_FEATURES;
    uint64_t protocol = how & 2 ? 1u << VHOST_PROTOCOL_INFLIGHT_SHMFD : 0;
    VhostInflightInfo info = { .size = AREA, .queues = QUEUES, .queue_size = SIZE };

    if (how & 1)
        features |= 1u << VIRTIO_RING_F_EVENT_IDX;
    say(c, VHOST_SET_PROTOCOL_FEATURES, &protocol, sizeof(protocol), -1);
    say(c, VHOST_SET_FEATURES, &features, sizeof(features), -1);
    if (how & 2)
        say(c, VHOST_SET_INFLIGHT_FD, &info, sizeof(info), c->area);
    share_memory(c);
    for (unsigned i = 0; i < QUEUES; i++) {
        uint64_t at = USER + i * RING, number = i;
        VhostRingAddresses a = { .index = i, .desc = at, .avail = at + AVAIL, .used = at + USED };

        say_state(c, VHOST_SET_VRING_NUM, i, SIZE);
        say_state(c, VHOST_SET_VRING_BASE, i, vhost_load16(c->shared + i * RING + USED + 2));
        say(c, VHOST_SET_VRING_ADDR, &a, sizeof(a), -1);
        say(c, VHOST_SET_VRING_CALL, &number, sizeof(number), c->call[i]);
        say(c, VHOST_SET_VRING_KICK, &number, sizeof(number), c->kick[i]);
        say_state(c, VHOST_SET_VRING_ENABLE, i, 1);
    }
}

/* ---- steps */

static void step_message(Client *c, Input *in)
{
    const int known[] = { c->memory, c->area, c->kick[0], c->kick[1], c->call[0], c->socket };
    uint32_t request = take(in, 1), flags = take(in, 1), kinds = take(in, 2);
    uint8_t payload[320];
    uint32_t size = (uint32_t)take_bytes(in, payload, take(in, 1)), claimed = size;
    int fds[VHOST_FDS];
    unsigned n = 0;

    for (; kinds % 8 && n < VHOST_FDS; kinds /= 8)
        fds[n++] = known[kinds % 8 % G_N_ELEMENTS(known)];
    if (flags & 128)
        claimed = take(in, 2);
    send_message(c, request, (flags & 127) ^ VHOST_VERSION, payload, MIN(size, claimed), fds, n);
}

/* Two of them have a thread at the same time: what tears is meant to. */
__attribute__((no_sanitize("thread"))) static void store(Client *c, Input *in)
{
    uint32_t at = take(in, 3), place = at & 0x7fffff;
    uint8_t bytes[256];
    size_t n = take_bytes(in, bytes, take(in, 1));

    if (at & 1u << 23)
        memcpy(c->noted + place % (AREA - sizeof(bytes)), bytes, n);
    else
        memcpy(c->shared + place % (MEMORY - sizeof(bytes)), bytes, n);
}

/* A request as a driver makes it, with three descriptors or with a table of them. */
static void step_request(Client *c, Input *in)
{
    unsigned queue = take(in, 1), kind = take(in, 1), slot = 4 * (c->next++ % (SIZE / 4));
    uint32_t sector = take(in, 2), length = take(in, 2), flags = take(in, 1);
    bool reads = kind == VIRTIO_BLK_T_IN || kind == VIRTIO_BLK_T_GET_ID, table = queue & 128;
    uint8_t *ring = c->shared + queue % QUEUES * RING;
    uint32_t at = DATA + slot * 4096u % (MEMORY - DATA - 8192);
    struct virtio_blk_outhdr header = { .type = kind, .sector = sector };
    struct virtio_blk_discard_write_zeroes range = { sector, length, flags };
    VhostDesc desc[3] = {
        { GUEST + at, sizeof(header), VRING_DESC_F_NEXT, 1 },
        { GUEST + at + 512, length, VRING_DESC_F_NEXT | (reads ? VRING_DESC_F_WRITE : 0u), 2 },
        { GUEST + at + 256, 1, VRING_DESC_F_WRITE, 0 },
    };
    uint16_t idx;

    if (kind == VIRTIO_BLK_T_DISCARD || kind == VIRTIO_BLK_T_WRITE_ZEROES) {
        memcpy(c->shared + at + 512, &range, sizeof(range));
        desc[1].len = sizeof(range);
    }
    memcpy(c->shared + at, &header, sizeof(header));
    if (table) {
        VhostDesc one = { GUEST + at + 128, sizeof(desc), VRING_DESC_F_INDIRECT, 0 };

        memcpy(c->shared + at + 128, desc, sizeof(desc));
        memcpy(ring + slot * sizeof(one), &one, sizeof(one));
    } else {
        for (unsigned i = 0; i < 3; i++)
            desc[i].next = (uint16_t)(slot + i + 1);
        memcpy(ring + slot * sizeof(desc[0]), desc, sizeof(desc));
    }
    idx = vhost_load16(ring + AVAIL + 2);
    vhost_store16(ring + AVAIL + 4 + idx % SIZE * 2, (uint16_t)slot);
    __atomic_store_n((uint16_t *)(ring + AVAIL + 2), (uint16_t)(idx + 1), __ATOMIC_RELEASE);
}

static void step_kick(Client *c, Input *in)
{
    unsigned queue = take(in, 1);
    const uint8_t *ring;

    eventfd_write(c->kick[queue % QUEUES], 1);
    if (queue & 128)
        return; /* what comes next meets a turn */
    ring = c->shared + queue % QUEUES * RING;
    for (unsigned us = 0; us < A_TURN_US; us += 20) {
        if (vhost_load16(ring + USED + 2) == vhost_load16(ring + AVAIL + 2))
            break;
        g_usleep(20);
    }
    settle(c);
}

/* xorshift */
static void *scribble(void *opaque)
{
    Client *c = opaque;
    uint32_t v = c->seed | 1;

    while (__atomic_load_n(&c->scribbles, __ATOMIC_ACQUIRE)) {
        v ^= v << 13;
        v ^= v >> 17;
        v ^= v << 5;
        __atomic_store_n(&c->shared[c->from + v % c->length], (uint8_t)(v >> 24), __ATOMIC_RELAXED);
    }
    return NULL;
}

static void stop_scribbling(Client *c)
{
    if (!c->scribbles)
        return;
    __atomic_store_n(&c->scribbles, false, __ATOMIC_RELEASE);
    pthread_join(c->scribbler, NULL);
}

static void step_scribble(Client *c, Input *in)
{
    stop_scribbling(c);
    c->seed = take(in, 3);
    c->from = take(in, 2) % (MEMORY / 2);
    c->length = 1 + take(in, 2) % (MEMORY / 2);
    c->scribbles = true;
    if (pthread_create(&c->scribbler, NULL, scribble, c) != 0)
        abort();
}

static void step_reconnect(Client *c)
{
    disconnect(c);
    connect_client(c);
}

static void step_shrink(Client *c, Input *in)
{
    stop_scribbling(c); /* it would meet the SIGBUS */
    if (ftruncate(c->memory, 4096 * (off_t)take(in, 1)) < 0)
        abort();
    eventfd_write(c->kick[0], 1);
    g_usleep(A_TURN_US);
    settle(c);
    if (ftruncate(c->memory, MEMORY) < 0)
        abort();
}

static void step(Client *c, Input *in)
{
    switch (take(in, 1) % 8) {
    case 0:
        step_message(c, in);
        break;
    case 1:
        store(c, in);
        break;
    case 2:
        step_kick(c, in);
        break;
    case 3:
        start_queues(c, take(in, 1));
        break;
    case 4:
        step_request(c, in);
        break;
    case 5:
        step_scribble(c, in);
        break;
    case 6:
        step_reconnect(c);
        break;
    default:
        step_shrink(c, in);
    }
}

/* ---- an input */

static int shared_file(const char *name, off_t size)
{
    int fd = memfd_create(name, MFD_CLOEXEC);

    if (fd < 0 || ftruncate(fd, size) < 0)
        abort();
    return fd;
}

static void client_begin(Client *c)
{
    c->memory = shared_file("memory", MEMORY);
    c->area = shared_file("area", AREA);
    c->shared = map(c->memory, MEMORY);
    c->noted = map(c->area, AREA);
    for (unsigned i = 0; i < QUEUES; i++) {
        c->kick[i] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        c->call[i] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    }
    connect_client(c);
}

static void client_end(Client *c)
{
    disconnect(c);
    stop_scribbling(c);
    munmap(c->shared, MEMORY);
    munmap(c->noted, AREA);
    close(c->memory);
    close(c->area);
    for (unsigned i = 0; i < QUEUES; i++) {
        close(c->kick[i]);
        close(c->call[i]);
    }
}

static void clear_bitmap(void)
{
    memcpy(world.before, world.disk, DISK);
    bmp_set_change_begin(&world.set, 1);
    if (!bmp_bitmap_clear(world.bitmap, NULL))
        abort();
    bmp_set_change_end(&world.set, 1);
}

static void check_bitmap(void)
{
    for (uint64_t at = 0; at < DISK; at += GRANULE) {
        uint64_t edge, described;
        bool dirty = false;

        bmp_bitmap_edges(world.bitmap, at, GRANULE, &edge, 1, &dirty, &described);
        if (!dirty && memcmp(world.disk + at, world.before + at, GRANULE) != 0)
            g_error("what was written at %" PRIu64 " is not dirty", at);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Input in = { data, size };
    Client c = { 0 };

    if (!world.x)
        start();
    clear_bitmap();
    client_begin(&c);
    for (unsigned n = 0; n < STEPS && in.size; n++)
        step(&c, &in);
    client_end(&c);
    check_bitmap();
    return 0;
}
