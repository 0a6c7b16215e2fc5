/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/fuzz/fuzz_nbd.c: a client's bytes to a real session over a socketpair: the real server,
 * engine and block layer on a file in memory. Bytes that begin as a request does follow a handshake
 * that negotiates all there is; bytes that begin as a TLS record, an agreement on TLS; others are
 * the handshake and what follows. A session that doesn't end once its client has said everything is
 * a bug too. */
#include "block/graph.h"
#include "block/registry.h"
#include "qmp/context.h"
#include "qmp/json/json.h"
#include "server/nbd/nbd_internal.h"
#include "server/servers.h"
#include "util/endian.h"
#include "util/sys.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define DISK_SIZE ((1 << 20) + 777)
#define PATIENCE  20000 /* ms without any progress */

/* Flags, STRUCTURED_REPLY, SET_META_CONTEXT, GO. The user context w is only selected when the
 * second one is EXTENDED_HEADERS instead. */
#define AGREED 15 /* the byte that distinguishes the two */
static const char handshake[] = "\0\0\0\3"
                                "IHAVEOPT\0\0\0\10\0\0\0\0"
                                "IHAVEOPT\0\0\0\12\0\0\0\215\0\0\0\1d\0\0\0\6"
                                "\0\0\0\17base:allocation"
                                "\0\0\0\23qemu:dirty-bitmap:b"
                                "\0\0\0\25qemu:allocation-depth"
                                "\0\0\0\23x-tidemark:backup:b"
                                "\0\0\0\21x-tidemark:user:u"
                                "\0\0\0\21x-tidemark:user:w"
                                "IHAVEOPT\0\0\0\7\0\0\0\7\0\0\0\1d\0\0";

#define TLS_RECORD 22 /* the type of a record of a handshake */
static const char starttls[] = "\0\0\0\3IHAVEOPT\0\0\0\5\0\0\0\0";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char *directory; /* of the keys, for atexit() */

static void remove_keys(void)
{
    g_autofree char *path = g_build_filename(directory, "keys.psk", NULL);

    unlink(path);
    rmdir(directory);
}

static char *make_keys(void)
{
    g_autofree char *path = NULL;

    directory = g_dir_make_tmp("fuzz-XXXXXX", NULL);
    path = g_build_filename(directory, "keys.psk", NULL);
    if (!g_file_set_contents(path, "qemu:00112233445566778899aabbccddeeff\n", -1, NULL))
        abort();
    atexit(remove_keys);
    return g_strdup_printf("{'qom-type': 'tls-creds-psk', 'id': 't', 'endpoint': 'server',"
                           " 'dir': '%s'}",
                           directory);
}

static void command(QmpContext *qmp, const char *name, const char *arguments)
{
    g_autoptr(GError) error = NULL;
    json_object *args = NULL;

    if (!qmp_json_parse(arguments, &args, &error) || !qmp_dispatch(qmp, name, args, NULL, &error))
        g_error("%s: %s", name, error->message);
    json_object_put(args);
}

