/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* metrics/routes.c: the paths that are answered. */
#include "metrics/metrics_internal.h"

#include <string.h>

#define OPENMETRICS "application/openmetrics-text; version=1.0.0; charset=utf-8"

static void make_metrics(const MetricsSource *source, MetricsAnswer *answer)
{
    json_object *figures = metrics_gather(source);

    answer->text = metrics_exposition(figures, &answer->length);
    json_object_put(figures);
}

static void make_state(const MetricsSource *source, MetricsAnswer *answer)
{
    json_object *figures = metrics_gather(source);

    answer->text = strdup(json_object_to_json_string_ext(figures, JSON_C_TO_STRING_PLAIN));
    answer->length = answer->text ? strlen(answer->text) : 0;
    json_object_put(figures);
}

static void make_page(const MetricsSource *source, MetricsAnswer *answer)
{
    answer->constant = metrics_page;
    answer->length = metrics_page_length;
    answer->policy = metrics_page_policy;
}

static const struct {
    const char *path, *type;
    void (*make)(const MetricsSource *source, MetricsAnswer *answer);
} routes[] = {
    { "/", "text/html; charset=utf-8", make_page },
    { "/metrics", OPENMETRICS, make_metrics },
    { "/api/state", "application/json", make_state },
};

bool metrics_route(const MetricsSource *source, const char *path, MetricsAnswer *answer)
{
    for (size_t i = 0; i < G_N_ELEMENTS(routes); i++) {
        if (strcmp(routes[i].path, path))
            continue;
        answer->type = routes[i].type;
        routes[i].make(source, answer);
        return true;
    }
    return false;
}
