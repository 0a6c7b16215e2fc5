/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/bucket.c: repositories in buckets of S3, "s3://BUCKET/PREFIX".
 *
 * The objects are called as the files of a directory are. What is listed is kept: whoever has the
 * lock is the only one who changes anything. Images are never changed: the files of a point are
 * written on this machine, and go to the bucket when they are whole. */
#include "client/repository/bucket.h"
#include "client/repository/manifest.h"
#include "util/json.h"
#include "util/log.h"
#include "util/range.h"
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define SCHEME   "s3://"
#define HEAD_MAX (UINT64_C(128) << 10) /* of an image: the header and its extensions */
#define HASHES   64u                   /* of a file of hashes: its header */
#define PER_RUN  (24u + TC_HASH_SIZE)

/* ---- names */

/* What @path is in the bucket. Borrowed from @path. */
static const char *key_of(const TcRepository *repo, const char *path)
{
    return path + strlen(SCHEME) + strlen(repo->bucket->bucket) + 1;
}

/* After the prefix. Borrowed. */
static const char *name_of(const TcRepository *repo, const char *path)
{
    return strlen(path) <= strlen(repo->path) ? "" : path + strlen(repo->path) + 1;
}

/* Of "s3://BUCKET/PREFIX"; the prefix is "" or ends in '/'. Both are returned. */
static bool split(const char *path, char **bucket, char **prefix, GError **error)
{
    const char *name = path + strlen(SCHEME), *slash = strchr(name, '/');
    g_autofree char *rest = g_strdup(slash ? slash + 1 : "");

    for (size_t n = strlen(rest); n && rest[n - 1] == '/'; n--)
        rest[n - 1] = '\0';
    if (*rest && !s3_check_key(rest, error))
        return false;
    *bucket = slash ? g_strndup(name, (gsize)(slash - name)) : g_strdup(name);
    *prefix = *rest ? g_strconcat(rest, "/", NULL) : g_steal_pointer(&rest);
    return true;
}

static struct TcBucket *bucket_new(const char *path, GError **error)
{
    struct TcBucket *b = g_new0(struct TcBucket, 1);

    b->spool_fd = -1;
    b->objects = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    if (split(path, &b->bucket, &b->prefix, error))
        b->s3 = s3_new(b->bucket, NULL, NULL, error);
    if (b->s3) {
        g_autofree char *key = g_strconcat(b->prefix, TC_REPO_LOCK, NULL);

        tc_bucket_lock_init(&b->lock, b->s3, key);
    }
    return b;
}

static void bucket_free(struct TcBucket *b)
{
    if (b->s3)
        tc_bucket_lock_clear(&b->lock);
    s3_free(b->s3);
    tc_spool_free(b->spool, b->spool_fd);
    g_hash_table_unref(b->objects);
    g_free(b->bucket);
    g_free(b->prefix);
    g_free(b);
}

/* ---- what there is */

static void remember(struct TcBucket *b, const char *name, uint64_t size)
{
    g_hash_table_replace(b->objects, g_strdup(name), g_memdup2(&size, sizeof(size)));
}

static bool refresh(const TcRepository *repo, GError **error)
{
    struct TcBucket *b = repo->bucket;
    g_autoptr(GPtrArray) list = s3_list(b->s3, b->prefix, error);

    if (!list)
        return false;
    g_hash_table_remove_all(b->objects);
    for (guint i = 0; i < list->len; i++) {
        const S3Object *o = list->pdata[i];

        if (g_str_has_prefix(o->key, b->prefix) && o->key[strlen(b->prefix)])
            remember(b, o->key + strlen(b->prefix), o->size);
    }
    return true;
}

/* Whether @name is a directory, so to say: something's name begins with it. */
static bool has_below(const struct TcBucket *b, const char *name)
{
    size_t n = strlen(name);
    GHashTableIter iter;
    gpointer key;

    g_hash_table_iter_init(&iter, b->objects);
    while (g_hash_table_iter_next(&iter, &key, NULL))
        if (!strncmp(key, name, n) && ((char *)key)[n] == '/')
            return true;
    return false;
}