/* The disk, with a bitmap that is exported; the server also listens, because exports ask for it. */
static NbdsServers *start(void)
{
    BlkEngineOptions engine_options = { .io = BLK_IO_THREADS };
    BlkRegistry *registry = blk_registry_new(&tm_sys_kernel);
    BlkEngine *engine = blk_engine_new(&engine_options, NULL);
    BlkGraph *graph = blk_graph_new(registry, engine, &tm_sys_kernel);
    BlkExports *exports = blk_exports_new(graph);
    NbdsServers *servers = nbds_servers_new(exports, NULL);
    QmpContextOptions options = { .graph = graph, .exports = exports };
    QmpContext *qmp = qmp_context_new(&options);
    int fd = memfd_create("disk", 0);
    g_autofree char *node =
        g_strdup_printf("{'driver': 'file', 'node-name': 'd', 'discard': 'unmap', 'locking': 'off',"
                        " 'filename': '/proc/self/fd/%d'}",
                        fd);
    g_autofree char *keys = make_keys();

    if (fd < 0 || ftruncate(fd, DISK_SIZE) < 0)
        abort();
    command(qmp, "blockdev-add", node);
    command(qmp, "block-dirty-bitmap-add", "{'node': 'd', 'name': 'b', 'granularity': 4096}");
    command(qmp, "object-add", keys);
    command(qmp, "nbd-server-start",
            "{'addr': {'type': 'inet', 'data': {'host': '127.0.0.1', 'port': '0'}},"
            " 'tls-creds': 't', 'tls-required': false}");
    command(qmp, "block-export-add",
            "{'type': 'nbd', 'id': 'e', 'node-name': 'd', 'writable': true, 'bitmaps': ['b'],"
            " 'allocation-depth': true}");
    command(qmp, "block-export-context-set",
            "{'id': 'e', 'name': 'u', 'ranges': [{'offset': 0, 'length': 4096, 'value': 1},"
            " {'offset': 5000, 'length': 1, 'value': 4294967295}]}");
    command(qmp, "block-export-context-set",
            "{'id': 'e', 'name': 'w', 'width': 64, 'ranges': [{'offset': 100000, 'length': 9000,"
            " 'value': 18446744073709551615}]}");
    nbds_servers_serve(servers);
    return servers;
}

/* Sends everything and reads until the session ends. */
static void converse(int fd, const uint8_t *data, size_t size)
{
    uint8_t sink[65536];
    bool sent = false;

    for (;;) {
        struct pollfd p = { .fd = fd, .events = POLLIN | (sent ? 0 : POLLOUT) };
        ssize_t n;

        if (poll(&p, 1, PATIENCE) == 0)
            abort();
        if (p.revents & (POLLIN | POLLHUP | POLLERR)) {
            n = recv(fd, sink, sizeof(sink), MSG_DONTWAIT);
            if (n == 0 || (n < 0 && errno != EAGAIN))
                return;
        }
        if (!sent && (p.revents & POLLOUT)) {
            n = size ? send(fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL) : 0;
            if (n < 0 && errno != EAGAIN)
                n = (ssize_t)size; /* it has ended; what it said is still there */
            if (n > 0) {
                data += n;
                size -= (size_t)n;
            }
            if (!size) {
                shutdown(fd, SHUT_WR);
                sent = true;
            }
        }
    }
}

/* Up to the server's agreement, for which a client has to wait. */
static void agree_on_tls(int fd)
{
    uint8_t answer[18 + 20];

    if (send(fd, starttls, sizeof(starttls) - 1, MSG_NOSIGNAL) != sizeof(starttls) - 1)
        abort();
    for (size_t got = 0; got < sizeof(answer);) {
        struct pollfd p = { .fd = fd, .events = POLLIN };
        ssize_t n;

        if (poll(&p, 1, PATIENCE) == 0)
            abort();
        n = recv(fd, answer + got, sizeof(answer) - got, MSG_DONTWAIT);
        if (n <= 0)
            abort();
        got += (size_t)n;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static NbdsServers *servers;
    g_autoptr(GByteArray) all = g_byte_array_new();
    int fds[2];

    if (!servers)
        servers = start();
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) < 0)
        abort();
    if (size >= 4 &&
        (tm_get_be32(data) == NBD_MAGIC_REQUEST || tm_get_be32(data) == NBD_MAGIC_EXTENDED_REQUEST))
        g_byte_array_append(all, (const uint8_t *)handshake, sizeof(handshake) - 1);
    if (all->len && tm_get_be32(data) == NBD_MAGIC_EXTENDED_REQUEST)
        all->data[AGREED] = NBD_OPT_EXTENDED_HEADERS;
    g_byte_array_append(all, data, (guint)size);
    nbds_server_enter(servers->list);
    nbds_session_new(servers->list, fds[0]);
    if (size && data[0] == TLS_RECORD)
        agree_on_tls(fds[1]);
    converse(fds[1], all->data, all->len);
    close(fds[1]);
    return 0;
}
