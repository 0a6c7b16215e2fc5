/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/fuzz/fuzz_described.c: names of backing files that describe nodes, and what nodes take of
 * the definitions. */
#include "block/described.h"
#include "block/registry.h"
#include "qmp/json/json.h"
#include "qmp/keyval.h"
#include "util/sys.h"

#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Made once; the process keeps it. */
static const QmpTypes *types(void)
{
    static QmpTypes *made;

    if (!made)
        made = qmp_types_new(blk_registry_new(&tm_sys_kernel));
    return made;
}

static void define(const char *name, const char *format)
{
    g_autoptr(GError) error = NULL;
    json_object *definition = blk_name_definition(name, format, &error), *options;
    g_autofree char *text = NULL;

    /* Either a result or a reason. */
    if (!definition == !error)
        abort();
    if (!definition)
        return;
    blk_name_definition_path(definition);
    text = qmp_json_text(definition, false);
    options = qmp_option_parse(types(), &qmp_type_blockdev_options, text, "driver", NULL);
    json_object_put(options);
    json_object_put(definition);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autofree char *name = NULL;

    if (size > 1023) /* as long as a header lets it be */
        return 0;
    name = g_strndup((const char *)data, size);
    if (blk_name_is_path(name))
        return 0;
    define(name, NULL);
    define(name, "raw");
    define(name, "qcow2");
    return 0;
}