static bool is_directory(const TcRepository *repo, const char *path)
{
    return has_below(repo->bucket, name_of(repo, path));
}

static bool exists(const TcRepository *repo, const char *path)
{
    const char *name = name_of(repo, path);

    return g_hash_table_contains(repo->bucket->objects, name) || has_below(repo->bucket, name);
}

static uint64_t occupied(const TcRepository *repo, const char *path)
{
    const uint64_t *size = g_hash_table_lookup(repo->bucket->objects, name_of(repo, path));

    return size ? *size : UINT64_MAX;
}

/* The names in the repository are read anew, as they are when a lock has just been taken. */
static GPtrArray *list(const TcRepository *repo, const char *path, GError **error)
{
    const char *in = name_of(repo, path);
    g_autoptr(GHashTable) seen = g_hash_table_new(g_str_hash, g_str_equal);
    g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);
    size_t n = *in ? strlen(in) + 1 : 0;
    GHashTableIter iter;
    gpointer key;

    if (!*in && !refresh(repo, error))
        return NULL;
    g_hash_table_iter_init(&iter, repo->bucket->objects);
    while (g_hash_table_iter_next(&iter, &key, NULL)) {
        const char *name = key, *slash;
        char *own;

        if (n && (strncmp(name, in, n - 1) || name[n - 1] != '/'))
            continue;
        slash = n ? NULL : strchr(name, '/');
        own = slash ? g_strndup(name, (gsize)(slash - name)) : g_strdup(name + n);
        if (g_hash_table_contains(seen, own)) {
            g_free(own);
        } else {
            g_hash_table_add(seen, own);
            g_ptr_array_add(names, own);
        }
    }
    return g_steal_pointer(&names);
}

/* ---- errors */

/* What is not there is damage; @why is taken. Always false. */
static bool not_read(const char *path, GError *why, GError **error)
{
    if (!g_error_matches(why, S3_ERROR, S3_ERROR_NOT_FOUND)) {
        g_propagate_error(error, why);
        return false;
    }
    g_error_free(why);
    return tc_repo_error_set(error, TC_REPO_ERROR_DAMAGED, "'%s' is not there", path);
}

/* ---- the repository as a whole */

static bool is(const char *path)
{
    g_autoptr(GError) error = NULL;
    struct TcBucket *b = bucket_new(path, NULL);
    g_autofree char *key = g_strconcat(b->prefix ? b->prefix : "", TC_REPO_FILE, NULL);
    bool not_there = b->s3 && !s3_head(b->s3, key, NULL, NULL, &error) &&
                     g_error_matches(error, S3_ERROR, S3_ERROR_NOT_FOUND);

    bucket_free(b);
    return !not_there; /* else opening it reports the reason */
}

static bool prepare(TcRepository *repo, bool create, GError **error)
{
    g_autoptr(GError) why = NULL;

    repo->bucket = bucket_new(repo->path, error);
    if (!repo->bucket->s3)
        return false;
    if (refresh(repo, &why))
        return true;
    if (g_error_matches(why, S3_ERROR, S3_ERROR_NOT_FOUND))
        return tm_error_set(error, "there is no bucket '%s' at %s", repo->bucket->bucket,
                            s3_endpoint(repo->bucket->s3));
    g_propagate_error(error, g_steal_pointer(&why));
    return false;
}

static bool is_empty(const TcRepository *repo, GError **error)
{
    GHashTableIter iter;
    gpointer key;

    g_hash_table_iter_init(&iter, repo->bucket->objects);
    while (g_hash_table_iter_next(&iter, &key, NULL))
        if (strcmp(key, TC_REPO_LOCK))
            return tm_error_set(error,
                                "'%s' is neither a repository nor empty: it has '%s' and "
                                "no " TC_REPO_FILE,
                                repo->path, (char *)key);
    return true;
}

