/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* s3/request.c: one request, repeated until it has an answer that counts.
 *
 * libcurl signs. Version 7.88 signs every header that it is given, also one without a value, which
 * it does not send; and it takes path and query as they are: so these are encoded and in order
 * before, and no header is given to remove it. */
#include "s3/internal.h"
#include "util/range.h"
#include <curl/curl.h>
#include <gnutls/crypto.h>
#include <string.h>

#define TRIES      9u
#define PAUSE_US   (50 * 1000) /* after the first failure; twice as long after each other one */
#define PAUSE_MAX  (5 * G_USEC_PER_SEC)
#define ANSWER_MAX (UINT64_C(64) << 10) /* of one that is an error */
#define MEGABYTE   (UINT64_C(1) << 20)
#define ETAG_MAX   256u

G_DEFINE_QUARK(tidemark - s3 - error - quark, s3_error)

/* One attempt. */
typedef struct Attempt {
    S3Call *call;
    CURL *curl;
    GByteArray *answer; /* where there is no call->to, and of errors */
    size_t sent;
    bool overflow;       /* the server answers more than it was asked for */
    bool partial;        /* it said which range it sends */
    uint64_t from, size; /* of that, UINT64_MAX: not said */
    char etag[ETAG_MAX];
} Attempt;

/* ---- what comes */

static bool is_success(CURL *curl)
{
    long status = 0;

    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
    return status >= 200 && status < 300;
}

static size_t take_body(char *data, size_t one, size_t n, void *opaque)
{
    Attempt *a = opaque;
    S3Call *call = a->call;
    bool ok = is_success(a->curl);
    size_t had = ok && call->to ? call->got : a->answer->len;

    if (n > (ok ? call->to_max : ANSWER_MAX) - had) {
        a->overflow = ok;
        return ok ? 0 : n; /* what an error says beyond that is dropped */
    }
    if (ok && call->to) {
        memcpy((char *)call->to + call->got, data, n);
        call->got += n;
    } else {
        g_byte_array_append(a->answer, (const guint8 *)data, (guint)n);
    }
    return n;
}

/* The value of header @name in @line, or NULL. Returned. */
static char *header_value(const char *line, size_t length, const char *name)
{
    size_t n = strlen(name);

    if (length <= n || g_ascii_strncasecmp(line, name, n))
        return NULL;
    return g_strstrip(g_strndup(line + n, length - n));
}

static size_t take_header(char *data, size_t one, size_t n, void *opaque)
{
    g_autofree char *etag = header_value(data, n, "etag:");
    g_autofree char *range = header_value(data, n, "content-range: bytes ");
    Attempt *a = opaque;

    if (etag)
        g_strlcpy(a->etag, etag, sizeof(a->etag));
    if (range) {
        char *end;

        a->from = g_ascii_strtoull(range, &end, 10);
        a->partial = end != range && *end == '-';
        end = strchr(end, '/');
        a->size = end && g_ascii_isdigit(end[1]) ? g_ascii_strtoull(end + 1, NULL, 10) : UINT64_MAX;
    }
    return n;
}

/* ---- what goes */

static size_t give_body(char *to, size_t one, size_t room, void *opaque)
{
    Attempt *a = opaque;
    size_t n = MIN(room * one, a->call->length - a->sent);

    memcpy(to, (const char *)a->call->body + a->sent, n);
    a->sent += n;
    return n;
}

/* curl sends it once more when a connection that was kept has gone. */
static int rewind_body(void *opaque, curl_off_t offset, int origin)
{
    Attempt *a = opaque;

    if (origin != SEEK_SET || offset < 0 || (uint64_t)offset > a->call->length)
        return CURL_SEEKFUNC_FAIL;
    a->sent = (size_t)offset;
    return CURL_SEEKFUNC_OK;
}

static struct curl_slist *add_header(struct curl_slist *list, const char *name, const char *value)
{
    g_autofree char *line = value ? g_strconcat(name, ": ", value, NULL) : NULL;

    return line ? curl_slist_append(list, line) : list;
}

/* Of the body: part of what is signed, so that the server checks it. */
static struct curl_slist *add_hash(struct curl_slist *list, const S3Call *call)
{
    uint8_t hash[32];
    char hex[65];

