/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* object/tls_creds.c: TLS credentials: a directory of PEM files, or of pre-shared keys.
 *
 * What was loaded is constant and counted. Reloading puts something else in its place, for sessions
 * to come; those that are there keep theirs. */
#include "object/tls_creds.h"

#include "object/objects_internal.h"
#include "util/error.h"
#include "util/file.h"
#include "util/secret.h"
#include "util/sync.h"

#include <errno.h>
#include <gnutls/x509.h>
#include <string.h>
#include <unistd.h>
#if defined(__aarch64__)
#include <sys/auxv.h>
#endif

#define PEM_MAX      (16u << 20) /* bytes of a file of certificates, keys or revocations */
#define CLIENT_NAME  "qemu"      /* of who has no "username" */
#define PSK_PRIORITY "+ECDHE-PSK:+DHE-PSK:+PSK"

typedef struct TmTlsLoaded {
    int refs; /* atomic */
    gnutls_certificate_credentials_t x509;
    gnutls_psk_server_credentials_t psk_server;
    gnutls_psk_client_credentials_t psk_client;
    gnutls_priority_t priority;
} TmTlsLoaded;

typedef struct TlsCreds {
    TmObject object;
    char *dir, *priority, *username;
    bool server, verify, sanity_check;
    TmObject *password;   /* or NULL */
    pthread_mutex_t lock; /* guards loaded; a leaf */
    TmTlsLoaded *loaded;
} TlsCreds;

/* ---- what was loaded */

static void loaded_unref(TmTlsLoaded *loaded)
{
    if (!loaded || !tm_unref(&loaded->refs))
        return;
    if (loaded->x509)
        gnutls_certificate_free_credentials(loaded->x509);
    if (loaded->psk_server)
        gnutls_psk_free_server_credentials(loaded->psk_server);
    if (loaded->psk_client)
        gnutls_psk_free_client_credentials(loaded->psk_client);
    if (loaded->priority)
        gnutls_priority_deinit(loaded->priority);
    g_free(loaded);
}

static bool failed(int ret, GError **error, const char *what, const char *path)
{
    return ret < 0 && !tm_error_set(error, "%s '%s': %s", what, path, gnutls_strerror(ret));
}

/* The path of a file of the directory; *path is NULL if it isn't there and need not be. */
static bool find_file(const TlsCreds *creds, const char *name, bool required, char **path,
                      GError **error)
{
    *path = g_build_filename(creds->dir, name, NULL);
    if (access(*path, R_OK) == 0)
        return true;
    if (!required && errno == ENOENT) {
        g_clear_pointer(path, g_free);
        return true;
    }
    return tm_error_set_errno(error, errno, "Unable to access credentials %s", *path);
}

/* A key exchange without certificates goes with ciphers of SHA-256, of which clients like
 * CHACHA20-POLY1305 best; where the CPU has instructions for AES that takes ten times as long as
 * AES-128-GCM. All who speak TLS 1.3 know that. */
static bool aes_is_fast(void)
{
#if defined(__x86_64__)
    return __builtin_cpu_supports("aes");
#elif defined(__aarch64__)
    return getauxval(AT_HWCAP) & HWCAP_AES;
#else
    return false;
#endif
}

/* What is said is taken as it is; else the system's default. */
static bool load_priority(const TlsCreds *creds, TmTlsLoaded *loaded, bool psk, GError **error)
{
    const char *base = creds->priority ? creds->priority
                       : aes_is_fast() ? "-CHACHA20-POLY1305"
                                       : "";
    g_autofree char *text = g_strjoin(psk && *base ? ":" : "", base, psk ? PSK_PRIORITY : "", NULL);
    unsigned flags = creds->priority ? 0 : GNUTLS_PRIORITY_INIT_DEF_APPEND;
    int ret = *text ? gnutls_priority_init2(&loaded->priority, text, NULL, flags)
                    : gnutls_priority_init(&loaded->priority, NULL, NULL);

    return !failed(ret, error, "Unable to set TLS session priority", text);
}

/* ---- certificates */

typedef struct Chain {
    gnutls_x509_crt_t *list;
    unsigned n;
} Chain;

static void chain_clear(Chain *chain)
{
    for (unsigned i = 0; i < chain->n; i++)
        gnutls_x509_crt_deinit(chain->list[i]);
    gnutls_free(chain->list);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Chain, chain_clear)

