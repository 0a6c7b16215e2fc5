/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* daemon/metrics.c: the server of metrics between QMP, which starts it, and the queries of QMP,
 * which it shows. */
#include "daemon/daemon.h"
#include "util/error.h"

static json_object *ask(void *opaque, const char *command, json_object *args)
{
    Daemon *d = opaque;
    json_object *result = NULL;

    qmp_dispatch(d->qmp, command, args, &result, NULL);
    return result;
}

static bool start(void *opaque, const TmAddress *address, const char *tls_creds,
                  const char *token_secret, json_object *given, GError **error)
{
    Daemon *d = opaque;
    MetricsOptions options = {
        .address = address,
        .inherited = d->inherited,
        .objects = blk_exports_objects(d->exports),
        .tls_creds = tls_creds,
        .token_secret = token_secret,
        .events = d->metrics_events,
        .ask = ask,
        .opaque = d,
    };

    if (d->metrics)
        return tm_error_set(error, "Metrics server already running");
    d->metrics = metrics_server_new(&options, error);
    d->metrics_given = d->metrics ? json_object_get(given) : NULL;
    return d->metrics != NULL;
}

static bool stop(void *opaque, GError **error)
{
    Daemon *d = opaque;

    if (!d->metrics)
        return tm_error_set(error, "Metrics server not running");
    g_clear_pointer(&d->metrics, metrics_server_free);
    json_object_put(d->metrics_given);
    d->metrics_given = NULL;
    return true;
}

static json_object *given_now(void *opaque)
{
    return ((Daemon *)opaque)->metrics_given;
}

static json_object *query(void *opaque)
{
    Daemon *d = opaque;
    json_object *info = json_object_new_object();

    json_object_object_add(info, "running", json_object_new_boolean(d->metrics != NULL));
    if (d->metrics)
        metrics_server_describe(d->metrics, info);
    return info;
}

static void listen_to(void *opaque, json_object *event)
{
    metrics_events_take(opaque, event);
}

void daemon_metrics_listen(Daemon *d)
{
    d->metrics_events = metrics_events_new();
    d->metrics_listener = qmp_context_listen(d->qmp, listen_to, d->metrics_events);
}

void daemon_metrics_end(Daemon *d)
{
    metrics_server_free(d->metrics);
    json_object_put(d->metrics_given);
    qmp_listener_free(d->metrics_listener);
    metrics_events_free(d->metrics_events);
}

QmpMetrics daemon_metrics(Daemon *daemon)
{
    return (QmpMetrics){
        .start = start, .given = given_now, .stop = stop, .query = query, .opaque = daemon
    };
}