    gnutls_hash_fast(GNUTLS_DIG_SHA256, call->body ? call->body : "", call->length, hash);
    for (unsigned i = 0; i < sizeof(hash); i++)
        g_snprintf(hex + 2 * i, 3, "%02x", hash[i]);
    return add_header(list, "x-amz-content-sha256", hex);
}

static struct curl_slist *headers(const S3 *s3, const S3Call *call)
{
    struct curl_slist *list = add_hash(NULL, call);
    g_autofree char *range = NULL;

    if (call->ranged)
        range = g_strdup_printf("bytes=%" PRIu64 "-%" PRIu64, call->offset,
                                call->offset + call->to_max - 1);
    list = add_header(list, "if-match", call->if_match);
    list = add_header(list, "if-none-match", call->if_none_match);
    list = add_header(list, "range", range);
    return add_header(list, "x-amz-security-token", s3->config.token);
}

static void set_body(CURL *curl, Attempt *a)
{
    S3Call *call = a->call;

    if (!strcmp(call->method, "PUT")) {
        curl_easy_setopt(curl, CURLOPT_UPLOAD, 1L);
        curl_easy_setopt(curl, CURLOPT_INFILESIZE_LARGE, (curl_off_t)call->length);
        curl_easy_setopt(curl, CURLOPT_READFUNCTION, give_body);
        curl_easy_setopt(curl, CURLOPT_READDATA, a);
        curl_easy_setopt(curl, CURLOPT_SEEKFUNCTION, rewind_body);
        curl_easy_setopt(curl, CURLOPT_SEEKDATA, a);
        curl_easy_setopt(curl, CURLOPT_EXPECT_100_TIMEOUT_MS, 500L);
    } else if (!strcmp(call->method, "POST")) {
        curl_easy_setopt(curl, CURLOPT_POST, 1L);
        curl_easy_setopt(curl, CURLOPT_POSTFIELDS, call->body ? call->body : "");
        curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)call->length);
    } else if (!strcmp(call->method, "HEAD")) {
        curl_easy_setopt(curl, CURLOPT_NOBODY, 1L);
    } else {
        curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, call->method);
    }
}

static void set_up(const S3 *s3, Attempt *a, const char *url, const char *scope,
                   struct curl_slist *list)
{
    CURL *curl = a->curl;

    curl_easy_reset(curl); /* it keeps its connections */
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(curl, CURLOPT_PATH_AS_IS, 1L);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_AWS_SIGV4, scope);
    curl_easy_setopt(curl, CURLOPT_USERNAME, s3->config.id);
    curl_easy_setopt(curl, CURLOPT_PASSWORD, s3->config.secret);
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, list);
    curl_easy_setopt(curl, CURLOPT_USERAGENT, "tidemark");
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take_body);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, a);
    curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, take_header);
    curl_easy_setopt(curl, CURLOPT_HEADERDATA, a);
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, (long)s3->config.timeout_s);
    curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, (long)s3->config.timeout_s);
    set_body(curl, a);
}

/* ---- errors */

static bool s3_fail(GError **error, S3ErrorCode code, const S3 *s3, const S3Call *call,
                    const char *what)
{
    g_set_error(error, S3_ERROR, (int)code, "%s of 's3://%s%s%s' at %s: %s%s", call->method,
                s3->bucket, call->key ? "/" : "", call->key ? call->key : "", s3->config.endpoint,
                what, call->tries > 1 ? ", and so did it before" : "");
    return false;
}

static S3ErrorCode code_of(long status)
{
    switch (status) {
    case 404:
        return S3_ERROR_NOT_FOUND;
    case 409: /* another conditional request was under way */
    case 412:
        return S3_ERROR_CONDITION;
    case 401:
    case 403:
        return S3_ERROR_DENIED;
    default:
        return S3_ERROR_FAILED;
    }
}

