/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: 0BSD */
/* examples/driver-invert.c: a filter that changes the bytes: those of its child with every bit
 * turned over.
 *
 *     cc -shared -fPIC $(pkg-config --cflags tidemark) -o invert.so driver-invert.c
 *     tidemarkd --module ./invert.so --blockdev driver=file,node-name=f,filename=disk.img \
 *               --blockdev driver=invert,node-name=i,file=f ...
 *
 * What such a filter owes: it reads and writes by itself, so map says SELF; it passes on what is
 * allocated below, but not that it reads as zeroes; and it passes discards on. */
#include <errno.h>
#include <stdlib.h>
#include <tidemark/driver.h>

#define PIECE (64u << 10)

static const struct tidemark_host *host;

static int invert_open(struct tidemark_node *node, void **handle)
{
    *handle = node; /* nothing else is remembered */
    return 0;
}

static void invert_close(void *handle)
{
}

/* What goes through unchanged stays as the child says it: size, alignment, clusters, space. */
static int invert_get_info(void *handle, struct tidemark_info *info)
{
    int ret = host->child_info(handle, 0, info);

    info->flags &= TIDEMARK_INFO_READ_ONLY | TIDEMARK_INFO_DISCARD;
    return ret;
}

static int invert_map(void *handle, uint64_t offset, uint64_t length, uint32_t purpose,
                      struct tidemark_mapping *mapping)
{
    int ret = 0;

    if (purpose == TIDEMARK_MAP_FOR_STATUS)
        ret = host->child_status(handle, 0, offset, length, mapping);
    else
        mapping->length = length;
    mapping->kind =
        TIDEMARK_MAP_SELF; /* zeroes below are ones here: data, though it may be a hole */
    return ret;
}

static void invert(unsigned char *to, const unsigned char *from, uint64_t length)
{
    for (uint64_t i = 0; i < length; i++)
        to[i] = (unsigned char)~from[i];
}

static int invert_pread(void *handle, void *buf, uint64_t offset, uint64_t length, uint32_t flags)
{
    int ret = host->child_pread(handle, 0, buf, offset, length, flags);

    if (ret == 0)
        invert(buf, buf, length);
    return ret;
}

/* The caller's buffer is not to be changed. */
static int invert_pwrite(void *handle, const void *buf, uint64_t offset, uint64_t length,
                         uint32_t flags)
{
    const unsigned char *from = buf;
    unsigned char *piece = malloc(length < PIECE ? length : PIECE);
    int ret = piece ? 0 : -ENOMEM;

    while (ret == 0 && length) {
        uint64_t n = length < PIECE ? length : PIECE;

        invert(piece, from, n);
        ret = host->child_pwrite(handle, 0, piece, offset, n, flags);
        from += n;
        offset += n;
        length -= n;
    }
    free(piece);
    return ret;
}

static int invert_discard(void *handle, uint64_t offset, uint64_t length)
{
    return host->child_discard(handle, 0, offset, length);
}

static int invert_resize(void *handle, uint64_t size)
{
    return host->child_resize(handle, 0, size);
}

static const struct tidemark_child invert_children[] = { { "file", 1 }, { NULL, 0 } };

static const struct tidemark_driver invert_driver = {
    .abi = TIDEMARK_ABI,
    .struct_size = sizeof(struct tidemark_driver),
    .name = "invert",
    .help = "another node's bytes with every bit turned over",
    .children = invert_children,
    .open = invert_open,
    .close = invert_close,
    .get_info = invert_get_info,
    .map = invert_map,
    .pread = invert_pread,
    .pwrite = invert_pwrite,
    .discard = invert_discard,
    .resize = invert_resize,
};

const struct tidemark_driver *tidemark_driver_init(const struct tidemark_host *table);
const struct tidemark_driver *tidemark_driver_init(const struct tidemark_host *table)
{
    host = table;
    return &invert_driver;
}
