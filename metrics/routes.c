/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* metrics/routes.c: the paths that are answered. */
#include "metrics/metrics_internal.h"

#include <string.h>

#define OPENMETRICS "application/openmetrics-text; version=1.0.0; charset=utf-8"

static bool make_metrics(const MetricsSource *source, const MetricsRequest *request,
                         MetricsAnswer *answer)
{
    json_object *figures = metrics_gather(source);

    answer->text = metrics_exposition(figures, &answer->length);
    json_object_put(figures);
    return answer->text != NULL;
}

static bool make_state(const MetricsSource *source, const MetricsRequest *request,
                       MetricsAnswer *answer)
{
    json_object *figures = metrics_gather(source);

    answer->text = strdup(json_object_to_json_string_ext(figures, JSON_C_TO_STRING_PLAIN));
    answer->length = answer->text ? strlen(answer->text) : 0;
    json_object_put(figures);
    return answer->text != NULL;
}

static bool make_page(const MetricsSource *source, const MetricsRequest *request,
                      MetricsAnswer *answer)
{
    answer->constant = metrics_page;
    answer->length = metrics_page_length;
    answer->policy = metrics_page_policy;
    return true;
}

static bool make_map(const MetricsSource *source, const MetricsRequest *request,
                     MetricsAnswer *answer)
{
    answer->text = metrics_maps_answer(source, request);
    answer->length = answer->text ? strlen(answer->text) : 0;
    return answer->text != NULL;
}

static const struct {
    const char *path, *type;
    bool (*make)(const MetricsSource *source, const MetricsRequest *request, MetricsAnswer *answer);
} routes[] = {
    { "/", "text/html; charset=utf-8", make_page },
    { "/metrics", OPENMETRICS, make_metrics },
    { "/api/state", "application/json", make_state },
    { "/api/map", "application/json", make_map },
};

bool metrics_route(const MetricsSource *source, const MetricsRequest *request,
                   MetricsAnswer *answer)
{
    for (size_t i = 0; i < G_N_ELEMENTS(routes); i++) {
        if (strcmp(routes[i].path, request->path))
            continue;
        answer->type = routes[i].type;
        return routes[i].make(source, request, answer);
    }
    return false;
}
