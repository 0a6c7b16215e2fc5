/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/nbd/server.c: where a server is, from a node's options, and how to get there.
 *
 * Options, messages and file names are QEMU's (qapi BlockdevOptionsNbd, SocketAddress). Immutable
 * once made: any number of connections use it at once. */
#include "block/drivers/nbd/nbd.h"
#include "block/graph.h"
#include "util/address.h"
#include "util/error.h"

#include <errno.h>
#include <netdb.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define TEXT_MAX 4096u /* bytes of a name, by the protocol */

struct BlkNbdServer {
    char *type, *path, *host, *port; /* as the address has them, or NULL; vsock: host is the cid */
    int family;                      /* of inet */
    bool numeric, keepalive;         /* of inet */
    bool abstract, padded;           /* of unix */
    char *export, *context, *text;
    bool bitmap;     /* the context is x-dirty-bitmap's */
    TmObject *creds; /* a reference; NULL: no TLS */
    TmTlsFiles tls;
    char *tls_hostname; /* that the certificate has to have; NULL: none */
};

/* ---- options */

static char *dup_option(struct tidemark_node *node, const char *name)
{
    return g_strdup(blk_host.option_string(node, name));
}

static bool refuse(struct tidemark_node *node, const char *format, const char *what)
{
    g_autofree char *text = g_strdup_printf(format, what);

    blk_host.error(node, "%s", text);
    return false;
}

/* What an address of that type has to say, and no more. */
static bool check_members(struct tidemark_node *node, const char *type)
{
    static const struct {
        const char *type, *member;
        bool required;
    } rules[] = {
        { "unix", "path", true },  { "unix", "abstract", false }, { "unix", "tight", false },
        { "inet", "host", true },  { "inet", "port", true },      { "inet", "ipv4", false },
        { "inet", "ipv6", false }, { "inet", "numeric", false },  { "inet", "keep-alive", false },
        { "vsock", "cid", true },  { "vsock", "port", true },
    };
    static const char *const members[] = { "path", "abstract", "tight",   "host",       "port",
                                           "ipv4", "ipv6",     "numeric", "keep-alive", "cid" };

    for (size_t m = 0; m < G_N_ELEMENTS(members); m++) {
        g_autofree char *name = g_strconcat("server.", members[m], NULL);
        bool allowed = false, required = false;

        for (size_t i = 0; i < G_N_ELEMENTS(rules); i++) {
            if (g_str_equal(rules[i].type, type) && g_str_equal(rules[i].member, members[m])) {
                allowed = true;
                required = rules[i].required;
            }
        }
        if (!allowed && blk_host.option_is_set(node, name))
            return refuse(node, "Parameter '%s' is unexpected", name);
        if (required && !blk_host.option_is_set(node, name))
            return refuse(node, "Parameter '%s' is missing", name);
    }
    return true;
}

static bool set_family(BlkNbdServer *s, struct tidemark_node *node)
{
    bool has4 = blk_host.option_is_set(node, "server.ipv4");
    bool has6 = blk_host.option_is_set(node, "server.ipv6");
    bool four = has4 ? blk_host.option_bool(node, "server.ipv4")
                     : !(has6 && blk_host.option_bool(node, "server.ipv6"));
    bool six = has6 ? blk_host.option_bool(node, "server.ipv6")
                    : !(has4 && blk_host.option_bool(node, "server.ipv4"));

    s->family = four == six ? AF_UNSPEC : four ? AF_INET : AF_INET6;
    return four || six || refuse(node, "Cannot disable %s at same time", "IPv4 and IPv6");
}

static bool is_number(const char *text, uint64_t max)
{
    guint64 number;

    return g_ascii_string_to_unsigned(text, 10, 0, max, &number, NULL);
}

static bool flag(struct tidemark_node *node, const char *name, bool otherwise)
{
    return blk_host.option_is_set(node, name) ? blk_host.option_bool(node, name) : otherwise;
}

