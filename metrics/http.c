/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* metrics/http.c: HTTP by libmicrohttpd, within the main loop.
 *
 * The library has an epoll set, which is a source of the main loop; it starts no thread and opens
 * no socket. Each connection has a deadline, which a request that was answered puts off, so that a
 * client that sends or takes a byte now and then does not keep its place. */
#include "metrics/metrics_internal.h"

#include "object/tls_creds.h"
#include "util/error.h"

#include <arpa/inet.h>
#include <glib-unix.h>
#include <gnutls/abstract.h>
#include <gnutls/crypto.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define CONNECTIONS_MAX  32u
#define REQUEST_MAX      (16u << 10) /* bytes of a request's line and headers */
#define IDLE_SECONDS     5u
#define DEADLINE_SECONDS 10
#define AUTHENTICATE     "Basic realm=\"tidemarkd\", charset=\"UTF-8\""
#define CLOSED_TO_ALL    "default-src 'none'; frame-ancestors 'none'"
#define PRIORITIES       "NORMAL"

typedef struct Connection {
    struct Connection *next;
    int fd;
    int64_t deadline; /* monotonic us */
    TmTlsSession tls;
} Connection;

/* The source of the main loop. */
typedef struct Pump {
    GSource source;
    MetricsHttp *http;
    gpointer tag;
} Pump;

struct MetricsHttp {
    MetricsHttpOptions options;
    struct MHD_Daemon *daemon;
    GSource *pump;
    Connection *connections;
    unsigned n_connections;
    bool gone; /* one has ended since the owner heard */
};

/* ---- who asks */

/* Whether @text is the token, in a time that does not depend on where they differ. */
static bool is_token(const TmObject *secret, const char *text, size_t length)
{
    size_t n;
    const guint8 *token = tm_secret_data(secret, &n);

    while (n && (token[n - 1] == '\n' || token[n - 1] == '\r')) /* of a file's last line */
        n--;
    return n == length && n && gnutls_memcmp(token, text, n) == 0;
}

/* "Bearer TOKEN", or "Basic ..." of "ANYBODY:TOKEN", which browsers can ask for. */
static bool authorised(const TmObject *secret, const char *header)
{
    g_autofree char *text = NULL;
    const char *colon;
    gsize length;

    if (!secret)
        return true;
    if (!header)
        return false;
    if (!g_ascii_strncasecmp(header, "Bearer ", 7))
        return is_token(secret, header + 7, strlen(header + 7));
    if (g_ascii_strncasecmp(header, "Basic ", 6))
        return false;
    text = (char *)g_base64_decode(header + 6, &length);
    colon = memchr(text, ':', length);
    return colon && is_token(secret, colon + 1, length - (size_t)(colon + 1 - text));
}

/* A page of elsewhere can have the browser resolve its own name to this machine; then the request
 * has that name. */
static bool is_local_name(const char *header)
{
    g_autofree char *host = g_strdup(header ? header : "localhost");
    char *end = *host == '[' ? strchr(host, ']') : strchr(host, ':');
    struct in_addr in;

    if (end)
        *end = 0;
    if (*host == '[')
        return !strcmp(host + 1, "::1");
    return !g_ascii_strcasecmp(host, "localhost") ||
           (inet_pton(AF_INET, host, &in) == 1 && ntohl(in.s_addr) >> 24 == IN_LOOPBACKNET);
}

/* ---- answers */

static enum MHD_Result send_response(struct MHD_Connection *c, unsigned status,
                                     struct MHD_Response *response)
{
    static const char *const headers[][2] = {
        { "Cache-Control", "no-store" },
        { "X-Content-Type-Options", "nosniff" },
        { "X-Frame-Options", "DENY" },
        { "Referrer-Policy", "no-referrer" },
        { "Cross-Origin-Resource-Policy", "same-origin" },
    };
    enum MHD_Result result;

    if (!response)
        return MHD_NO;
    for (size_t i = 0; i < G_N_ELEMENTS(headers); i++)
        MHD_add_response_header(response, headers[i][0], headers[i][1]);
    result = MHD_queue_response(c, status, response);
    MHD_destroy_response(response);
    return result;
}

/* @name, @value: a header of its own; or NULL. */
static enum MHD_Result refuse(struct MHD_Connection *c, unsigned status, const char *text,
                              const char *name, const char *value)
{
    struct MHD_Response *response =
        MHD_create_response_from_buffer(strlen(text), (void *)text, MHD_RESPMEM_PERSISTENT);

    if (response) {
        MHD_add_response_header(response, "Content-Type", "text/plain; charset=utf-8");
        MHD_add_response_header(response, "Content-Security-Policy", CLOSED_TO_ALL);
        MHD_add_response_header(response, "Connection", "close");
        if (name)
            MHD_add_response_header(response, name, value);
    }
    return send_response(c, status, response);
}

