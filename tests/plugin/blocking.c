/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/plugin/blocking.c: a disk of zeroes that waits, for the tests of what waits with it: with
 * open=FIFO when it is opened, with read=FIFO in each read, until somebody opens the FIFO for
 * writing. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <tidemark/driver.h>
#include <unistd.h>

static const struct tidemark_host *host;

static int wait_for(const char *fifo)
{
    int fd = fifo ? open(fifo, O_RDONLY | O_CLOEXEC) : -1;

    if (fifo && fd < 0)
        return -errno;
    if (fd >= 0)
        close(fd);
    return 0;
}

static char *copy_of(const char *text)
{
    return text ? strdup(text) : NULL;
}

static int blocking_open(struct tidemark_node *node, void **handle)
{
    int ret = wait_for(host->option_string(node, "open"));

    if (ret == 0)
        *handle = copy_of(host->option_string(node, "read"));
    return ret;
}

static void blocking_close(void *handle)
{
    free(handle);
}

static int blocking_get_info(void *handle, struct tidemark_info *info)
{
    info->size = 1 << 20;
    info->request_alignment = 1;
    return 0;
}

static int blocking_pread(void *handle, void *buf, uint64_t offset, uint64_t length, uint32_t flags)
{
    memset(buf, 0, length);
    return wait_for(handle);
}

static const struct tidemark_option blocking_options[] = {
    { .name = "open", .type = TIDEMARK_OPTION_STRING },
    { .name = "read", .type = TIDEMARK_OPTION_STRING },
    { .name = NULL },
};

static const struct tidemark_driver blocking_driver = {
    .abi = TIDEMARK_ABI,
    .struct_size = sizeof(struct tidemark_driver),
    .name = "blocking",
    .help = "waits until somebody writes",
    .options = blocking_options,
    .open = blocking_open,
    .close = blocking_close,
    .get_info = blocking_get_info,
    .pread = blocking_pread,
};

const struct tidemark_driver *tidemark_driver_init(const struct tidemark_host *given);

const struct tidemark_driver *tidemark_driver_init(const struct tidemark_host *given)
{
    host = given;
    return &blocking_driver;
}