static bool chain_read(Chain *chain, const char *path, GError **error)
{
    g_autofree char *text = NULL;
    gnutls_datum_t data;
    size_t length;

    if (!tm_file_read(path, PEM_MAX, &text, &length, error))
        return false;
    data = (gnutls_datum_t){ (unsigned char *)text, (unsigned)length };
    /* Sorting would leave out what is no chain of the first one: another authority. */
    return !failed(
        gnutls_x509_crt_list_import2(&chain->list, &chain->n, &data, GNUTLS_X509_FMT_PEM, 0), error,
        "Unable to import certificates", path);
}

static bool current(gnutls_x509_crt_t cert, const char *path, GError **error)
{
    time_t now = time(NULL);

    if (gnutls_x509_crt_get_expiration_time(cert) < now)
        return tm_error_set(error, "The certificate %s has expired", path);
    if (gnutls_x509_crt_get_activation_time(cert) > now)
        return tm_error_set(error, "The certificate %s is not yet active", path);
    return true;
}

/* Whether a peer that trusts the same authorities would take our own certificate. */
static bool verify_own(const TlsCreds *creds, Chain *own, const char *own_path, Chain *ca,
                       const char *ca_path, GError **error)
{
    const char *purpose = creds->server ? GNUTLS_KP_TLS_WWW_SERVER : GNUTLS_KP_TLS_WWW_CLIENT;
    gnutls_typed_vdata_st data = { .type = GNUTLS_DT_KEY_PURPOSE_OID,
                                   .data = (unsigned char *)purpose };
    gnutls_x509_trust_list_t trust;
    gnutls_datum_t text = { 0 };
    unsigned status = 0;
    int ret = gnutls_x509_trust_list_init(&trust, 0);

    if (ret < 0)
        return tm_error_set(error, "TLS: %s", gnutls_strerror(ret));
    gnutls_x509_trust_list_add_cas(trust, ca->list, ca->n, 0);
    ret = gnutls_x509_trust_list_verify_crt2(trust, own->list, own->n, &data, 1, 0, &status, NULL);
    if (ret < 0)
        failed(ret, error, "Unable to verify certificate", own_path);
    else if (status) {
        gnutls_certificate_verification_status_print(status, GNUTLS_CRT_X509, &text, 0);
        tm_error_set(error, "Our own certificate %s failed validation against %s: %s", own_path,
                     ca_path, text.data ? g_strstrip((char *)text.data) : "invalid");
        gnutls_free(text.data);
    }
    gnutls_x509_trust_list_deinit(trust, 0); /* the certificates are not its own */
    return ret == 0 && status == 0;
}

static bool sane(const TlsCreds *creds, const char *ca_path, const char *own_path, GError **error)
{
    g_auto(Chain) ca = { 0 }, own = { 0 };

    if (!chain_read(&ca, ca_path, error))
        return false;
    for (unsigned i = 0; i < ca.n; i++) {
        if (!current(ca.list[i], ca_path, error))
            return false;
        if (gnutls_x509_crt_get_basic_constraints(ca.list[i], NULL, NULL, NULL) <= 0)
            return tm_error_set(error, "The certificate %s basic constraints do not show a CA",
                                ca_path);
    }
    return !own_path ||
           (chain_read(&own, own_path, error) && own.n && current(own.list[0], own_path, error) &&
            verify_own(creds, &own, own_path, &ca, ca_path, error));
}

static bool load_key(const TlsCreds *creds, TmTlsLoaded *loaded, const char *cert, const char *key,
                     GError **error)
{
    g_autofree char *cert_text = NULL;
    g_auto(TmSecret) key_text = { 0 };
    const guint8 *password = NULL; /* up to a NUL, which follows a secret */
    gnutls_datum_t cert_data, key_data;
    size_t length;
    int ret;

    if (!tm_file_read(cert, PEM_MAX, &cert_text, &length, error) ||
        !tm_secret_read(&key_text, key, PEM_MAX, error))
        return false;
    cert_data = (gnutls_datum_t){ (unsigned char *)cert_text, (unsigned)length };
    key_data = (gnutls_datum_t){ key_text.data, (unsigned)key_text.length };
    if (creds->password)
        password = tm_secret_data(creds->password, &length);
    ret = gnutls_certificate_set_x509_key_mem2(loaded->x509, &cert_data, &key_data,
                                               GNUTLS_X509_FMT_PEM, (const char *)password, 0);
    return ret >= 0 || tm_error_set(error, "Cannot load certificate '%s' & key '%s': %s", cert, key,
                                    gnutls_strerror(ret));
}