static const char *query_of(struct MHD_Connection *c, const char *name)
{
    return MHD_lookup_connection_value(c, MHD_GET_ARGUMENT_KIND, name);
}

static enum MHD_Result answer(MetricsHttp *http, struct MHD_Connection *c, const char *path)
{
    MetricsRequest request = { path, query_of(c, "node"), query_of(c, "bitmap"),
                               query_of(c, "offset") };
    MetricsAnswer a = { 0 };
    struct MHD_Response *response;

    if (!metrics_route(&http->options.source, &request, &a))
        return refuse(c, MHD_HTTP_NOT_FOUND, "There is no such page.\n", NULL, NULL);
    response = a.text ? MHD_create_response_from_buffer(a.length, a.text, MHD_RESPMEM_MUST_FREE)
                      : MHD_create_response_from_buffer(a.length, (void *)a.constant,
                                                        MHD_RESPMEM_PERSISTENT);
    if (response) {
        MHD_add_response_header(response, "Content-Type", a.type);
        MHD_add_response_header(response, "Content-Security-Policy",
                                a.policy ? a.policy : CLOSED_TO_ALL);
    }
    return send_response(c, MHD_HTTP_OK, response);
}

static const char *header_of(struct MHD_Connection *c, const char *name)
{
    return MHD_lookup_connection_value(c, MHD_HEADER_KIND, name);
}

/* A request that is answered while its body is still to come ends the connection. */
static enum MHD_Result on_request(void *opaque, struct MHD_Connection *c, const char *path,
                                  const char *method, const char *version, const char *body,
                                  size_t *body_length, void **seen)
{
    MetricsHttp *http = opaque;
    const char *length = header_of(c, "Content-Length");

    if (strcmp(method, "GET") && strcmp(method, "HEAD"))
        return refuse(c, MHD_HTTP_METHOD_NOT_ALLOWED, "Only GET and HEAD are allowed.\n", "Allow",
                      "GET, HEAD");
    if ((length && strcmp(length, "0")) || header_of(c, "Transfer-Encoding") || *body_length)
        return refuse(c, MHD_HTTP_CONTENT_TOO_LARGE, "A request has no body.\n", NULL, NULL);
    if (http->options.check_host && !is_local_name(header_of(c, "Host")))
        return refuse(c, MHD_HTTP_MISDIRECTED_REQUEST,
                      "Without a token, only names of this machine are answered.\n", NULL, NULL);
    if (!authorised(http->options.token, header_of(c, "Authorization")))
        return refuse(c, MHD_HTTP_UNAUTHORIZED, "A token is needed.\n", "WWW-Authenticate",
                      AUTHENTICATE);
    if (!*seen) { /* all headers are there; the answer may be sent when the request has ended */
        *seen = http;
        return MHD_YES;
    }
    return answer(http, c, path);
}

/* ---- connections */

static int fd_of(struct MHD_Connection *c)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(c, MHD_CONNECTION_INFO_CONNECTION_FD);

    return info ? info->connect_fd : -1;
}

static void put_off(Connection *connection)
{
    connection->deadline = g_get_monotonic_time() + DEADLINE_SECONDS * G_USEC_PER_SEC;
}

static void on_connection(void *opaque, struct MHD_Connection *c, void **context,
                          enum MHD_ConnectionNotificationCode code)
{
    MetricsHttp *http = opaque;
    Connection *connection = *context;

    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        connection = g_new0(Connection, 1);
        connection->fd = fd_of(c);
        put_off(connection);
        if (http->options.tls_creds) {
            const union MHD_ConnectionInfo *info =
                MHD_get_connection_info(c, MHD_CONNECTION_INFO_GNUTLS_SESSION);

            /* without them, the handshake fails */
            if (info)
                tm_tls_session_adopt(&connection->tls, http->options.tls_creds, info->tls_session,
                                     NULL);
        }
        connection->next = http->connections;
        http->connections = connection;
        http->n_connections++;
        *context = connection;
        return;
    }
    for (Connection **p = &http->connections; *p; p = &(*p)->next) {
        if (*p == connection) {
            *p = connection->next;
            break;
        }
    }
    tm_tls_session_clear(&connection->tls);
    g_free(connection);
    http->n_connections--;
    http->gone = true;
}

static void on_completed(void *opaque, struct MHD_Connection *c, void **seen,
                         enum MHD_RequestTerminationCode code)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(c, MHD_CONNECTION_INFO_SOCKET_CONTEXT);

    if (info && info->socket_context)
        put_off(info->socket_context);
}

