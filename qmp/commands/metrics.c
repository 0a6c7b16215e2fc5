/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp/commands/metrics.c: the HTTP server of metrics. The work is that of metrics/, by way of the
 * daemon. */
#include "qmp/commands/families.h"
#include "qmp/context.h"
#include "qmp/qmp_internal.h"
#include "util/error.h"

static const QmpMetrics *metrics_of(QmpCall *call, GError **error)
{
    const QmpMetrics *metrics = qmp_context_metrics(call->ctx);

    if (!metrics)
        tm_error_set(error, "This daemon has no metrics server");
    return metrics;
}

static bool run_start(QmpCall *call, GError **error)
{
    const QmpMetrics *metrics = metrics_of(call, error);
    TmAddress address;

    return metrics && qmp_arg_address(call->ctx, qmp_arg(call->args, "addr"), &address, error) &&
           metrics->start(metrics->opaque, &address, qmp_arg_str(call->args, "tls-creds"),
                          qmp_arg_str(call->args, "token-secret"), call->args, error);
}

static bool run_stop(QmpCall *call, GError **error)
{
    const QmpMetrics *metrics = metrics_of(call, error);

    return metrics && metrics->stop(metrics->opaque, error);
}

static bool run_query(QmpCall *call, GError **error)
{
    const QmpMetrics *metrics = metrics_of(call, error);

    if (metrics)
        call->result = metrics->query(metrics->opaque);
    return metrics != NULL;
}

/* ---- types */

static const QmpType address_array = { .kind = QMP_KIND_ARRAY,
                                       .name = "array",
                                       .element = &qmp_type_socket_address };
static const QmpMember info_members[] = {
    { "running", &qmp_type_bool, false, "the server runs" },
    { "addresses", &address_array, true, "the addresses that it listens on" },
    { "tls", &qmp_type_bool, true, "it speaks HTTPS" },
    { "token", &qmp_type_bool, true, "clients must send a token" },
    { "connections", &qmp_type_uint32, true, "number of clients" },
    { NULL },
};
static const QmpType info = { .kind = QMP_KIND_OBJECT,
                              .name = "MetricsServerInfo",
                              .members = info_members };

static const char *const start_errors[] = {
    "Metrics server already running",
    "Metrics on 'ADDRESS', which other machines reach, need both tls-creds and token-secret",
    "Secret 'ID' has N bytes, a token needs at least 16",
    "This tidemarkd was built without libmicrohttpd: it serves no metrics", NULL
};
static const char *const stop_errors[] = { "Metrics server not running", NULL };

static const QmpCommand commands[] = {
    { "metrics-server-start", "start the HTTP server of metrics, which also has a page for people",
      &qmp_type_metrics_args, &qmp_type_empty, run_start,
      .example = "{'addr': {'type': 'inet', 'data': {'host': '127.0.0.1', 'port': '9810'}}}",
      .errors = start_errors },
    { "metrics-server-stop", "stop the HTTP server of metrics", &qmp_type_empty, &qmp_type_empty,
      run_stop, .errors = stop_errors },
    { "query-metrics-server", "the HTTP server of metrics", &qmp_type_empty, &info, run_query },
    { NULL },
};

const QmpFamily qmp_family_metrics = { "Metrics", commands };