static void close_bucket(TcRepository *repo)
{
    if (repo->bucket)
        bucket_free(repo->bucket);
    repo->bucket = NULL;
}

/* ---- locks: who reads takes none, as it may have no right to write */

/* Whether a key is that of a file of a point here. Another repository may begin with our prefix. */
static bool is_of_point(const struct TcBucket *b, const char *key)
{
    const char *slash =
        g_str_has_prefix(key, b->prefix) ? strchr(key + strlen(b->prefix), '/') : NULL;

    return slash && tc_repo_is_own_file(slash + 1);
}

/* What a writer that was interrupted had begun to send. */
static void abort_uploads(const TcRepository *repo)
{
    struct TcBucket *b = repo->bucket;
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) uploads = s3_list_uploads(b->s3, b->prefix, &error);

    for (guint i = 0; uploads && !error && i < uploads->len; i++) {
        const S3Object *o = uploads->pdata[i];

        if (is_of_point(b, o->key) && o->upload)
            s3_abort_upload(b->s3, o->key, o->upload, &error);
    }
    if (error)
        tm_log(TM_LOG_WARNING, "uploads that were interrupted may be left: %s", error->message);
}

static bool is_still_ours(void *opaque, GError **error)
{
    TcRepository *repo = opaque;

    return tc_bucket_lock_check(&repo->bucket->lock, repo, true, error);
}

static bool lock(TcRepository *repo, const TcRepoOptions *options, GError **error)
{
    if (repo->use == TC_REPO_LIST || repo->use == TC_REPO_READ)
        return true;
    if (!tc_bucket_lock_take(&repo->bucket->lock, repo, options, error) || !refresh(repo, error))
        return false;
    s3_set_guard(repo->bucket->s3, is_still_ours, repo);
    abort_uploads(repo);
    return true;
}

static void unlock(TcRepository *repo)
{
    /* close_bucket() does */
}

/* Only merges need it. */
static bool relock(TcRepository *repo, TcRepoUse use)
{
    return use == repo->use;
}

static bool is_written(const TcRepository *repo)
{
    return repo->bucket->lock.running || tc_bucket_lock_is_held(&repo->bucket->lock);
}

static char *tag(const TcRepository *repo)
{
    g_autofree char *text = g_strconcat(s3_endpoint(repo->bucket->s3), " ", repo->path, NULL);
    uint8_t hash[TC_HASH_SIZE];
    char hex[2 * TC_HASH_SIZE + 1];

    tc_hash(text, strlen(text), hash);
    tc_hash_text(hash, hex);
    return g_strndup(hex, 8);
}

/* ---- small files */

static bool read_file(const TcRepository *repo, const char *path, size_t max, char **text,
                      size_t *length, GError **error)
{
    GError *why = NULL;

    if (!g_hash_table_contains(repo->bucket->objects, name_of(repo, path)))
        return tc_repo_error_set(error, TC_REPO_ERROR_DAMAGED, "'%s' is not there", path);
    return s3_get(repo->bucket->s3, key_of(repo, path), max, text, length, NULL, &why) ||
           not_read(path, why, error);
}

static bool put(const TcRepository *repo, const char *path, const char *text, GError **error)
{
    if (!s3_put(repo->bucket->s3, key_of(repo, path), text, strlen(text), S3_ALWAYS, NULL, NULL,
                error))
        return false;
    remember(repo->bucket, name_of(repo, path), strlen(text));
    return true;
}

static bool drop(const TcRepository *repo, const char *path, GError **error)
{
    if (!s3_delete(repo->bucket->s3, key_of(repo, path), error))
        return false;
    g_hash_table_remove(repo->bucket->objects, name_of(repo, path));
    return true;
}

/* A manifest is what makes a point, so the lock is asked for once more before. */
static bool replace(const TcRepository *repo, const char *path, const char *text, GError **error)
{
    bool manifest = g_str_has_suffix(path, "/" TC_MANIFEST_NAME);
    g_autofree char *partial = g_strconcat(path, TM_FILE_PARTIAL, NULL);

    if (repo->use != TC_REPO_READ &&
        !tc_bucket_lock_check(&repo->bucket->lock, repo, manifest, error))
        return false;
    return put(repo, path, text, error) && (!manifest || drop(repo, partial, error));
}

