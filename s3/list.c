/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* s3/list.c: answers in XML: lists of objects and uploads, page by page. */
#include "s3/internal.h"
#include "util/range.h"
#include <string.h>

#define PAGE_MAX (UINT64_C(16) << 20) /* bytes of one answer */

/* ---- pages */

typedef struct Listing {
    const char *row;
    const char *names[2]; /* as S3Reading */
    /* The query of a page. Returned. */
    char *(*query)(const char *prefix, char *const markers[2]);
    bool encoded;
} Listing;

static bool read_page(S3 *s3, const Listing *listing, const char *prefix, S3Reading *r,
                      GError **error)
{
    g_autofree char *query = listing->query(prefix, r->markers);
    g_auto(S3Call) call = { .method = "GET", .query = query, .to_max = PAGE_MAX };
    g_autoptr(GError) why = NULL;

    if (!s3_call(s3, &call, error))
        return false;
    g_clear_pointer(&r->markers[0], g_free);
    g_clear_pointer(&r->markers[1], g_free);
    r->more = r->has_more = false;
    if (!s3_xml_read(r, call.answer->data, call.answer->len, &why) || !r->has_more)
        return tm_error_set(error, "the list of 's3://%s' from %s is invalid: %s", s3->bucket,
                            s3->config.endpoint, why ? why->message : "it has no IsTruncated");
    return !r->more || (r->markers[0] && *r->markers[0]) ||
           tm_error_set(error,
                        "the list of 's3://%s' from %s is invalid: it does not say where "
                        "it goes on",
                        s3->bucket, s3->config.endpoint);
}

static GPtrArray *read_pages(S3 *s3, const Listing *listing, const char *prefix, GError **error)
{
    g_autoptr(GPtrArray) rows = g_ptr_array_new_with_free_func(s3_object_free);
    S3Reading r = { .row = listing->row, .rows = rows, .encoded = listing->encoded };
    bool ok;

    memcpy(r.names, listing->names, sizeof(r.names));
    do {
        guint had = rows->len;

        ok = read_page(s3, listing, prefix, &r, error);
        if (ok && r.more && (rows->len == had || rows->len >= S3_NAME_MAX))
            ok = tm_error_set(error, "the list of 's3://%s' from %s is invalid: it %s", s3->bucket,
                              s3->config.endpoint,
                              rows->len == had ? "has an empty page" : "has too many names");
    } while (ok && r.more);
    g_free(r.markers[0]);
    g_free(r.markers[1]);
    return ok ? g_steal_pointer(&rows) : NULL;
}

static char *objects_query(const char *prefix, char *const markers[2])
{
    g_autofree char *begin = s3_encode(prefix);
    g_autofree char *token = markers[0] ? s3_encode(markers[0]) : NULL;

    return g_strconcat(token ? "continuation-token=" : "", token ? token : "", token ? "&" : "",
                       "encoding-type=url&list-type=2&max-keys=1000&prefix=", begin, NULL);
}

static char *uploads_query(const char *prefix, char *const markers[2])
{
    g_autofree char *begin = s3_encode(prefix);
    g_autofree char *key = markers[0] ? s3_encode(markers[0]) : NULL;
    g_autofree char *id = markers[1] ? s3_encode(markers[1]) : NULL;

    return g_strconcat(key ? "key-marker=" : "", key ? key : "", key ? "&" : "",
                       "max-uploads=1000&prefix=", begin, id ? "&upload-id-marker=" : "",
                       id ? id : "", "&uploads=", NULL);
}

GPtrArray *s3_list(S3 *s3, const char *prefix, GError **error)
{
    static const Listing listing = { .row = "Contents",
                                     .names = { "NextContinuationToken" },
                                     .query = objects_query,
                                     .encoded = true };

    return read_pages(s3, &listing, prefix, error);
}

GPtrArray *s3_list_uploads(S3 *s3, const char *prefix, GError **error)
{
    static const Listing listing = { .row = "Upload",
                                     .names = { "NextKeyMarker", "NextUploadIdMarker" },
                                     .query = uploads_query };

    return read_pages(s3, &listing, prefix, error);
}