static bool fail_status(const S3 *s3, const S3Call *call, const GByteArray *answer, GError **error)
{
    g_autofree char *name = s3_xml_text(answer->data, answer->len, "Code");
    g_autofree char *text = s3_xml_text(answer->data, answer->len, "Message");
    g_autofree char *what = g_strdup_printf(
        "the server answered %ld%s%s%s%s%s", call->status, name ? " " : "", name ? name : "",
        text && *text ? " (" : "", text ? text : "", text && *text ? ")" : "");

    for (char *c = what; *c; c++)
        if (g_ascii_iscntrl(*c))
            *c = ' ';
    return s3_fail(error, code_of(call->status), s3, call, what);
}

/* Whether it may go better another time. */
static bool is_passing(CURLcode result, long status)
{
    switch (result) {
    case CURLE_OK:
        return status == 408 || status == 429 || status >= 500;
    case CURLE_UNSUPPORTED_PROTOCOL:
    case CURLE_URL_MALFORMAT:
    case CURLE_WRITE_ERROR: /* we refused what came */
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_OUT_OF_MEMORY:
        return false;
    default:
        return true;
    }
}

/* ---- an attempt */

static CURL *take_handle(S3 *s3)
{
    CURL *curl = NULL;

    pthread_mutex_lock(&s3->lock);
    if (s3->idle->len)
        curl = g_ptr_array_steal_index_fast(s3->idle, s3->idle->len - 1);
    pthread_mutex_unlock(&s3->lock);
    return curl ? curl : curl_easy_init();
}

static void give_handle(S3 *s3, CURL *curl)
{
    pthread_mutex_lock(&s3->lock);
    g_ptr_array_add(s3->idle, curl);
    pthread_mutex_unlock(&s3->lock);
}

/* That the answer is what was asked for. */
static const char *trouble(const Attempt *a)
{
    const S3Call *call = a->call;

    if (a->overflow)
        return "the server answered more than it was asked for";
    if (!call->ranged || call->status < 200 || call->status >= 300)
        return NULL;
    if (call->status == 200 && call->offset == 0 && call->got == call->to_max)
        return NULL; /* all of the object, which is that long */
    if (call->status != 206 || !a->partial || a->from != call->offset)
        return "the server answered another range than it was asked for";
    return call->got == call->to_max ? NULL : "the server answered less than it was asked for";
}

/* *again: it failed, but may go better another time. */
static bool attempt(S3 *s3, S3Call *call, const char *url, const char *scope,
                    struct curl_slist *list, bool *again, GError **error)
{
    Attempt a = { .call = call, .curl = take_handle(s3), .size = UINT64_MAX };
    char why[CURL_ERROR_SIZE] = "";
    curl_off_t length = -1;
    CURLcode result;
    bool ok = false;

    *again = false;
    if (!a.curl)
        return s3_fail(error, S3_ERROR_FAILED, s3, call, "there is not enough memory");
    a.answer = g_byte_array_new();
    call->got = 0;
    set_up(s3, &a, url, scope, list);
    curl_easy_setopt(a.curl, CURLOPT_ERRORBUFFER, why);
    result = curl_easy_perform(a.curl);
    call->status = 0;
    curl_easy_getinfo(a.curl, CURLINFO_RESPONSE_CODE, &call->status);
    curl_easy_getinfo(a.curl, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length);
    call->size = a.partial ? a.size : length >= 0 ? (uint64_t)length : UINT64_MAX;
    g_free(call->etag);
    call->etag = *a.etag ? g_strdup(a.etag) : NULL;
    if (result != CURLE_OK && !a.overflow)
        s3_fail(error, S3_ERROR_FAILED, s3, call, *why ? why : curl_easy_strerror(result));
    else if (trouble(&a))
        s3_fail(error, S3_ERROR_FAILED, s3, call, trouble(&a));
    else if (call->status < 200 || call->status >= 300)
        fail_status(s3, call, a.answer, error);
    else
        ok = true;
    *again = !ok && !a.overflow && is_passing(result, call->status);
    g_clear_pointer(&call->answer, g_byte_array_unref);
    call->answer = a.answer;
    curl_easy_setopt(a.curl, CURLOPT_ERRORBUFFER, NULL);
    give_handle(s3, a.curl);
    return ok;
}

static char *url_of(const S3 *s3, const S3Call *call)
{
    return g_strconcat(s3->config.endpoint, "/", s3->bucket, call->key ? "/" : "",
                       call->key ? call->key : "", call->query ? "?" : "",
                       call->query ? call->query : "", NULL);
}