static bool load_pem(TmTlsLoaded *loaded,
                     int (*set)(gnutls_certificate_credentials_t, const gnutls_datum_t *,
                                gnutls_x509_crt_fmt_t),
                     const char *what, const char *path, GError **error)
{
    g_autofree char *text = NULL;
    gnutls_datum_t data;
    size_t length;

    if (!tm_file_read(path, PEM_MAX, &text, &length, error))
        return false;
    data = (gnutls_datum_t){ (unsigned char *)text, (unsigned)length };
    return !failed(set(loaded->x509, &data, GNUTLS_X509_FMT_PEM), error, what, path);
}

static bool load_x509(const TlsCreds *creds, TmTlsLoaded *loaded, GError **error)
{
    const char *cert_name = creds->server ? "server-cert.pem" : "client-cert.pem";
    const char *key_name = creds->server ? "server-key.pem" : "client-key.pem";
    g_autofree char *ca = NULL, *crl = NULL, *cert = NULL, *key = NULL;

    if (!find_file(creds, "ca-cert.pem", true, &ca, error) ||
        !find_file(creds, "ca-crl.pem", false, &crl, error) ||
        !find_file(creds, cert_name, creds->server, &cert, error) ||
        !find_file(creds, key_name, creds->server || cert, &key, error) ||
        (creds->sanity_check && !sane(creds, ca, cert, error)))
        return false;
    if (gnutls_certificate_allocate_credentials(&loaded->x509) < 0)
        return tm_error_set(error, "Not enough memory for TLS credentials");
    if (!load_pem(loaded, gnutls_certificate_set_x509_trust_mem, "Cannot load CA certificate", ca,
                  error) ||
        (crl &&
         !load_pem(loaded, gnutls_certificate_set_x509_crl_mem, "Cannot load CRL", crl, error)))
        return false;
    gnutls_certificate_set_known_dh_params(loaded->x509, GNUTLS_SEC_PARAM_MEDIUM);
    return !cert || load_key(creds, loaded, cert, key, error);
}

/* ---- pre-shared keys */

static bool load_psk_client(const TlsCreds *creds, TmTlsLoaded *loaded, const char *path,
                            GError **error)
{
    const char *username = creds->username ? creds->username : CLIENT_NAME;
    g_autofree char *begin = g_strconcat(username, ":", NULL);
    g_auto(TmSecret) text = { 0 };
    char *line, *rest;

    if (!tm_secret_read(&text, path, PEM_MAX, error))
        return false;
    if (gnutls_psk_allocate_client_credentials(&loaded->psk_client) < 0)
        return tm_error_set(error, "Not enough memory for TLS credentials");
    for (line = strtok_r((char *)text.data, "\n", &rest); line;
         line = strtok_r(NULL, "\n", &rest)) {
        gnutls_datum_t key;

        if (!g_str_has_prefix(line, begin))
            continue;
        key.data = (unsigned char *)g_strstrip(line + strlen(begin));
        key.size = (unsigned)strlen((char *)key.data);
        return !failed(gnutls_psk_set_client_credentials(loaded->psk_client, username, &key,
                                                         GNUTLS_PSK_KEY_HEX),
                       error, "Cannot use the key of username", username);
    }
    return tm_error_set(error, "Username %s not found in PSK key file %s", username, path);
}

/* The library opens it again and again, and would wait for a FIFO. */
static bool is_regular(const char *path, GError **error)
{
    uint64_t size;
    int fd = tm_file_open(path, &size, error);

    if (fd < 0)
        return false;
    close(fd);
    return size != UINT64_MAX ||
           tm_error_set(error, "Unable to read '%s': it is not a regular file", path);
}

static bool load_psk(const TlsCreds *creds, TmTlsLoaded *loaded, GError **error)
{
    g_autofree char *path = NULL;

    if (!find_file(creds, "keys.psk", true, &path, error))
        return false;
    if (!creds->server)
        return load_psk_client(creds, loaded, path, error);
    if (!is_regular(path, error))
        return false;
    if (gnutls_psk_allocate_server_credentials(&loaded->psk_server) < 0)
        return tm_error_set(error, "Not enough memory for TLS credentials");
    gnutls_psk_set_server_known_dh_params(loaded->psk_server, GNUTLS_SEC_PARAM_MEDIUM);
    /* The library looks keys up in the file with each handshake. */
    return !failed(gnutls_psk_set_server_credentials_file(loaded->psk_server, path), error,
                   "Cannot use PSK key file", path);
}

/* ---- objects */

static bool reload(TmObject *object, GError **error)
{
    TlsCreds *creds = (TlsCreds *)object;
    bool psk = object->class == &tm_tls_creds_psk_class;
    TmTlsLoaded *loaded = g_new0(TmTlsLoaded, 1), *old;

    loaded->refs = 1;
    tm_secret_no_dumps();
    if (!load_priority(creds, loaded, psk, error) ||
        !(psk ? load_psk : load_x509)(creds, loaded, error)) {
        loaded_unref(loaded);
        return false;
    }
    pthread_mutex_lock(&creds->lock);
    old = creds->loaded;
    creds->loaded = loaded;
    pthread_mutex_unlock(&creds->lock);
    loaded_unref(old);
    return true;
}