static bool parse_address(BlkNbdServer *s, struct tidemark_node *node)
{
    s->type = dup_option(node, "server.type");
    if (!check_members(node, s->type))
        return false;
    s->numeric = flag(node, "server.numeric", false);
    s->keepalive = flag(node, "server.keep-alive", true);
    s->abstract = flag(node, "server.abstract", false);
    s->padded = !flag(node, "server.tight", true);
    s->path = dup_option(node, "server.path");
    s->port = dup_option(node, "server.port");
    s->host =
        dup_option(node, s->path || g_str_equal(s->type, "inet") ? "server.host" : "server.cid");
    if (s->path) {
        s->text = g_strdup(s->path);
        if (strlen(s->path) >= sizeof(((struct sockaddr_un *)NULL)->sun_path))
            return refuse(node, "UNIX socket path '%s' is too long", s->path);
    } else if (g_str_equal(s->type, "inet")) {
        s->text = g_strdup_printf("%s:%s", s->host, s->port);
        if (g_ascii_isdigit(*s->port) && !is_number(s->port, UINT16_MAX))
            return refuse(node, "Parameter 'server.port' is '%s', expected 0 to 65535", s->port);
    } else {
        s->text = g_strdup_printf("vsock:%s:%s", s->host, s->port);
        if (!is_number(s->host, UINT32_MAX))
            return refuse(node, "Parameter 'server.cid' is '%s', expected a number", s->host);
        if (!is_number(s->port, UINT32_MAX))
            return refuse(node, "Parameter 'server.port' is '%s', expected a number", s->port);
    }
    return set_family(s, node);
}

static bool parse_names(BlkNbdServer *s, struct tidemark_node *node)
{
    s->export = dup_option(node, "export");
    s->bitmap = blk_host.option_is_set(node, "x-dirty-bitmap");
    s->context =
        s->bitmap ? dup_option(node, "x-dirty-bitmap") : g_strdup(LIBNBD_CONTEXT_BASE_ALLOCATION);
    if (s->export && strlen(s->export) > TEXT_MAX)
        return refuse(node, "export name too long to send to %s", "server");
    return strlen(s->context) <= TEXT_MAX ||
           refuse(node, "x-dirty-bitmap query too long to send to %s", "server");
}

/* Of libnbd; static. */
static const char *version(void)
{
    struct nbd_handle *nbd = nbd_create();
    const char *text = nbd ? nbd_get_version(nbd) : NULL;

    nbd_close(nbd);
    return text ? text : "";
}

/* Since that version libnbd checks a certificate even where it knows no name. */
static bool verifies_all(void)
{
    g_auto(GStrv) parts = g_strsplit(version(), ".", 3);
    guint64 number = 0;

    for (size_t i = 0; i < 3; i++)
        number = 1000 * number + (parts[i] ? g_ascii_strtoull(parts[i], NULL, 10) : 0);
    return g_strv_length(parts) == 3 && number >= 1020003;
}

/* What would not be verified is refused. The name is the host's, as libnbd was given it. */
static bool check_verified(const BlkNbdServer *s, struct tidemark_node *node)
{
    if (s->tls.username || !s->tls.verify)
        return true;
#if !LIBNBD_HAVE_NBD_SET_TLS_HOSTNAME
    if (s->tls_hostname && g_strcmp0(s->tls_hostname, s->host))
        return refuse(node, "libnbd %s can't verify a certificate against 'tls-hostname'",
                      version());
    if (s->family != AF_UNSPEC)
        return refuse(node, "libnbd %s can't verify a certificate with 'ipv4' or 'ipv6'",
                      version());
#endif
    return g_str_equal(s->type, "inet") || verifies_all() ||
           refuse(node,
                  "libnbd %s verifies certificates only on TCP connections: use tls-creds-psk, or "
                  "verify-peer=off",
                  version());
}

static bool parse_tls(BlkNbdServer *s, struct tidemark_node *node)
{
    const char *id = blk_host.option_string(node, "tls-creds");
    g_autoptr(GError) error = NULL;

    if (!id)
        return true;
    s->creds =
        tm_objects_get(blk_graph_objects(blk_node_graph(node)), id, TM_OBJECT_TLS_CREDS, &error);
    s->tls_hostname = dup_option(node, "tls-hostname");
    if (!s->creds || !tm_tls_creds_files(s->creds, &s->tls, &error))
        return refuse(node, "%s", error->message);
    return check_verified(s, node);
}