/* Who asks may have lost the right to change anything meanwhile. */
static bool can_repeat(S3 *s3, const S3Call *call, GError **error)
{
    bool reads = !strcmp(call->method, "GET") || !strcmp(call->method, "HEAD");

    return reads || call->if_match || call->if_none_match || !s3->may_repeat ||
           s3->may_repeat(s3->guard, error);
}

bool s3_call(S3 *s3, S3Call *call, GError **error)
{
    g_autofree char *url = url_of(s3, call);
    g_autofree char *scope = g_strdup_printf("aws:amz:%s:s3", s3->config.region);
    struct curl_slist *list = NULL;
    gulong pause = PAUSE_US;
    bool ok = false, again = true;

    if (call->key && !s3_check_key(call->key, error))
        return false;
    list = headers(s3, call);
    for (call->tries = 1; again; call->tries++, pause = MIN(2 * pause, PAUSE_MAX)) {
        g_autoptr(GError) why = NULL;

        ok = attempt(s3, call, url, scope, list, &again, &why);
        if (ok || !again || call->tries == TRIES) {
            if (why)
                g_propagate_error(error, g_steal_pointer(&why));
            break;
        }
        g_usleep(pause / 2 + (gulong)g_random_int_range(0, (gint32)(pause / 2) + 1));
        again = can_repeat(s3, call, error);
    }
    curl_slist_free_all(list);
    return ok;
}

void s3_call_clear(S3Call *call)
{
    g_clear_pointer(&call->answer, g_byte_array_unref);
    g_clear_pointer(&call->etag, g_free);
}

/* ---- the client */

static bool check_bucket(const char *bucket, GError **error)
{
    const char *letters = "abcdefghijklmnopqrstuvwxyz0123456789-.";
    size_t n = strlen(bucket);

    return (n >= 3 && n <= 63 && strspn(bucket, letters) == n && g_ascii_isalnum(*bucket) &&
            g_ascii_isalnum(bucket[n - 1]) && !strstr(bucket, "..")) ||
           tm_error_set(error,
                        "'%s' is no name of a bucket: 3 to 63 lower-case letters, digits, '-' and "
                        "'.'",
                        bucket);
}

bool s3_check_key(const char *key, GError **error)
{
    g_auto(GStrv) parts = g_strsplit(key, "/", -1);
    bool ok = *key && strlen(key) <= S3_KEY_MAX;

    for (char **p = parts; ok && *p; p++) {
        ok = **p && strcmp(*p, ".") && strcmp(*p, "..");
        for (const char *c = *p; ok && *c; c++)
            ok = g_ascii_isalnum(*c) || *c == '.' || *c == '_' || *c == '-';
    }
    return ok || tm_error_set(error,
                              "'%s' can be no key of an object here: parts of letters, digits, "
                              "'.', '_' and '-', with '/' between them",
                              key);
}

static void begin_curl(void)
{
    curl_global_init(CURL_GLOBAL_DEFAULT);
}

S3 *s3_new(const char *bucket, const char *endpoint, const char *region, GError **error)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    S3 *s3;

    if (!check_bucket(bucket, error))
        return NULL;
    pthread_once(&once, begin_curl);
    s3 = g_new0(S3, 1);
    if (!s3_config_read(&s3->config, endpoint, region, error)) {
        g_free(s3);
        return NULL;
    }
    s3->bucket = g_strdup(bucket);
    s3->idle = g_ptr_array_new_with_free_func(curl_easy_cleanup);
    pthread_mutex_init(&s3->lock, NULL);
    return s3;
}

void s3_free(S3 *s3)
{
    if (!s3)
        return;
    g_ptr_array_unref(s3->idle);
    pthread_mutex_destroy(&s3->lock);
    s3_config_clear(&s3->config);
    g_free(s3->bucket);
    g_free(s3);
}

void s3_set_guard(S3 *s3, bool (*may_repeat)(void *opaque, GError **error), void *opaque)
{
    s3->may_repeat = may_repeat;
    s3->guard = opaque;
}

const char *s3_endpoint(const S3 *s3)
{
    return s3->config.endpoint;
}

const char *s3_region(const S3 *s3)
{
    return s3->config.region;
}
