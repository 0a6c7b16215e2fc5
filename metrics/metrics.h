/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* metrics/metrics.h: the HTTP server of metrics.
 *
 * It answers GET and HEAD: /metrics in OpenMetrics text for Prometheus, a page for people at /, and
 * its figures at /api/state. What it shows is what QMP's queries answer; it changes nothing. It
 * stands on util and object alone and asks the daemon through a function, so that it can't reach a
 * request's path: it takes no lock but what a query takes.
 *
 * Who reaches it from another machine needs TLS and a token: other addresses than loopback ones and
 * unix sockets are refused without both. What a client may take is bounded: the length of a
 * request, which has no body, its time, and the number of connections.
 *
 * Threads: the main one, on whose default context all of it runs. */
#pragma once
#include "object/objects.h"
#include "util/address.h"

#include <json-c/json.h>

typedef struct MetricsServer MetricsServer;

/* What has happened, whether a server runs or not. */
typedef struct MetricsEvents MetricsEvents;
MetricsEvents *metrics_events_new(void);
void metrics_events_free(MetricsEvents *events); /* NULL is fine */
/* @event: a message of QMP, borrowed. */
void metrics_events_take(MetricsEvents *events, json_object *event);

/* The answer to a QMP query with @args (borrowed; or NULL): a reference, or NULL. */
typedef json_object *(*MetricsAskFn)(void *opaque, const char *command, json_object *args);

/* Strings are borrowed. */
typedef struct MetricsOptions {
    const TmAddress *address;
    TmInherited *inherited;   /* borrowed, outlives the server; or NULL */
    TmObjects *objects;       /* borrowed */
    const char *tls_creds;    /* the id of an object; NULL: no TLS */
    const char *token_secret; /* the id of a secret; NULL: no token */
    MetricsAskFn ask;
    void *opaque;
    const MetricsEvents *events; /* borrowed, outlive the server */
} MetricsOptions;

#define METRICS_TOKEN_MIN 16u /* bytes */

/* Listens. Errors: the address, the objects; what other machines reach has no TLS or no token; this
 * program was built without libmicrohttpd. */
MetricsServer *metrics_server_new(const MetricsOptions *options, GError **error);
void metrics_server_free(MetricsServer *server); /* cuts its clients off; NULL is fine */
/* Adds "addresses", "tls", "token" and "connections" to @info. */
void metrics_server_describe(const MetricsServer *server, json_object *info);
