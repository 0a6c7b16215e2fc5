/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* metrics/maps.c: the maps of disks, piece by piece. An answer is given again to whoever asks for
 * the same within a moment, so that many viewers cost as much as one. */
#include "metrics/metrics_internal.h"

#include <string.h>

#define KEPT_US  (G_USEC_PER_SEC / 2)
#define KEPT_MAX 128u

typedef struct Kept {
    char *text;
    int64_t until; /* monotonic us */
} Kept;

struct MetricsMaps {
    GHashTable *kept; /* the question as text: Kept */
};

static void free_kept(void *opaque)
{
    Kept *kept = opaque;

    g_free(kept->text);
    g_free(kept);
}

MetricsMaps *metrics_maps_new(void)
{
    MetricsMaps *maps = g_new0(MetricsMaps, 1);

    maps->kept = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, free_kept);
    return maps;
}

void metrics_maps_free(MetricsMaps *maps)
{
    if (!maps)
        return;
    g_hash_table_unref(maps->kept);
    g_free(maps);
}

static gboolean is_old(void *key, void *value, void *now)
{
    return ((Kept *)value)->until <= *(int64_t *)now;
}

static const char *keep(MetricsMaps *maps, const char *question, json_object *map)
{
    Kept *kept = g_new0(Kept, 1);
    int64_t now = g_get_monotonic_time();

    kept->text = g_strdup(json_object_to_json_string_ext(map, JSON_C_TO_STRING_PLAIN));
    kept->until = now + KEPT_US;
    g_hash_table_foreach_remove(maps->kept, is_old, &now);
    if (g_hash_table_size(maps->kept) >= KEPT_MAX)
        g_hash_table_remove_all(maps->kept);
    g_hash_table_replace(maps->kept, g_strdup(question), kept);
    return kept->text;
}

/* The arguments of the query: a reference; NULL: they are no question. */
static json_object *arguments(const MetricsRequest *request)
{
    guint64 offset = 0;
    json_object *args;

    if (!request->node ||
        (request->offset &&
         !g_ascii_string_to_unsigned(request->offset, 10, 0, INT64_MAX, &offset, NULL)))
        return NULL;
    args = json_object_new_object();
    tm_json_add_string(args, "node-name", request->node);
    if (request->bitmap)
        tm_json_add_string(args, "bitmap", request->bitmap);
    tm_json_add_uint(args, "offset", offset);
    return args;
}

char *metrics_maps_answer(const MetricsSource *source, const MetricsRequest *request)
{
    json_object *args = arguments(request), *map = NULL;
    g_autofree char *question = g_strdup(args ? json_object_to_json_string(args) : "");
    Kept *kept = g_hash_table_lookup(source->maps->kept, question);
    const char *text = kept && kept->until > g_get_monotonic_time() ? kept->text : NULL;
    char *copy;

    if (args && !text)
        map = source->ask(source->opaque, "x-query-node-map", args);
    if (map)
        text = keep(source->maps, question, map);
    copy = text ? strdup(text) : NULL;
    json_object_put(map);
    json_object_put(args);
    return copy;
}
