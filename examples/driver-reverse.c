/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: 0BSD */
/* examples/driver-reverse.c: a filter: the child's blocks in reverse order, last block first.
 *
 *     cc -shared -fPIC $(pkg-config --cflags tidemark) -o reverse.so driver-reverse.c
 *     tidemarkd --module ./reverse.so --blockdev driver=file,node-name=f,filename=disk.img \
 *               --blockdev driver=reverse,node-name=r,file=f,block=65536 ...
 *
 * Useful for nothing, but it shows map: within a block the answer is "in child 0, there", and that
 * is all this driver does. The fast path, block status, zeroing and discards follow from it, and so
 * does zero-copy I/O if the child is a file. No callback for I/O is needed. */
#include <errno.h>
#include <stdlib.h>
#include <tidemark/driver.h>

static const struct tidemark_host *host;

struct reverse {
    uint64_t size;  /* a multiple of block */
    uint64_t block; /* a power of two */
    struct tidemark_node *node;
};

static int reverse_open(struct tidemark_node *node, void **handle)
{
    struct tidemark_info child = { .struct_size = sizeof(child) };
    uint64_t block = host->option_uint(node, "block");
    struct reverse *reverse;
    int ret = host->child_info(node, 0, &child);

    if (ret < 0)
        return ret;
    if (block & (block - 1)) {
        host->error(node, "Parameter 'block' expects a power of two, not %llu",
                    (unsigned long long)block);
        return -EINVAL;
    }
    reverse = malloc(sizeof(*reverse));
    if (!reverse)
        return -ENOMEM;
    reverse->block = block;
    reverse->size = child.size - child.size % block;
    reverse->node = node;
    *handle = reverse;
    return 0;
}

static void reverse_close(void *handle)
{
    free(handle);
}

static int reverse_get_info(void *handle, struct tidemark_info *info)
{
    const struct reverse *reverse = handle;
    int ret = host->child_info(reverse->node, 0, info);

    info->size = reverse->size;
    return ret;
}

static int reverse_map(void *handle, uint64_t offset, uint64_t length, uint32_t purpose,
                       struct tidemark_mapping *mapping)
{
    const struct reverse *reverse = handle;
    uint64_t within = offset % reverse->block;
    uint64_t left = reverse->block - within;

    mapping->kind = TIDEMARK_MAP_CHILD;
    mapping->child = 0;
    mapping->offset = reverse->size - (offset - within) - reverse->block + within;
    mapping->length = length < left ? length : left;
    return 0;
}

static const struct tidemark_option reverse_options[] = {
    { .name = "block",
      .type = TIDEMARK_OPTION_SIZE,
      .default_value = "65536",
      .min = 512,
      .max = 1 << 26,
      .help = "bytes of a block, a power of two" },
    { .name = NULL },
};

static const struct tidemark_child reverse_children[] = { { "file", 1 }, { NULL, 0 } };

static const struct tidemark_driver reverse_driver = {
    .abi = TIDEMARK_ABI,
    .struct_size = sizeof(struct tidemark_driver),
    .name = "reverse",
    .help = "another node's blocks in reverse order",
    .options = reverse_options,
    .children = reverse_children,
    .open = reverse_open,
    .close = reverse_close,
    .get_info = reverse_get_info,
    .map = reverse_map,
};

const struct tidemark_driver *tidemark_driver_init(const struct tidemark_host *table);
const struct tidemark_driver *tidemark_driver_init(const struct tidemark_host *table)
{
    host = table;
    return &reverse_driver;
}