BlkNbdServer *blk_nbd_server_new(struct tidemark_node *node)
{
    BlkNbdServer *s = g_new0(BlkNbdServer, 1);

    if (parse_address(s, node) && parse_names(s, node) && parse_tls(s, node))
        return s;
    blk_nbd_server_free(s);
    return NULL;
}

void blk_nbd_server_free(BlkNbdServer *s)
{
    if (!s)
        return;
    g_free(s->type);
    g_free(s->path);
    g_free(s->host);
    g_free(s->port);
    g_free(s->export);
    g_free(s->context);
    g_free(s->text);
    g_free(s->tls_hostname);
    tm_object_unref(s->creds);
    g_free(s);
}

const char *blk_nbd_server_text(const BlkNbdServer *s)
{
    return s->text;
}

const char *blk_nbd_server_context(const BlkNbdServer *s)
{
    return s->context;
}

bool blk_nbd_server_bitmap(const BlkNbdServer *s)
{
    return s->bitmap;
}

bool blk_nbd_server_probed(const BlkNbdServer *s)
{
    return s->keepalive;
}

bool blk_nbd_server_depth(const BlkNbdServer *s)
{
    return g_str_equal(s->context, "qemu:allocation-depth");
}

/* ---- names of such nodes */

char *blk_nbd_filename(struct tidemark_node *node)
{
    const char *export = blk_host.option_string(node, "export");
    const char *path = blk_host.option_string(node, "server.path");
    const char *host = blk_host.option_string(node, "server.host");
    const char *port = blk_host.option_string(node, "server.port");

    if (path && blk_host.option_is_set(node, "server.abstract") &&
        blk_host.option_bool(node, "server.abstract"))
        return NULL; /* URIs have no such names */
    if (path)
        return export ? g_strdup_printf("nbd+unix:///%s?socket=%s", export, path)
                      : g_strdup_printf("nbd+unix://?socket=%s", path);
    if (!host || blk_host.option_is_set(node, "server.ipv4") ||
        blk_host.option_is_set(node, "server.ipv6"))
        return NULL;
    return export ? g_strdup_printf("nbd://%s:%s/%s", host, port, export)
                  : g_strdup_printf("nbd://%s:%s", host, port);
}

/* ---- connecting */

/* By libnbd's "FUNCTION: STEP: ...": a step on the way to the server, or else it is there and
 * won't. */
static bool is_on_the_way(const char *why)
{
    static const char *const steps[] = { "connect", "socket", "getsockopt", "getaddrinfo" };
    const char *step = strstr(why, ": ");

    for (size_t i = 0; step && i < G_N_ELEMENTS(steps); i++) {
        if (g_str_has_prefix(step + 2, steps[i]))
            return true;
    }
    return false;
}

void blk_nbd_server_failed(const BlkNbdServer *s, GError **error)
{
    int err = nbd_get_errno();
    const char *why = nbd_get_error() ? nbd_get_error() : "unknown";
    bool on_the_way = is_on_the_way(why);

    if (on_the_way && err)
        tm_error_set_errno(error, err, "Failed to connect to '%s'", s->text);
    else if (err == ENOENT)
        tm_error_set(error, "Requested export not available: %s", why);
    else
        tm_error_set(error, "Failed to %s '%s': %s",
                     on_the_way ? "connect to" : "negotiate with NBD server", s->text, why);
}

/* Of a family alone libnbd knows nothing, but it takes numbers as names. */
static bool resolve(const BlkNbdServer *s, char host[static NI_MAXHOST], GError **error)
{
    struct addrinfo hints = { .ai_family = s->family,
                              .ai_socktype = SOCK_STREAM,
                              .ai_flags = s->numeric ? AI_NUMERICHOST | AI_NUMERICSERV : 0 },
                    *all = NULL;
    int err = getaddrinfo(s->host, s->port, &hints, &all);

    if (!err)
        err = getnameinfo(all->ai_addr, all->ai_addrlen, host, NI_MAXHOST, NULL, 0, NI_NUMERICHOST);
    if (all)
        freeaddrinfo(all);
    return !err ||
           tm_error_set(error, "address resolution failed for %s: %s", s->text, gai_strerror(err));
}