static bool init(TmObject *object, TmObjects *objects, json_object *props, GError **error)
{
    TlsCreds *creds = (TlsCreds *)object;
    const char *endpoint = tm_object_string(props, "endpoint");
    const char *passwordid = tm_object_string(props, "passwordid");

    pthread_mutex_init(&creds->lock, NULL);
    creds->dir = tm_object_path(props, "dir");
    creds->priority = g_strdup(tm_object_string(props, "priority"));
    creds->username = g_strdup(tm_object_string(props, "username"));
    creds->server = endpoint && g_str_equal(endpoint, "server");
    creds->verify = tm_object_bool(props, "verify-peer", true);
    creds->sanity_check = tm_object_bool(props, "sanity-check", true);
    if (!creds->dir)
        return tm_error_set(error, "Missing 'dir' property value");
    if (creds->username && creds->server)
        return tm_error_set(error, "'username' should not be provided when 'endpoint' is 'server'");
    if (passwordid) {
        creds->password = tm_objects_get(objects, passwordid, TM_OBJECT_SECRET, error);
        if (!creds->password)
            return false;
    }
    return reload(object, error);
}

static void clear(TmObject *object)
{
    TlsCreds *creds = (TlsCreds *)object;

    loaded_unref(creds->loaded);
    tm_object_unref(creds->password);
    pthread_mutex_destroy(&creds->lock);
    g_free(creds->dir);
    g_free(creds->priority);
    g_free(creds->username);
}

/* Of both. */
#define PROPERTIES                                                                                 \
    { "dir", "string", .otherwise = "\"\"" },                                                      \
        { "endpoint", "QCryptoTLSCredsEndpoint", .otherwise = "\"client\"" },                      \
        { "priority", "string", .otherwise = "\"\"" },                                             \
    {                                                                                              \
        "verify-peer", "bool", .otherwise = "true"                                                 \
    }

static const TmProperty x509_properties[] = {
    PROPERTIES,
    { "sanity-check", "bool", .otherwise = "true" },
    { "passwordid", "string", .otherwise = "\"\"" },
    { NULL },
};
static const TmProperty psk_properties[] = {
    PROPERTIES,
    { "username", "string", .otherwise = "\"\"" },
    { NULL },
};

const TmObjectClass tm_tls_creds_x509_class = {
    "tls-creds-x509", TM_OBJECT_TLS_CREDS, sizeof(TlsCreds), init, clear, reload, x509_properties
};
const TmObjectClass tm_tls_creds_psk_class = {
    "tls-creds-psk", TM_OBJECT_TLS_CREDS, sizeof(TlsCreds), init, clear, reload, psk_properties
};

/* ---- sessions */

bool tm_tls_creds_check(const TmObject *object, bool server, GError **error)
{
    return ((const TlsCreds *)object)->server == server ||
           tm_error_set(error, "Expecting TLS credentials with a %s endpoint",
                        server ? "server" : "client");
}

bool tm_tls_creds_files(const TmObject *object, TmTlsFiles *files, GError **error)
{
    const TlsCreds *creds = (const TlsCreds *)object;
    bool psk = object->class == &tm_tls_creds_psk_class;

    if (!tm_tls_creds_check(object, false, error))
        return false;
    if (creds->password || creds->priority)
        return tm_error_set(error, "TLS credentials '%s' have '%s', which a client can't use",
                            object->id, creds->password ? "passwordid" : "priority");
    *files = (TmTlsFiles){ .dir = creds->dir, .verify = creds->verify };
    if (psk)
        files->username = creds->username ? creds->username : CLIENT_NAME;
    return true;
}

/* The certificate of the other side has to be for what it is used for. */
static void verify_peer(TmTlsSession *s, const char *host)
{
    static const gnutls_typed_vdata_st client = { .type = GNUTLS_DT_KEY_PURPOSE_OID,
                                                  .data =
                                                      (unsigned char *)GNUTLS_KP_TLS_WWW_CLIENT };

    if (s->server) {
        gnutls_certificate_server_set_request(s->handle, GNUTLS_CERT_REQUIRE);
        gnutls_session_set_verify_cert2(s->handle, (gnutls_typed_vdata_st *)&client, 1, 0);
    } else {
        gnutls_session_set_verify_cert(s->handle, host, 0);
    }
}

