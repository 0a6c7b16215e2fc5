/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* s3/upload.c: large objects, in parts. Until the last request, nobody sees anything of it. */
#include "s3/internal.h"
#include "util/range.h"
#include "util/sync.h"
#include "util/sys.h"
#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#define PART      (UINT64_C(8) << 20)
#define PARTS_MAX UINT64_C(10000) /* that servers take */
#define THREADS   4u

typedef struct Upload {
    S3 *s3;
    const char *key;
    int fd;
    uint64_t size, part, n; /* bytes, bytes of a part, parts */
    char *id;               /* as in a query */
    _Atomic(uint64_t) *sent;
    pthread_mutex_t lock; /* guards what follows */
    uint64_t next;
    char **etags;
    GError *failure;
} Upload;

/* Returned; NULL and the error. */
static char *read_part(const Upload *u, uint64_t offset, uint64_t length, GError **error)
{
    g_autofree char *buf = g_try_malloc(MAX(length, 1));
    uint64_t done = 0;
    int ret = buf ? tm_read_all(&tm_sys_kernel, u->fd, buf, length, offset, &done) : -ENOMEM;

    if (ret == 0 && done == length)
        return g_steal_pointer(&buf);
    tm_error_set_errno(error, ret < 0 ? -ret : EIO, "Could not read what becomes 's3://%s/%s'",
                       u->s3->bucket, u->key);
    return NULL;
}

static void count(const Upload *u, uint64_t bytes)
{
    if (u->sent)
        atomic_fetch_add(u->sent, bytes);
}

static bool send_part(Upload *u, uint64_t number, GError **error)
{
    uint64_t offset = number * u->part, length = tm_min(u->part, u->size - offset);
    g_autofree char *buf = read_part(u, offset, length, error);
    g_autofree char *query =
        g_strdup_printf("partNumber=%" PRIu64 "&uploadId=%s", number + 1, u->id);
    g_auto(S3Call)
        call = { .method = "PUT", .key = u->key, .query = query, .body = buf, .length = length };

    if (!buf || !s3_call(u->s3, &call, error))
        return false;
    if (!call.etag)
        return tm_error_set(error, "PUT of 's3://%s/%s' at %s: the answer has no ETag",
                            u->s3->bucket, u->key, u->s3->config.endpoint);
    u->etags[number] = g_steal_pointer(&call.etag); /* each by one thread */
    count(u, length);
    return true;
}

/* The next part, or UINT64_MAX. */
static uint64_t next_part(Upload *u)
{
    TM_GUARD(&u->lock);

    return u->next < u->n && !u->failure ? u->next++ : UINT64_MAX;
}

static void *send_parts(void *opaque)
{
    Upload *u = opaque;
    uint64_t number;

    while ((number = next_part(u)) != UINT64_MAX) {
        GError *why = NULL;

        if (send_part(u, number, &why))
            continue;
        pthread_mutex_lock(&u->lock);
        if (u->failure)
            g_error_free(why);
        else
            u->failure = why;
        pthread_mutex_unlock(&u->lock);
    }
    return NULL;
}

static bool send_all(Upload *u, GError **error)
{
    pthread_t threads[THREADS];
    unsigned n = 0;

    while (n + 1 < THREADS && n + 1 < u->n && !pthread_create(&threads[n], NULL, send_parts, u))
        n++;
    send_parts(u);
    while (n--)
        pthread_join(threads[n], NULL);
    if (!u->failure)
        return true;
    g_propagate_error(error, g_steal_pointer(&u->failure));
    return false;
}

static bool begin(Upload *u, GError **error)
{
    g_auto(S3Call)
        call = { .method = "POST", .key = u->key, .query = "uploads=", .to_max = 64u << 10 };
    g_autofree char *id = NULL;

    if (!s3_call(u->s3, &call, error))
        return false;
    id = s3_xml_text(call.answer->data, call.answer->len, "UploadId");
    if (!id || !*id)
        return tm_error_set(error, "POST of 's3://%s/%s' at %s: the answer has no UploadId",
                            u->s3->bucket, u->key, u->s3->config.endpoint);
    u->id = s3_encode(id);
    return true;
}