/* The library sees the end of those that take too long. */
static void cut_overdue(MetricsHttp *http)
{
    int64_t now = g_get_monotonic_time();

    for (Connection *c = http->connections; c; c = c->next) {
        if (c->deadline <= now)
            shutdown(c->fd, SHUT_RDWR);
    }
}

/* Its certificate comes from tm_tls_session_adopt(): the library's own session is never asked. */
static int no_certificate(gnutls_session_t session, const gnutls_datum_t *ca, int n_ca,
                          const gnutls_pk_algorithm_t *algorithms, int n_algorithms,
                          gnutls_pcert_st **chain, unsigned *n_chain, gnutls_privkey_t *key)
{
    return -1;
}

/* ---- the main loop */

static void run(MetricsHttp *http)
{
    cut_overdue(http);
    MHD_run(http->daemon);
    if (!http->gone)
        return;
    http->gone = false;
    http->options.gone(http->options.owner);
}

static gboolean pump_prepare(GSource *source, int *timeout)
{
    MetricsHttp *http = ((Pump *)source)->http;
    MHD_UNSIGNED_LONG_LONG ms;

    *timeout = http->n_connections ? 1000 : -1;
    if (MHD_get_timeout(http->daemon, &ms) == MHD_YES && ms < 1000)
        *timeout = (int)ms;
    return *timeout == 0;
}

static gboolean pump_check(GSource *source)
{
    Pump *pump = (Pump *)source;

    return pump->http->n_connections || g_source_query_unix_fd(source, pump->tag);
}

static gboolean pump_dispatch(GSource *source, GSourceFunc callback, gpointer opaque)
{
    run(((Pump *)source)->http);
    return G_SOURCE_CONTINUE;
}

static bool start_pump(MetricsHttp *http)
{
    static GSourceFuncs functions = { .prepare = pump_prepare,
                                      .check = pump_check,
                                      .dispatch = pump_dispatch };
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(http->daemon, MHD_DAEMON_INFO_EPOLL_FD);

    if (!info)
        return false;
    http->pump = g_source_new(&functions, sizeof(Pump));
    ((Pump *)http->pump)->http = http;
    ((Pump *)http->pump)->tag = g_source_add_unix_fd(http->pump, info->epoll_fd, G_IO_IN);
    g_source_attach(http->pump, NULL);
    return true;
}

/* ---- life */

MetricsHttp *metrics_http_new(const MetricsHttpOptions *options, GError **error)
{
    MetricsHttp *http = g_new0(MetricsHttp, 1);
    unsigned flags =
        MHD_USE_EPOLL | MHD_USE_NO_LISTEN_SOCKET | (options->tls_creds ? MHD_USE_TLS : 0);
    struct MHD_OptionItem tls[] = {
        { MHD_OPTION_HTTPS_CERT_CALLBACK, 0, (void *)no_certificate },
        { MHD_OPTION_HTTPS_PRIORITIES, 0, (void *)PRIORITIES },
        { MHD_OPTION_END, 0, NULL },
    };

    http->options = *options;
    http->daemon =
        MHD_start_daemon(flags, 0, NULL, NULL, on_request, http, MHD_OPTION_CONNECTION_LIMIT,
                         CONNECTIONS_MAX, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)REQUEST_MAX,
                         MHD_OPTION_CONNECTION_TIMEOUT, IDLE_SECONDS, MHD_OPTION_NOTIFY_CONNECTION,
                         on_connection, http, MHD_OPTION_NOTIFY_COMPLETED, on_completed, http,
                         MHD_OPTION_ARRAY, options->tls_creds ? tls : &tls[2], MHD_OPTION_END);
    if (http->daemon && start_pump(http))
        return http;
    tm_error_set(error, "The HTTP library could not be started");
    metrics_http_free(http);
    return NULL;
}

void metrics_http_free(MetricsHttp *http)
{
    if (!http)
        return;
    if (http->daemon)
        MHD_stop_daemon(http->daemon);
    if (http->pump) {
        g_source_destroy(http->pump);
        g_source_unref(http->pump);
    }
    g_free(http);
}

unsigned metrics_http_connections(const MetricsHttp *http)
{
    return http->n_connections;
}

bool metrics_http_full(const MetricsHttp *http)
{
    return http->n_connections >= CONNECTIONS_MAX;
}

void metrics_http_add(MetricsHttp *http, int fd)
{
    struct sockaddr_storage address = { 0 };
    socklen_t length = sizeof(address);

    getpeername(fd, (struct sockaddr *)&address, &length);
    if (length < sizeof(sa_family_t)) {
        address.ss_family = AF_UNIX;
        length = sizeof(sa_family_t);
    }
    MHD_add_connection(http->daemon, fd, (struct sockaddr *)&address, length);
    run(http);
}
