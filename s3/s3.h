/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* s3/s3.h: a client of object stores that speak the protocol of Amazon S3, on libcurl.
 *
 * Every request is signed with AWS Signature Version 4, and the SHA-256 of what is sent is part of
 * that: the server refuses what was damaged on the way. A request that fails by a lost connection,
 * a timeout or the server's own fault (408, 429, 5xx) is repeated, after pauses that grow. What the
 * server answers is bounded: in length, and in the number of names.
 *
 * Keys have letters, digits, '.', '_', '-' and '/' only: what is longer than S3_KEY_MAX or has
 * anything else is refused. Errors are of S3_ERROR, and name the request, the endpoint and the
 * server's code. Threads: any, several at once, but for s3_new() and s3_free(). */
#pragma once
#include "include/tidemark/driver.h"
#include "util/error.h"
#include <inttypes.h>

#define S3_KEY_MAX  1024u
#define S3_NAME_MAX 1000000u /* names that a listing may have */

#define S3_ERROR s3_error_quark()
GQuark s3_error_quark(void);
typedef enum {
    S3_ERROR_FAILED,
    S3_ERROR_NOT_FOUND, /* there is no such bucket, object or upload */
    S3_ERROR_CONDITION, /* the condition of the request does not hold */
    S3_ERROR_DENIED,    /* the credentials don't allow it, or are wrong */
} S3ErrorCode;

typedef struct S3 S3;

/* The bucket with the endpoint, region and credentials of the environment (tidemark-backup(1)).
 * @endpoint, @region: instead of those of the environment, or NULL. Asks the server nothing. */
S3 *s3_new(const char *bucket, const char *endpoint, const char *region, GError **error);
void s3_free(S3 *s3);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(S3, s3_free)
const char *s3_endpoint(const S3 *s3); /* a URL; borrowed */
const char *s3_region(const S3 *s3);   /* borrowed */
bool s3_check_key(const char *key, GError **error);
/* @may_repeat is asked before a request that changes objects, and has no condition, is repeated;
 * false with an error: it fails with that. By any thread. @opaque is borrowed. */
void s3_set_guard(S3 *s3, bool (*may_repeat)(void *opaque, GError **error), void *opaque);

/* Any of these may be NULL. The ETag is returned (g_free). */
bool s3_head(S3 *s3, const char *key, uint64_t *size, char **etag, GError **error);
/* All of an object of at most @max bytes; *text (returned) ends in a NUL that *length excludes. */
bool s3_get(S3 *s3, const char *key, size_t max, char **text, size_t *length, char **etag,
            GError **error);
/* Exactly these bytes of an object, which still has @etag; NULL: whatever it has. */
bool s3_read(S3 *s3, const char *key, const char *etag, uint64_t offset, void *buf, size_t length,
             GError **error);

typedef enum {
    S3_ALWAYS,
    S3_IF_ABSENT, /* there is no such object */
    S3_IF_MATCH,  /* it has that ETag */
} S3Condition;

/* Writes a whole object. A condition that does not hold is S3_ERROR_CONDITION. It holds if it was
 * this call that made the object, though its answer was lost; so @data of calls with conditions
 * must differ. *new_etag (returned) may be NULL. */
bool s3_put(S3 *s3, const char *key, const void *data, size_t length, S3Condition condition,
            const char *etag, char **new_etag, GError **error);
/* What is not there is no error. */
bool s3_delete(S3 *s3, const char *key, GError **error);

typedef struct S3Object {
    char *key;
    uint64_t size; /* bytes */
    char *upload;  /* of s3_list_uploads() */
} S3Object;

/* What begins with @prefix, in the order of keys: S3Object, returned. Names that can be none of
 * ours (s3_check_key()) are included. */
GPtrArray *s3_list(S3 *s3, const char *prefix, GError **error);
/* Uploads in parts that have neither ended nor been aborted. */
GPtrArray *s3_list_uploads(S3 *s3, const char *prefix, GError **error);
bool s3_abort_upload(S3 *s3, const char *key, const char *upload, GError **error);

/* Writes an object of @size bytes from a file, in parts and by several threads if it is large. The
 * bytes that the server has are added to *sent (NULL: to nothing) as they go. On failure nothing is
 * left, unless the server can't be reached any more. */
bool s3_upload(S3 *s3, const char *key, int fd, uint64_t size, _Atomic(uint64_t) *sent,
               GError **error);
/* Writes all of an object of at most @max bytes to a file that is empty. */
bool s3_download(S3 *s3, const char *key, int fd, uint64_t max, GError **error);

/* The block driver "s3", which reads an object; NULL: not supported. */
const struct tidemark_driver *s3_driver_init(const struct tidemark_host *host);
