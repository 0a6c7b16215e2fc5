/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* s3/internal.h: what the files of the client share: one request, with its repetitions.
 *
 * Threads: as s3.h. */
#pragma once
#include "s3/s3.h"
#include <pthread.h>

typedef struct S3Config {
    char *endpoint; /* without a '/' at the end */
    char *region, *id, *secret;
    char *token;        /* or NULL */
    unsigned timeout_s; /* that a server may say nothing for */
} S3Config;

/* credentials.c: from the environment and the file of credentials. Cleared on failure, too. */
bool s3_config_read(S3Config *config, const char *endpoint, const char *region, GError **error);
void s3_config_clear(S3Config *config);

struct S3 {
    char *bucket;
    S3Config config;
    pthread_mutex_t lock;                            /* guards idle */
    GPtrArray *idle;                                 /* CURL, with their connections */
    bool (*may_repeat)(void *guard, GError **error); /* s3_set_guard(), or NULL */
    void *guard;
};

typedef struct S3Call {
    const char *method;
    const char *key;   /* NULL: the bucket */
    const char *query; /* in the order of names, encoded, each with '='; or NULL */
    const char *if_match, *if_none_match;
    bool ranged; /* with offset; to_max bytes, exactly */
    uint64_t offset;
    const void *body;
    size_t length;
    void *to; /* where the answer goes, or NULL: to @answer */
    size_t to_max;

    /* The answer */
    GByteArray *answer; /* at most to_max bytes, or NULL */
    long status;
    size_t got;
    uint64_t size; /* of the object; UINT64_MAX: not said */
    char *etag;
    unsigned tries;
} S3Call;

/* 2xx, or an error. */
bool s3_call(S3 *s3, S3Call *call, GError **error);
void s3_call_clear(S3Call *call);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(S3Call, s3_call_clear)

/* ---- xml.c */

/* What is read, and what for. All zeroes at first, but for what is set. */
typedef struct S3Reading {
    GString *text;   /* of the element that is open */
    const char *row; /* the element that is an object or an upload */
    GPtrArray *rows; /* S3Object */
    S3Object *open;
    char *markers[2];     /* where the next page begins */
    const char *names[2]; /* of the elements that say so */
    bool more, has_more, encoded;
    const char *wanted; /* or the text of the first one of that name */
    char *found;
    unsigned depth;
} S3Reading;

/* One answer, or one page of several, whose rows are added. */
bool s3_xml_read(S3Reading *reading, const void *xml, size_t length, GError **error);
void s3_object_free(void *object);
/* The text of the first element @name of an answer; NULL: it has none, or is no XML. Returned. */
char *s3_xml_text(const void *xml, size_t length, const char *name);
/* As in a query. Returned. */
char *s3_encode(const char *text);
