/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/fuzz/fuzz_options.c: what --blockdev and --export take, dotted or JSON, up to their
 * types; and configuration files. */
#include "block/registry.h"
#include "qmp/json/json.h"
#include "qmp/keyval.h"
#include "util/sys.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Made once; the process keeps it. */
static const QmpTypes *types(void)
{
    static BlkRegistry *registry;
    static QmpTypes *made;

    if (!made) {
        registry = blk_registry_new(&tm_sys_kernel);
        made = qmp_types_new(registry);
    }
    return made;
}

static void parse(const char *text, const QmpType *type, const char *implied_key)
{
    g_autoptr(GError) error = NULL;
    json_object *object = qmp_option_parse(types(), type, text, implied_key, &error);

    /* Either a result or a reason. */
    if (!object == !error)
        abort();
    if (object) {
        g_autofree char *again = qmp_json_text(object, false);

        json_object_put(object);
        object = NULL;
        if (!qmp_json_parse(again, &object, NULL))
            abort();
    }
    json_object_put(object);
}

static void count(void *opaque, const char *path, const char *message)
{
    if (!path || !*message)
        abort();
    ++*(unsigned *)opaque;
}

/* What has no problem is right, and checking changes nothing. */
static void check_configuration(const char *text)
{
    json_object *value = NULL;
    unsigned problems = 0;
    QmpPlaces places;

    if (qmp_json_parse_document(text, &value, &places, NULL)) {
        g_autofree char *before = qmp_json_text(value, false), *after = NULL;

        qmp_check_all(types(), &qmp_type_configuration, value, count, &problems);
        after = qmp_json_text(value, false);
        if (strcmp(before, after) ||
            qmp_check(types(), &qmp_type_configuration, value, NULL) != !problems)
            abort();
    }
    qmp_places_clear(&places);
    json_object_put(value);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autofree char *text = NULL;

    if (size > 8192)
        return 0;
    text = g_strndup((const char *)data, size);
    json_object_put(qmp_keyval_parse(text, NULL, NULL));
    parse(text, &qmp_type_blockdev_options, "driver");
    parse(text, &qmp_type_export_options, "type");
    parse(text, &qmp_type_nbd_server_option, NULL);
    check_configuration(text);
    return 0;
}