/* ---- points */

/* Beneath the directory for what is written. */
static char *work_path(const TcRepository *repo, const char *path)
{
    return g_build_filename(repo->bucket->spool, name_of(repo, path), NULL);
}

static bool open_spool(const TcRepository *repo, GError **error)
{
    struct TcBucket *b = repo->bucket;

    if (!b->spool)
        b->spool = tc_spool_new(&b->spool_fd, error);
    return b->spool != NULL;
}

static bool begin_point(const TcRepository *repo, const char *path, bool *made, GError **error)
{
    g_autofree char *partial = g_build_filename(path, TC_MANIFEST_PARTIAL, NULL), *work = NULL;

    if (exists(repo, path))
        return tc_repo_name_taken(repo, name_of(repo, path), error);
    if (!open_spool(repo, error) || !tc_bucket_lock_check(&repo->bucket->lock, repo, true, error))
        return false;
    work = work_path(repo, path);
    if (g_mkdir(work, 0700) < 0)
        return tm_error_set_errno(error, errno, "Could not create '%s'", work);
    *made = true;
    return put(repo, partial, "", error);
}

static bool send_file(const TcRepository *repo, const char *path, GError **error)
{
    g_autofree char *work = work_path(repo, path);
    struct stat st;
    int fd = open(work, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    bool ok;

    if (fd < 0 || fstat(fd, &st) < 0) {
        ok = tm_error_set_errno(error, errno, "Could not open '%s'", work);
    } else {
        ok = s3_upload(repo->bucket->s3, key_of(repo, path), fd, (uint64_t)st.st_size,
                       &repo->bucket->sent, error);
    }
    if (fd >= 0)
        close(fd);
    if (ok)
        remember(repo->bucket, name_of(repo, path), (uint64_t)st.st_size);
    return ok;
}

static uint64_t size_of_all(const TcRepository *repo, const GPtrArray *files)
{
    uint64_t sum = 0;

    for (guint i = 0; i < files->len; i++) {
        g_autofree char *work = work_path(repo, files->pdata[i]);
        struct stat st;

        if (stat(work, &st) == 0)
            sum += (uint64_t)st.st_size;
    }
    return sum;
}

static bool end_point(const TcRepository *repo, const char *path, const GPtrArray *files,
                      GError **error)
{
    atomic_fetch_add(&repo->bucket->to_send, size_of_all(repo, files));
    for (guint i = 0; i < files->len; i++)
        if (!tc_bucket_lock_check(&repo->bucket->lock, repo, false, error) ||
            !send_file(repo, files->pdata[i], error))
            return false;
    abort_uploads(repo); /* one whose beginning was repeated, as its answer was lost */
    return true;
}

static void sent(const TcRepository *repo, uint64_t *done, uint64_t *total)
{
    *done = atomic_load(&repo->bucket->sent);
    *total = atomic_load(&repo->bucket->to_send);
}

static bool withdraw(const TcRepository *repo, const char *point, GError **error)
{
    g_autofree char *manifest = tc_repo_file(repo, point, NULL, TC_MANIFEST_NAME);
    g_autofree char *partial = tc_repo_file(repo, point, NULL, TC_MANIFEST_PARTIAL);

    return tc_bucket_lock_check(&repo->bucket->lock, repo, true, error) &&
           put(repo, partial, "", error) && drop(repo, manifest, error);
}

/* What says what it is goes last. */
static bool remove_point(const TcRepository *repo, const char *path, GError **error)
{
    g_autoptr(GPtrArray) names = list(repo, path, error);
    g_autofree char *partial = g_build_filename(path, TC_MANIFEST_PARTIAL, NULL);

    if (!names || !tc_bucket_lock_check(&repo->bucket->lock, repo, true, error))
        return false;
    for (guint i = 0; i < names->len; i++)
        if (!tc_repo_is_own_file(names->pdata[i]))
            return tm_error_set(error,
                                "Could not remove '%s': it has '%s', which is no file of a "
                                "point",
                                path, (char *)names->pdata[i]);
    for (guint i = 0; i < names->len; i++) {
        g_autofree char *file = g_build_filename(path, names->pdata[i], NULL);

        if (strcmp(names->pdata[i], TC_MANIFEST_PARTIAL) && !drop(repo, file, error))
            return false;
    }
    return drop(repo, partial, error);
}

/* ---- images and hashes */

static int open_head(const TcRepository *repo, const char *path, struct stat *st, GError **error)
{
    g_autofree char *buf = g_malloc(HEAD_MAX);
    GError *why = NULL;
    uint64_t size;
    int fd;

    if (!s3_head(repo->bucket->s3, key_of(repo, path), &size, NULL, &why) ||
        !s3_read(repo->bucket->s3, key_of(repo, path), NULL, 0, buf, tm_min(size, HEAD_MAX),
                 &why)) {
        not_read(path, why, error);
        return -1;
    }
    fd = memfd_create("head", MFD_CLOEXEC);
    if (fd >= 0 && tm_write_all(&tm_sys_kernel, fd, buf, tm_min(size, HEAD_MAX), 0) == 0) {
        *st = (struct stat){ .st_mode = S_IFREG | 0600, .st_nlink = 1, .st_size = (off_t)size };
        return fd;
    }
    tm_error_set_errno(error, errno, "Could not keep the header of '%s'", path);
    if (fd >= 0)
        close(fd);
    return -1;
}

static json_object *image(const TcRepository *repo, const char *path)
{
    json_object *o = json_object_new_object();

    tm_json_add_string(o, "driver", "s3");
    tm_json_add_string(o, "bucket", repo->bucket->bucket);
    tm_json_add_string(o, "key", key_of(repo, path));
    tm_json_add_string(o, "endpoint", s3_endpoint(repo->bucket->s3));
    tm_json_add_string(o, "region", s3_region(repo->bucket->s3));
    tm_json_add_bool(o, "read-only", true);
    return o;
}

/* A copy of the file, which nobody else has a name of once it is open. */
static TcHashes *open_hashes(const TcRepository *repo, const char *path, const char *tree,
                             uint64_t size, GError **error)
{
    uint64_t max = HASHES + (size / TC_BLOCK + 1) * PER_RUN;
    g_autofree char *copy = NULL;
    TcHashes *hashes = NULL;
    GError *why = NULL;
    int fd;

    if (!open_spool(repo, error))
        return NULL;
    copy = g_build_filename(repo->bucket->spool, "hashes-XXXXXX", NULL);
    fd = g_mkstemp(copy);
    if (fd < 0) {
        tm_error_set_errno(error, errno, "Could not create '%s'", copy);
        return NULL;
    }
    if (!s3_download(repo->bucket->s3, key_of(repo, path), fd, max, &why))
        not_read(path, why, error);
    else if (!(hashes = tc_hashes_open(repo->sys, copy, tree, size, error)) && error && *error)
        g_prefix_error(error, "a copy of '%s': ", path);
    close(fd);
    unlink(copy);
    return hashes;
}

const TcRepoPlace tc_repo_bucket = {
    .is = is,
    .prepare = prepare,
    .is_empty = is_empty,
    .close = close_bucket,
    .lock = lock,
    .unlock = unlock,
    .relock = relock,
    .is_written = is_written,
    .tag = tag,
    .list = list,
    .exists = exists,
    .is_readable = exists,
    .is_directory = is_directory,
    .occupied = occupied,
    .read = read_file,
    .replace = replace,
    .begin_point = begin_point,
    .work_path = work_path,
    .end_point = end_point,
    .sent = sent,
    .withdraw = withdraw,
    .remove_point = remove_point,
    .open_head = open_head,
    .image = image,
    .open_hashes = open_hashes,
};
