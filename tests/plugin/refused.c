/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/plugin/refused.c: plug-ins that must be refused, one for each VARIANT_x that meson
 * defines. */
#include <stddef.h>
#include <tidemark/driver.h>

static int dummy_open(struct tidemark_node *node, void **handle)
{
    *handle = NULL;
    return 0;
}

static void dummy_close(void *handle)
{
}

#ifndef VARIANT_callback
static int dummy_get_info(void *handle, struct tidemark_info *info)
{
    info->size = 0;
    return 0;
}
#endif

static const char *const choices[] = { "red", "blue", NULL };

static const struct tidemark_option options[] = {
#ifdef VARIANT_option
    { .name = "read-only", .type = TIDEMARK_OPTION_BOOL },
#endif
    {
        .name = "colour",
#ifdef VARIANT_list
        .type = TIDEMARK_OPTION_LIST,
#else
        .type = TIDEMARK_OPTION_ENUM,
#endif
        .choices = choices,
#ifdef VARIANT_default
        .default_value = "purple",
#endif
    },
    { .name = NULL },
};

#ifdef VARIANT_discard
static int dummy_pwrite(void *handle, const void *buf, uint64_t offset, uint64_t length,
                        uint32_t flags)
{
    return 0;
}

static const struct tidemark_child children[] = { { "file", 1 }, { NULL, 0 } };
#endif

static const struct tidemark_driver driver = {
#ifdef VARIANT_abi
    .abi = 99,
#else
    .abi = TIDEMARK_ABI,
#endif
#ifdef VARIANT_size
    .struct_size = sizeof(struct tidemark_driver) - 8,
#else
    .struct_size = sizeof(struct tidemark_driver),
#endif
#if defined VARIANT_name
    .name = "not a name",
#elif defined VARIANT_taken
    .name = "file",
#else
    .name = "refused",
#endif
    .options = options,
#ifdef VARIANT_discard
    .children = children,
    .pwrite = dummy_pwrite,
#endif
    .open = dummy_open,
    .close = dummy_close,
#ifndef VARIANT_callback
    .get_info = dummy_get_info,
#endif
};

#ifdef VARIANT_symbol
#define tidemark_driver_init another_name
#endif

const struct tidemark_driver *tidemark_driver_init(const struct tidemark_host *host);
const struct tidemark_driver *tidemark_driver_init(const struct tidemark_host *host)
{
#ifdef VARIANT_null
    return driver.struct_size ? NULL : &driver;
#else
    return &driver;
#endif
}
