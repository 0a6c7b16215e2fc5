/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/fuzz/fuzz_qcow2.c: an image that is not what a program has written: opened, read through
 * and asked what it is made of; then opened for writing and written. No crash, no leak, no huge
 * allocation or file, no endless loop; and what is read twice is the same. The image is the input;
 * its disk is read up to a bound. */
#include "block/graph.h"
#include "block/registry.h"
#include "util/range.h"
#include "util/sys.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define READ_MAX (UINT64_C(4) << 20)
#define PIECE    (UINT64_C(1) << 18)
#define EXTENTS  64u
#define CHANGES  40u
/* A cluster of 2 MiB may be new for each change, and each grows ahead. */
#define FILE_GROWS (UINT64_C(512) << 20)

#define BUG(...) (g_printerr(__VA_ARGS__), g_printerr("\n"), abort())

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Reads a piece twice: once the tables may not be in memory, once they are. */
static void read_piece(BlkNode *node, uint64_t offset, uint64_t length)
{
    static uint8_t first[PIECE], second[PIECE];
    int a = blk_node_pread(node, first, offset, length);
    int b = blk_node_pread(node, second, offset, length);

    if (a != b)
        BUG("%d, then %d at %" G_GUINT64_FORMAT, a, b, offset);
    if (a == 0 && memcmp(first, second, length))
        BUG("not the same twice at %" G_GUINT64_FORMAT, offset);
}

static void ask(BlkNode *node, uint64_t offset, uint64_t length)
{
    TmExtent list[EXTENTS];
    TmExtents x = { .list = list, .max = EXTENTS };
    uint64_t described = 0, sum = 0;

    if (blk_node_status(node, offset, length, &x, &described) < 0)
        return;
    for (size_t i = 0; i < x.count; i++)
        sum += list[i].length;
    if (sum != described || described > length || !described)
        BUG("%" G_GUINT64_FORMAT " bytes of status, %" G_GUINT64_FORMAT " described", sum,
            described);
}

static void use(BlkNode *node)
{
    uint64_t size = blk_node_size(node), end = tm_min(size, READ_MAX);

    for (uint64_t at = 0; at < end; at += PIECE)
        read_piece(node, at, tm_min(PIECE, end - at));
    for (uint64_t at = 0; at < size; at += tm_max(size / 16, 1))
        ask(node, at, size - at);
    if (size > PIECE)
        read_piece(node, size - PIECE, PIECE);
}

/* Changes of many kinds; that they work nobody can say, as the image may lie about what is free. */
static void change(BlkNode *node, const uint8_t *data, size_t size)
{
    static uint8_t bytes[PIECE];
    uint64_t disk = blk_node_size(node);

    for (unsigned i = 0; i < CHANGES && disk; i++) {
        uint64_t r = (i + 1) * UINT64_C(0x9e3779b97f4a7c15) ^ (size ? data[i * 37 % size] : 0);
        uint64_t at = (r >> 8) % tm_min(disk, READ_MAX), n = tm_min(1 + r % 9000, disk - at);

        memset(bytes, (int)r, n);
        switch (r >> 60) {
        case 0:
            blk_node_flush(node);
            break;
        case 1:
        case 2:
            blk_node_discard(node, at, n * 16 < disk - at ? n * 16 : n, 0);
            break;
        case 3:
        case 4:
            blk_node_write_zeroes(node, at, n, r & 1 ? TIDEMARK_MAY_UNMAP : 0);
            break;
        case 5:
            blk_node_pwrite(node, bytes, 0, tm_min(disk, 65536), TIDEMARK_COMPRESSED);
            break;
        default:
            blk_node_pwrite(node, bytes, at, n, 0);
        }
    }
}

static BlkNode *open_image(BlkGraph *graph, int fd, bool read_only)
{
    g_autofree char *text = g_strdup_printf(
        "{\"driver\": \"qcow2\", \"node-name\": \"q\", \"read-only\": %s, \"backing\": null,"
        " \"discard\": \"unmap\", \"file\": {\"driver\": \"file\", \"locking\": \"off\", "
        "\"filename\": "
        "\"/proc/self/fd/%d\"}}",
        read_only ? "true" : "false", fd);
    json_object *options = json_tokener_parse(text);
    g_autoptr(GError) error = NULL;
    BlkNode *node = blk_graph_add(graph, options, &error);

    json_object_put(options);
    if (!node != !!error || (error && strchr(error->message, '\n')))
        BUG("an error without a failure, or one of several lines");
    return node;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static BlkGraph *graph;
    int fd = memfd_create("image", MFD_CLOEXEC);
    struct stat st;

    if (!graph) {
        BlkEngineOptions engine = { .io = BLK_IO_THREADS };

        graph = blk_graph_new(blk_registry_new(&tm_sys_kernel), blk_engine_new(&engine, NULL),
                              &tm_sys_kernel);
    }
    if (fd < 0 || (size && write(fd, data, size) != (ssize_t)size))
        abort();
    for (int turn = 0; turn < 2; turn++) {
        BlkNode *node = open_image(graph, fd, turn == 0);

        if (node && turn == 0)
            use(node);
        else if (node)
            change(node, data, size);
        if (node && !blk_graph_del(graph, "q", NULL))
            BUG("the node can't be closed");
    }
    if (fstat(fd, &st) < 0 || (uint64_t)st.st_size > size + FILE_GROWS)
        BUG("the file has %" G_GINT64_FORMAT " bytes", (gint64)st.st_size);
    close(fd);
    return 0;
}
