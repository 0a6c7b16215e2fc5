/* tests/fuzz/fuzz_qcow2.c: an image that is not what a program has written: opened, read through
 * and asked what it is made of. No crash, no leak, no huge allocation, no endless loop; and what is
 * read twice is the same. The image is the input; its disk is read up to a bound. */
#include "block/graph.h"
#include "block/registry.h"
#include "util/range.h"
#include "util/sys.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define READ_MAX (UINT64_C(4) << 20)
#define PIECE    (UINT64_C(1) << 18)
#define EXTENTS  64u

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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static BlkGraph *graph;
    int fd = memfd_create("image", MFD_CLOEXEC);
    g_autofree char *text = g_strdup_printf(
        "{\"driver\": \"qcow2\", \"node-name\": \"q\", \"read-only\": true, \"backing\": null,"
        " \"file\": {\"driver\": \"file\", \"locking\": \"off\", \"filename\": "
        "\"/proc/self/fd/%d\"}}",
        fd);
    json_object *options = json_tokener_parse(text);
    g_autoptr(GError) error = NULL;
    BlkNode *node;

    if (!graph) {
        BlkEngineOptions engine = { .io = BLK_IO_THREADS };

        graph = blk_graph_new(blk_registry_new(&tm_sys_kernel), blk_engine_new(&engine, NULL),
                              &tm_sys_kernel);
    }
    if (fd < 0 || (size && write(fd, data, size) != (ssize_t)size))
        abort();
    node = blk_graph_add(graph, options, &error);
    if (!node != !!error || (error && strchr(error->message, '\n')))
        BUG("an error without a failure, or one of several lines");
    if (node) {
        use(node);
        if (!blk_graph_del(graph, "q", NULL))
            BUG("the node can't be closed");
    }
    json_object_put(options);
    close(fd);
    return 0;
}
