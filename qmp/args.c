/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp/args.c: see the header. */
#include "qmp/context.h"
#include "qmp/qmp_internal.h"

BlkBitmapName *qmp_arg_bitmaps(json_object *args, const char *name, size_t *n)
{
    json_object *array = qmp_arg(args, name);
    BlkBitmapName *names;

    *n = array ? json_object_array_length(array) : 0;
    names = g_new0(BlkBitmapName, *n);
    for (size_t i = 0; i < *n; i++) {
        json_object *e = json_object_array_get_idx(array, i);

        if (json_object_is_type(e, json_type_string))
            names[i].name = json_object_get_string(e);
        else
            names[i] = (BlkBitmapName){ qmp_arg_str(e, "node"), qmp_arg_str(e, "name") };
    }
    return names;
}

const char **qmp_arg_strings(json_object *args, const char *name, size_t *n)
{
    json_object *array = qmp_arg(args, name);
    const char **strings;

    *n = array ? json_object_array_length(array) : 0;
    strings = array ? g_new0(const char *, *n + 1) : NULL;
    for (size_t i = 0; i < *n; i++)
        strings[i] = json_object_get_string(json_object_array_get_idx(array, i));
    return strings;
}