static int set_credentials(TmTlsSession *s)
{
    const TmTlsLoaded *l = s->loaded;

    if (!s->psk)
        return gnutls_credentials_set(s->handle, GNUTLS_CRD_CERTIFICATE, l->x509);
    return s->server ? gnutls_credentials_set(s->handle, GNUTLS_CRD_PSK, l->psk_server)
                     : gnutls_credentials_set(s->handle, GNUTLS_CRD_PSK, l->psk_client);
}

/* Gives the session the credentials that are loaded now. */
static bool use_credentials(TmTlsSession *s, TlsCreds *creds, const char *host, GError **error)
{
    int ret;

    pthread_mutex_lock(&creds->lock);
    s->loaded = creds->loaded;
    tm_ref(&s->loaded->refs);
    pthread_mutex_unlock(&creds->lock);
    ret = gnutls_priority_set(s->handle, s->loaded->priority);
    if (ret == 0)
        ret = set_credentials(s);
    if (ret == 0 && !s->psk && s->verify)
        verify_peer(s, host);
    if (ret == 0)
        return true;
    tm_error_set(error, "Cannot set session credentials: %s", gnutls_strerror(ret));
    tm_tls_session_clear(s);
    return false;
}

static TmTlsSession begin_session(const TmObject *object)
{
    const TlsCreds *creds = (const TlsCreds *)object;

    return (TmTlsSession){ .server = creds->server,
                           .psk = object->class == &tm_tls_creds_psk_class,
                           .verify = creds->verify };
}

bool tm_tls_session_init(TmTlsSession *s, TmObject *object, const char *host, GError **error)
{
    int ret;

    *s = begin_session(object);
    ret = gnutls_init(&s->handle, (s->server ? GNUTLS_SERVER : GNUTLS_CLIENT) | GNUTLS_NONBLOCK |
                                      GNUTLS_NO_SIGNAL);
    if (ret < 0)
        return tm_error_set(error, "Cannot initialize TLS session: %s", gnutls_strerror(ret));
    return use_credentials(s, (TlsCreds *)object, host, error);
}

bool tm_tls_session_adopt(TmTlsSession *s, TmObject *object, gnutls_session_t handle,
                          GError **error)
{
    *s = begin_session(object);
    s->handle = handle;
    s->borrowed = true;
    return use_credentials(s, (TlsCreds *)object, NULL, error);
}

void tm_tls_session_clear(TmTlsSession *s)
{
    if (s->handle && !s->borrowed)
        gnutls_deinit(s->handle);
    loaded_unref(s->loaded);
    *s = (TmTlsSession){ 0 };
}

/* Written as QEMU writes it, for lists that were made for it. */
static char *distinguished_name(gnutls_session_t handle)
{
    unsigned n = 0;
    const gnutls_datum_t *peers = gnutls_certificate_get_peers(handle, &n);
    gnutls_x509_crt_t cert;
    size_t length = 0;
    char *name = NULL;

    if (!n || gnutls_x509_crt_init(&cert) < 0)
        return NULL;
    if (gnutls_x509_crt_import(cert, &peers[0], GNUTLS_X509_FMT_DER) == 0 &&
        gnutls_x509_crt_get_dn(cert, NULL, &length) == GNUTLS_E_SHORT_MEMORY_BUFFER) {
        name = g_malloc0(length + 1);
        if (gnutls_x509_crt_get_dn(cert, name, &length) < 0)
            g_clear_pointer(&name, g_free);
    }
    gnutls_x509_crt_deinit(cert);
    return name;
}

static char *identity_of(TmTlsSession *s)
{
    if (!s->server)
        return NULL;
    if (s->psk)
        return g_strdup(gnutls_psk_server_get_username(s->handle));
    return s->verify ? distinguished_name(s->handle) : NULL;
}

int tm_tls_session_handshake(TmTlsSession *s, TmObject *authz, char **identity, const char **why)
{
    int ret = gnutls_handshake(s->handle);

    if (ret < 0 && !gnutls_error_is_fatal(ret))
        return GNUTLS_E_AGAIN;
    if (ret < 0) {
        gnutls_alert_send_appropriate(s->handle, ret);
        *why = gnutls_strerror(ret);
        return ret;
    }
    *identity = identity_of(s);
    if (!authz || tm_authz_allowed(authz, *identity))
        return 0;
    gnutls_alert_send(s->handle, GNUTLS_AL_FATAL, GNUTLS_A_ACCESS_DENIED);
    *why = "the access list does not allow it";
    return GNUTLS_E_INSUFFICIENT_CREDENTIALS;
}
