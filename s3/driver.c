/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* s3/driver.c: the block driver "s3": the bytes of an object, read-only.
 *
 * They are read in pieces, some of which stay in memory: an image is read in small steps, and each
 * request to a server takes a while. Every request says which version of the object it is about:
 * one that was replaced meanwhile is an error. */
#include "s3/s3.h"
#include "util/range.h"
#include <errno.h>
#include <pthread.h>
#include <string.h>

#define PIECE  (UINT64_C(1) << 20)
#define PIECES 16u /* in memory, of each object */

static const struct tidemark_host *s3_host;

typedef enum { EMPTY, LOADING, READY } State;

typedef struct Piece {
    State state;
    uint64_t offset;
    uint64_t used; /* the greater, the later */
    unsigned readers;
    uint8_t *data; /* of PIECE bytes, or NULL */
} Piece;

typedef struct Disk {
    struct tidemark_node *node;
    S3 *s3;
    char *key, *etag;
    uint64_t size;
    pthread_mutex_t lock; /* guards what follows, but for the data of pieces */
    pthread_cond_t changed;
    uint64_t clock;
    Piece pieces[PIECES];
} Disk;

static void disk_close(void *handle)
{
    Disk *d = handle;

    for (unsigned i = 0; i < PIECES; i++)
        g_free(d->pieces[i].data);
    pthread_cond_destroy(&d->changed);
    pthread_mutex_destroy(&d->lock);
    s3_free(d->s3);
    g_free(d->key);
    g_free(d->etag);
    g_free(d);
}

static int errno_of(const GError *error)
{
    return g_error_matches(error, S3_ERROR, S3_ERROR_NOT_FOUND) ? -ENOENT
           : g_error_matches(error, S3_ERROR, S3_ERROR_DENIED)  ? -EACCES
                                                                : -EIO;
}

static int disk_open(struct tidemark_node *node, void **handle)
{
    g_autoptr(GError) error = NULL;
    Disk *d = g_new0(Disk, 1);
    int ret;

    d->node = node;
    pthread_mutex_init(&d->lock, NULL);
    pthread_cond_init(&d->changed, NULL);
    d->key = g_strdup(s3_host->option_string(node, "key"));
    d->s3 = s3_new(s3_host->option_string(node, "bucket"), s3_host->option_string(node, "endpoint"),
                   s3_host->option_string(node, "region"), &error);
    if (d->s3 && s3_head(d->s3, d->key, &d->size, &d->etag, &error)) {
        *handle = d;
        return 0;
    }
    s3_host->error(node, "%s", error->message);
    ret = d->s3 ? errno_of(error) : -EINVAL;
    disk_close(d);
    return ret;
}

static int disk_info(void *handle, struct tidemark_info *info)
{
    const Disk *d = handle;

    info->size = d->size;
    info->request_alignment = 1;
    info->preferred_block = (uint32_t)PIECE;
    info->allocated = d->size;
    info->flags = TIDEMARK_INFO_READ_ONLY;
    return 0;
}

/* ---- pieces; locked */

static Piece *find_piece(Disk *d, uint64_t offset)
{
    for (unsigned i = 0; i < PIECES; i++)
        if (d->pieces[i].state != EMPTY && d->pieces[i].offset == offset)
            return &d->pieces[i];
    return NULL;
}

/* One that nobody reads, for other data; NULL: all are in use. */
static Piece *free_piece(Disk *d)
{
    Piece *oldest = NULL;

    for (unsigned i = 0; i < PIECES; i++) {
        Piece *p = &d->pieces[i];

        if (p->state != LOADING && !p->readers && (!oldest || p->used < oldest->used))
            oldest = p;
    }
    return oldest;
}

/* Reads the piece, unlocked meanwhile. */
static int load(Disk *d, Piece *p, uint64_t offset)
{
    uint64_t length = tm_min(PIECE, d->size - offset);
    g_autoptr(GError) error = NULL;
    int ret = 0;

    p->state = LOADING;
    p->offset = offset;
    if (!p->data)
        p->data = g_try_malloc(PIECE);
    pthread_mutex_unlock(&d->lock);
    if (!p->data)
        ret = -ENOMEM;
    else if (!s3_read(d->s3, d->key, d->etag, offset, p->data, length, &error))
        ret = errno_of(error);
    if (error)
        s3_host->log(d->node, "%s", error->message);
    pthread_mutex_lock(&d->lock);
    p->state = ret == 0 ? READY : EMPTY;
    p->used = ret == 0 ? ++d->clock : 0;
    pthread_cond_broadcast(&d->changed);
    return ret;
}

/* The piece at @offset, with its data, and one more reader. 0 or -errno. */
static int take_piece(Disk *d, uint64_t offset, Piece **piece)
{
    int ret = 0;

    pthread_mutex_lock(&d->lock);
    for (;;) {
        Piece *p = find_piece(d, offset);

        if (p && p->state == READY) {
            p->readers++;
            p->used = ++d->clock;
            *piece = p;
            break;
        }
        p = p ? NULL : free_piece(d);
        if (!p)
            pthread_cond_wait(&d->changed, &d->lock);
        else if ((ret = load(d, p, offset)) < 0)
            break;
    }
    pthread_mutex_unlock(&d->lock);
    return ret;
}

static void give_piece(Disk *d, Piece *piece)
{
    pthread_mutex_lock(&d->lock);
    if (--piece->readers == 0)
        pthread_cond_broadcast(&d->changed);
    pthread_mutex_unlock(&d->lock);
}

static int disk_pread(void *handle, void *buf, uint64_t offset, uint64_t length, uint32_t flags)
{
    Disk *d = handle;
    uint8_t *to = buf;

    for (uint64_t n; length; offset += n, to += n, length -= n) {
        uint64_t start = tm_align_down(offset, PIECE);
        Piece *piece;
        int ret = take_piece(d, start, &piece);

        if (ret < 0)
            return ret;
        n = tm_min(length, start + PIECE - offset);
        memcpy(to, piece->data + (offset - start), n);
        give_piece(d, piece);
    }
    return 0;
}

static const struct tidemark_option disk_options[] = {
    { .name = "bucket", .type = TIDEMARK_OPTION_STRING, .required = 1, .help = "the bucket" },
    { .name = "key",
      .type = TIDEMARK_OPTION_STRING,
      .required = 1,
      .help = "the object, with '/' between the parts of its name" },
    { .name = "endpoint",
      .type = TIDEMARK_OPTION_STRING,
      .help = "the URL of the server (default: AWS_ENDPOINT_URL of the environment, else Amazon)" },
    { .name = "region",
      .type = TIDEMARK_OPTION_STRING,
      .help = "the region (default: AWS_REGION of the environment, else us-east-1)" },
    { .name = NULL },
};

static const struct tidemark_driver disk_driver = {
    .abi = TIDEMARK_ABI,
    .struct_size = sizeof(struct tidemark_driver),
    .name = "s3",
    .help = "an object in an S3 bucket, read-only",
    .options = disk_options,
    .open = disk_open,
    .close = disk_close,
    .get_info = disk_info,
    .pread = disk_pread,
};

const struct tidemark_driver *s3_driver_init(const struct tidemark_host *host)
{
    if (!s3_host) /* it is always the same one, and threads read it */
        s3_host = host;
    return &disk_driver;
}
