/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* metrics/metrics_internal.h: what the files of metrics/ share. */
#pragma once
#include "metrics/metrics.h"
#include "util/json.h"

#define METRICS_ROWS_MAX 1000u /* of a list: more are counted, not shown */

typedef struct MetricsMaps MetricsMaps;

/* Whom all of it asks. */
typedef struct MetricsSource {
    MetricsAskFn ask;
    void *opaque;
    const MetricsEvents *events;
    MetricsMaps *maps;
} MetricsSource;

/* What is asked for: borrowed. Of the query: NULL where it says nothing. */
typedef struct MetricsRequest {
    const char *path;
    const char *node, *bitmap, *offset;
} MetricsRequest;

/* figures.c: what the daemon's queries say, as one object: lists of flat rows by name. A row has
 * the labels of its metrics as strings and their values as numbers. */
json_object *metrics_gather(const MetricsSource *source); /* a reference */

/* events.c: {event, count}: a reference; and adds "jobs-failed", and "last-backup" if there was
 * one, in seconds since 1970. */
json_object *metrics_events_rows(const MetricsEvents *events);
void metrics_events_last(const MetricsEvents *events, json_object *row);

/* process.c: the figures of this process, a row; a reference. */
json_object *metrics_process(void);

/* exposition.c: the same as OpenMetrics text. */
char *metrics_exposition(json_object *figures, size_t *length); /* returned */

/* maps.c: what was answered last about maps; and the next piece of one as JSON, from malloc(), or
 * NULL: there is no such disk or bitmap. */
MetricsMaps *metrics_maps_new(void);
void metrics_maps_free(MetricsMaps *maps); /* NULL is fine */
char *metrics_maps_answer(const MetricsSource *source, const MetricsRequest *request);

/* http.c: connections and requests, of whoever accepts them. */
typedef struct MetricsHttp MetricsHttp;
typedef struct MetricsHttpOptions {
    TmObject *tls_creds, *token; /* borrowed, outlive it; or NULL */
    bool check_host; /* only names of this machine: a page of elsewhere must not read it */
    MetricsSource source;
    void (*gone)(void *owner); /* a connection has ended: there is room */
    void *owner;
} MetricsHttpOptions;
MetricsHttp *metrics_http_new(const MetricsHttpOptions *options, GError **error);
void metrics_http_free(MetricsHttp *http); /* NULL is fine */
unsigned metrics_http_connections(const MetricsHttp *http);
bool metrics_http_full(const MetricsHttp *http);
void metrics_http_add(MetricsHttp *http, int fd); /* takes @fd */

/* page.html, by embed: the page, its length without the NUL, and its Content-Security-Policy. */
extern const char metrics_page[], metrics_page_policy[];
extern const size_t metrics_page_length;

/* routes.c: the answer to a request. */
typedef struct MetricsAnswer {
    const char *type;     /* Content-Type; constant */
    const char *policy;   /* Content-Security-Policy; constant; NULL: nothing is allowed */
    char *text;           /* from malloc() */
    const char *constant; /* instead of it */
    size_t length;
} MetricsAnswer;
/* false: there is no such thing. */
bool metrics_route(const MetricsSource *source, const MetricsRequest *request,
                   MetricsAnswer *answer);
