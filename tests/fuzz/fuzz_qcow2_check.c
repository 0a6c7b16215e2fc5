/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/fuzz/fuzz_qcow2_check.c: an image that no program has written: read,
 * checked, repaired and checked again. No crash, no leak, no huge allocation, no endless loop. A
 * repair makes nothing worse: what it says is left is what a check finds, and after a repair of all
 * no leak is left unless there are corruptions that can't be repaired. */
#include "block/graph.h"
#include "block/image/image.h"
#include "block/registry.h"
#include "util/sys.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define BUG(...) (g_printerr(__VA_ARGS__), g_printerr("\n"), abort())

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void found(void *opaque, const char *line)
{
    if (strchr(line, '\n'))
        BUG("a finding of several lines");
    (*(uint64_t *)opaque)++;
}

static bool check(BlkNode *file, unsigned fix, BlkImageCheck *result)
{
    uint64_t lines = 0;
    BlkImageCheckOptions options = { .fix = fix, .found = found, .opaque = &lines };
    g_autoptr(GError) error = NULL;
    bool ok = blk_image_check(file, NULL, &options, result, &error);

    if (ok != !error || (error && strchr(error->message, '\n')))
        BUG("an error without a failure, or one of several lines");
    if (ok && !fix && !lines != !(result->leaks + result->corruptions + result->check_errors))
        BUG("%" G_GUINT64_FORMAT " lines about %" G_GUINT64_FORMAT " leaks, %" G_GUINT64_FORMAT
            " corruptions",
            lines, result->leaks, result->corruptions);
    return ok;
}

static bool same(const BlkImageCheck *a, const BlkImageCheck *b)
{
    return a->leaks == b->leaks && a->corruptions == b->corruptions &&
           a->check_errors == b->check_errors && a->image_end == b->image_end &&
           a->allocated_clusters == b->allocated_clusters;
}

static void read_all(BlkNode *file)
{
    g_autoptr(GError) error = NULL;
    json_object *info = blk_image_info(file, "qcow2", &error);

    if (!info != !!error)
        BUG("an error without a failure");
    json_object_put(info);
}

static void use(BlkNode *file)
{
    BlkImageCheck first, again, repaired;

    read_all(file);
    if (!check(file, 0, &first))
        return;
    if (!check(file, 0, &again) || !same(&first, &again))
        BUG("a check of the same says something else");
    /* What a repair can't do (the table would be too large) it refuses as a whole. */
    if (!check(file, BLK_IMAGE_FIX_LEAKS, &repaired) || !check(file, 0, &again))
        return;
    if (!same(&repaired, &again))
        BUG("what is left of a repair of leaks is something else");
    if (!check(file, BLK_IMAGE_FIX_ALL, &repaired) || !check(file, 0, &again))
        return;
    if (!same(&repaired, &again))
        BUG("what is left of a repair is something else");
    /* Tables that lie over each other change with what is repaired. */
    if (again.leaks && !again.check_errors && !again.corruptions)
        BUG("%" G_GUINT64_FORMAT " leaks are left", again.leaks);
    if (!first.corruptions && again.corruptions)
        BUG("a repair made %" G_GUINT64_FORMAT " corruptions", again.corruptions);
}

static BlkGraph *graph_once(void)
{
    static BlkGraph *graph;

    if (!graph) {
        BlkEngineOptions engine = { .io = BLK_IO_THREADS };

        graph = blk_graph_new(blk_registry_new(&tm_sys_kernel), blk_engine_new(&engine, NULL),
                              &tm_sys_kernel);
    }
    return graph;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int fd = memfd_create("image", MFD_CLOEXEC);
    g_autofree char *text =
        g_strdup_printf("{\"driver\": \"file\", \"node-name\": \"f\", \"locking\": \"off\", "
                        "\"filename\": \"/proc/self/fd/%d\"}",
                        fd);
    json_object *options = json_tokener_parse(text);
    BlkNode *file;

    if (fd < 0 || (size && write(fd, data, size) != (ssize_t)size))
        abort();
    file = blk_graph_add(graph_once(), options, NULL);
    if (!file)
        abort();
    use(file);
    if (!blk_graph_del(graph_once(), "f", NULL))
        BUG("the node can't be closed");
    json_object_put(options);
    close(fd);
    return 0;
}