static bool connect_inet(const BlkNbdServer *s, struct nbd_handle *nbd, GError **error)
{
    char host[NI_MAXHOST];
    bool number = s->numeric || s->family != AF_UNSPEC;

    if (number && !resolve(s, host, error))
        return false;
    if (nbd_aio_connect_tcp(nbd, number ? host : s->host, s->port) == 0)
        return true;
    blk_nbd_server_failed(s, error);
    return false;
}

/* libnbd has no such names. */
static bool connect_abstract(const BlkNbdServer *s, struct nbd_handle *nbd, GError **error)
{
    TmAddress address = {
        .type = TM_ADDRESS_UNIX, .path = s->path, .abstract = true, .padded = s->padded
    };
    int fd = tm_address_connect(&address, NULL, 0, error);

    if (fd < 0)
        return false;
    if (nbd_aio_connect_socket(nbd, fd) == 0)
        return true; /* the descriptor is libnbd's */
    blk_nbd_server_failed(s, error);
    return false;
}

static bool begin(const BlkNbdServer *s, struct nbd_handle *nbd, GError **error)
{
    int ret;

    if (g_str_equal(s->type, "inet"))
        return connect_inet(s, nbd, error);
    if (s->abstract)
        return connect_abstract(s, nbd, error);
    ret = s->path ? nbd_aio_connect_unix(nbd, s->path)
                  : nbd_aio_connect_vsock(nbd, (uint32_t)g_ascii_strtoull(s->host, NULL, 10),
                                          (uint32_t)g_ascii_strtoull(s->port, NULL, 10));
    if (ret < 0)
        blk_nbd_server_failed(s, error);
    return ret == 0;
}

/* Without the authorities' certificates libnbd would trust those of the system. */
static bool use_certificates(const BlkNbdServer *s, struct nbd_handle *nbd, GError **error)
{
    g_autofree char *ca = g_build_filename(s->tls.dir, "ca-cert.pem", NULL);

    if (access(ca, R_OK) < 0)
        return tm_error_set_errno(error, errno, "Unable to access credentials %s", ca);
#if LIBNBD_HAVE_NBD_SET_TLS_HOSTNAME
    if (s->tls_hostname && nbd_set_tls_hostname(nbd, s->tls_hostname) < 0)
        return tm_error_set(error, "libnbd: %s", nbd_get_error());
#endif
    return (nbd_set_tls_certificates(nbd, s->tls.dir) == 0 &&
            nbd_set_tls_verify_peer(nbd, s->tls.verify) == 0) ||
           tm_error_set(error, "libnbd: %s", nbd_get_error());
}

static bool use_tls(const BlkNbdServer *s, struct nbd_handle *nbd, GError **error)
{
    g_autofree char *keys = NULL;

    if (!s->creds)
        return true;
    if (nbd_set_tls(nbd, LIBNBD_TLS_REQUIRE) < 0)
        return tm_error_set(error, "libnbd: %s", nbd_get_error());
    if (!s->tls.username)
        return use_certificates(s, nbd, error);
    keys = g_build_filename(s->tls.dir, "keys.psk", NULL);
    return (nbd_set_tls_username(nbd, s->tls.username) == 0 &&
            nbd_set_tls_psk_file(nbd, keys) == 0) ||
           tm_error_set(error, "libnbd: %s", nbd_get_error());
}

struct nbd_handle *blk_nbd_server_connect(const BlkNbdServer *s, GError **error)
{
    struct nbd_handle *nbd = nbd_create();

    if (nbd && nbd_set_export_name(nbd, s->export ? s->export : "") == 0 &&
        nbd_add_meta_context(nbd, s->context) == 0) {
        if (use_tls(s, nbd, error) && begin(s, nbd, error))
            return nbd;
    } else {
        tm_error_set(error, "libnbd: %s", nbd_get_error());
    }
    nbd_close(nbd);
    return NULL;
}
