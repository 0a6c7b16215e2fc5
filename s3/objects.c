/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* s3/objects.c: whole objects and pieces of them. */
#include "s3/internal.h"
#include "util/range.h"
#include "util/sys.h"
#include <errno.h>
#include <string.h>

#define PIECE (UINT64_C(8) << 20) /* of a download at a time */

bool s3_head(S3 *s3, const char *key, uint64_t *size, char **etag, GError **error)
{
    g_auto(S3Call) call = { .method = "HEAD", .key = key };

    if (!s3_call(s3, &call, error))
        return false;
    if (call.size > INT64_MAX)
        return tm_error_set(error, "HEAD of 's3://%s/%s' at %s: the server does not say its size",
                            s3->bucket, key, s3->config.endpoint);
    if (size)
        *size = call.size;
    if (etag)
        *etag = g_steal_pointer(&call.etag);
    return true;
}

bool s3_get(S3 *s3, const char *key, size_t max, char **text, size_t *length, char **etag,
            GError **error)
{
    g_auto(S3Call) call = { .method = "GET", .key = key, .to_max = max };

    if (!s3_call(s3, &call, error))
        return false;
    *length = call.answer->len;
    g_byte_array_append(call.answer, (const guint8 *)"", 1);
    *text = (char *)g_byte_array_free(g_steal_pointer(&call.answer), FALSE);
    if (etag)
        *etag = g_steal_pointer(&call.etag);
    return true;
}

bool s3_read(S3 *s3, const char *key, const char *etag, uint64_t offset, void *buf, size_t length,
             GError **error)
{
    g_auto(S3Call) call = { .method = "GET",
                            .key = key,
                            .if_match = etag,
                            .ranged = true,
                            .offset = offset,
                            .to = buf,
                            .to_max = length };

    return length == 0 || s3_call(s3, &call, error);
}

bool s3_download(S3 *s3, const char *key, int fd, uint64_t max, GError **error)
{
    g_autofree char *etag = NULL, *piece = g_try_malloc(PIECE);
    uint64_t size, n;
    int ret = 0;

    if (!piece)
        return tm_error_set(error, "there is not enough memory to read 's3://%s/%s'", s3->bucket,
                            key);
    if (!s3_head(s3, key, &size, &etag, error))
        return false;
    if (size > max)
        return tm_error_set(error,
                            "Unable to read 's3://%s/%s': it has %" PRIu64
                            " bytes, expected at most %" PRIu64,
                            s3->bucket, key, size, max);
    for (uint64_t at = 0; at < size && ret == 0; at += n) {
        n = tm_min(PIECE, size - at);
        if (!s3_read(s3, key, etag, at, piece, n, error))
            return false;
        ret = tm_write_all(&tm_sys_kernel, fd, piece, n, at);
    }
    return ret == 0 || tm_error_set_errno(error, -ret, "Could not keep a copy of 's3://%s/%s'",
                                          s3->bucket, key);
}

/* Whether it was this call that wrote it, and only the answer was lost: then it was repeated, by
 * s3_call() or by libcurl itself, which does so where a connection that was kept has gone. */
static bool is_ours(S3 *s3, const char *key, const void *data, size_t length, char **etag)
{
    g_autofree char *text = NULL;
    size_t n;

    return s3_get(s3, key, length, &text, &n, etag, NULL) && n == length &&
           !memcmp(text, data, length);
}

static bool put(S3 *s3, S3Call *call, GError **error)
{
    g_autoptr(GError) why = NULL;

    if (s3_call(s3, call, &why))
        return true;
    if (g_error_matches(why, S3_ERROR, S3_ERROR_CONDITION)) {
        g_clear_pointer(&call->etag, g_free);
        if (is_ours(s3, call->key, call->body, call->length, &call->etag))
            return true;
    }
    g_propagate_error(error, g_steal_pointer(&why));
    return false;
}

/* Ceph compares what it is sent without the quotes of its own answers; others want these. */
static bool put_matching(S3 *s3, S3Call *call, const char *etag, GError **error)
{
    g_autofree char *bare = g_strdup(etag), *quoted = NULL;
    g_autoptr(GError) why = NULL;

    g_strdelimit(bare, "\"", ' ');
    g_strstrip(bare);
    call->if_match = bare;
    if (put(s3, call, &why))
        return true;
    if (g_error_matches(why, S3_ERROR, S3_ERROR_CONDITION)) {
        g_clear_error(&why);
        quoted = g_strdup_printf("\"%s\"", bare);
        call->if_match = quoted;
        s3_call_clear(call);
        if (put(s3, call, &why))
            return true;
    }
    g_propagate_error(error, g_steal_pointer(&why));
    return false;
}

bool s3_put(S3 *s3, const char *key, const void *data, size_t length, S3Condition condition,
            const char *etag, char **new_etag, GError **error)
{
    g_auto(S3Call) call = { .method = "PUT", .key = key, .body = data, .length = length };

    call.if_none_match = condition == S3_IF_ABSENT ? "*" : NULL;
    if (!(condition == S3_IF_MATCH ? put_matching(s3, &call, etag, error) : put(s3, &call, error)))
        return false;
    if (new_etag)
        *new_etag = g_steal_pointer(&call.etag);
    return true;
}

static bool remove_it(S3 *s3, const char *key, const char *query, GError **error)
{
    g_auto(S3Call) call = { .method = "DELETE", .key = key, .query = query };
    g_autoptr(GError) why = NULL;

    if (s3_call(s3, &call, &why) || g_error_matches(why, S3_ERROR, S3_ERROR_NOT_FOUND))
        return true;
    g_propagate_error(error, g_steal_pointer(&why));
    return false;
}

bool s3_delete(S3 *s3, const char *key, GError **error)
{
    return remove_it(s3, key, NULL, error);
}

bool s3_abort_upload(S3 *s3, const char *key, const char *upload, GError **error)
{
    g_autofree char *id = s3_encode(upload), *query = g_strconcat("uploadId=", id, NULL);

    return remove_it(s3, key, query, error);
}