/* Whether it has ended, and only the answer was lost: of parts, and as long as it should be. */
static bool has_ended(const Upload *u)
{
    g_autofree char *etag = NULL, *parts = g_strdup_printf("-%" PRIu64, u->n);
    uint64_t size;

    return s3_head(u->s3, u->key, &size, &etag, NULL) && size == u->size && etag &&
           strstr(etag, parts);
}

static char *list_of_parts(const Upload *u)
{
    GString *xml = g_string_new("<CompleteMultipartUpload>");

    for (uint64_t i = 0; i < u->n; i++) {
        g_autofree char *etag = g_markup_escape_text(u->etags[i], -1);

        g_string_append_printf(
            xml, "<Part><PartNumber>%" PRIu64 "</PartNumber><ETag>%s</ETag></Part>", i + 1, etag);
    }
    return g_string_free(g_string_append(xml, "</CompleteMultipartUpload>"), FALSE);
}

/* A server may answer 200 before it knows, and then that it failed. */
static bool finish(Upload *u, GError **error)
{
    g_autofree char *xml = list_of_parts(u), *query = g_strconcat("uploadId=", u->id, NULL);
    g_autofree char *etag = NULL, *code = NULL;
    g_auto(S3Call) call = { .method = "POST",
                            .key = u->key,
                            .query = query,
                            .body = xml,
                            .length = strlen(xml),
                            .to_max = 64u << 10 };
    g_autoptr(GError) why = NULL;

    if (!s3_call(u->s3, &call, &why)) {
        if (g_error_matches(why, S3_ERROR, S3_ERROR_NOT_FOUND) && has_ended(u))
            return true; /* an attempt before, ours or one of libcurl's own, did */
        g_propagate_error(error, g_steal_pointer(&why));
        return false;
    }
    etag = s3_xml_text(call.answer->data, call.answer->len, "ETag");
    code = s3_xml_text(call.answer->data, call.answer->len, "Code");
    return etag || has_ended(u) ||
           tm_error_set(error, "POST of 's3://%s/%s' at %s: the parts could not be joined: %s",
                        u->s3->bucket, u->key, u->s3->config.endpoint, code ? code : "no ETag");
}

static bool in_parts(Upload *u, GError **error)
{
    bool ok = begin(u, error) && send_all(u, error) && finish(u, error);

    if (!ok && u->id) {
        g_autofree char *query = g_strconcat("uploadId=", u->id, NULL);
        g_auto(S3Call) call = { .method = "DELETE", .key = u->key, .query = query };

        s3_call(u->s3, &call, NULL); /* else whoever writes next does */
    }
    return ok;
}

static uint64_t part_size(uint64_t size)
{
    return tm_max(PART, tm_align_up(size / PARTS_MAX + 1, UINT64_C(1) << 20));
}

bool s3_upload(S3 *s3, const char *key, int fd, uint64_t size, _Atomic(uint64_t) *sent,
               GError **error)
{
    Upload u = {
        .s3 = s3, .key = key, .fd = fd, .size = size, .part = part_size(size), .sent = sent
    };
    g_autofree char *buf = NULL;
    bool ok;

    if (size <= u.part) {
        buf = read_part(&u, 0, size, error);
        ok = buf && s3_put(s3, key, buf, size, S3_ALWAYS, NULL, NULL, error);
        if (ok)
            count(&u, size);
        return ok;
    }
    pthread_mutex_init(&u.lock, NULL);
    u.n = (size + u.part - 1) / u.part;
    u.etags = g_new0(char *, u.n + 1);
    ok = in_parts(&u, error);
    for (uint64_t i = 0; i < u.n; i++)
        g_free(u.etags[i]);
    g_free(u.etags);
    g_free(u.id);
    g_clear_error(&u.failure);
    pthread_mutex_destroy(&u.lock);
    return ok;
}
