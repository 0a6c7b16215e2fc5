/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* metrics/none.c: metrics.h without libmicrohttpd. */
#include "metrics/metrics.h"

#include "util/error.h"

MetricsServer *metrics_server_new(const MetricsOptions *options, GError **error)
{
    tm_error_set(error, "This tidemarkd was built without libmicrohttpd: it serves no metrics");
    return NULL;
}

void metrics_server_free(MetricsServer *server)
{
}

void metrics_server_describe(const MetricsServer *server, json_object *info)
{
}

MetricsEvents *metrics_events_new(void)
{
    return NULL;
}

void metrics_events_free(MetricsEvents *events)
{
}

void metrics_events_take(MetricsEvents *events, json_object *event)
{
}
