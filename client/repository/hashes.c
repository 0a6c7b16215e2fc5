/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/hashes.c: files of hashes. The runs are in memory, the hashes in the file.
 * Those that are set are written in pages, each when all of it is there.
 *
 * Invariant: the runs that are used are in order, apart, within the disk and of whole blocks, and
 * the file is exactly as long as they ask for, whatever it says. */
#include "client/repository/hashes.h"
#include "util/endian.h"
#include "util/file.h"
#include "util/range.h"
#include "util/sync.h"
#include <errno.h>
#include <fcntl.h>
#include <gnutls/crypto.h>
#include <pthread.h>
#include <string.h>

#define MAGIC   "TMHASHES"
#define VERSION 1u
#define HEADER  64u
#define RUN     24u
#define PIECE   (UINT64_C(1) << 20) /* of the file at a time */
#define LOOK    128u                /* hashes that tc_hashes_find() reads at a time */
#define PAGE    UINT64_C(2048)      /* hashes */

/* Hashes that are not in the file yet. */
typedef struct Page {
    uint8_t *values; /* NULL: there are none */
    uint64_t set;    /* so many of them */
} Page;

struct TcHashes {
    const TmSys *sys;
    char *path;
    int fd;
    uint64_t size;
    TcRuns *runs;
    uint64_t *first;      /* the number of each run's first hash */
    uint64_t n;           /* hashes */
    pthread_mutex_t lock; /* guards the pages */
    Page *pages;          /* of a file that is being made */
};

void tc_hash(const void *data, size_t length, uint8_t hash[TC_HASH_SIZE])
{
    int ret = gnutls_hash_fast(GNUTLS_DIG_SHA256, data, length, hash);

    g_assert(ret == 0); /* there is no error that data could cause */
}

void tc_hash_text(const uint8_t hash[TC_HASH_SIZE], char hex[65])
{
    for (size_t i = 0; i < TC_HASH_SIZE; i++)
        g_snprintf(hex + 2 * i, 3, "%02x", hash[i]);
}

static uint64_t blocks(uint64_t length)
{
    return length / TC_BLOCK + (length % TC_BLOCK != 0);
}

static uint64_t hashes_at(const TcHashes *h)
{
    return HEADER + RUN * (uint64_t)tc_runs_count(h->runs);
}

static uint64_t file_size(const TcHashes *h)
{
    return hashes_at(h) + TC_HASH_SIZE * h->n;
}

static bool damaged(const TcHashes *h, GError **error, const char *what)
{
    return tc_repo_error_set(error, TC_REPO_ERROR_DAMAGED, "'%s' is damaged: %s", h->path, what);
}

static bool failed(const TcHashes *h, int ret, GError **error, const char *what)
{
    return tm_error_set_errno(error, -ret, "Could not %s '%s'", what, h->path);
}

static TcHashes *hashes_new(const TmSys *sys, const char *path, uint64_t size, int flags,
                            GError **error)
{
    g_autoptr(TcHashes) h = g_new0(TcHashes, 1);

    pthread_mutex_init(&h->lock, NULL);
    h->sys = sys;
    h->path = g_strdup(path);
    h->size = size;
    h->fd = sys->open(path, flags | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY, 0600);
    if (h->fd >= 0)
        return g_steal_pointer(&h);
    if (!(flags & O_CREAT) && (errno == ENOENT || errno == ELOOP))
        damaged(h, error, errno == ENOENT ? "it is not there" : "it is not a regular file");
    else
        failed(h, -errno, error, flags & O_CREAT ? "create" : "open");
    return NULL;
}

static uint64_t pages(const TcHashes *h)
{
    return h->n / PAGE + (h->n % PAGE != 0);
}

void tc_hashes_free(TcHashes *h)
{
    if (!h)
        return;
    for (uint64_t i = 0; h->pages && i < pages(h); i++)
        g_free(h->pages[i].values);
    g_free(h->pages);
    pthread_mutex_destroy(&h->lock);
    if (h->fd >= 0)
        h->sys->close(h->fd);
    tc_runs_free(h->runs);
    g_free(h->first);
    g_free(h->path);
    g_free(h);
}

/* Counts the hashes. */
static bool number_runs(TcHashes *h, GError **error)
{
    size_t n = tc_runs_count(h->runs);

    h->first = g_try_new(uint64_t, MAX(n, 1));
    if (!h->first)
        return tm_error_set(error, "there is not enough memory for %zu runs of blocks", n);
    for (size_t i = 0; i < n; i++) {
        const TcRun *run = tc_runs_get(h->runs, i);

        h->first[i] = h->n;
        h->n += run->kind == TC_RUN_DATA ? blocks(run->length) : 0;
    }
    return true;
}

/* ---- creating */

static void put_header(const TcHashes *h, uint8_t *to)
{
    memset(to, 0, HEADER);
    memcpy(to, MAGIC, 8);
    tm_put_le32(to + 8, VERSION);
    tm_put_le32(to + 12, TC_BLOCK);
    tm_put_le64(to + 16, h->size);
    tm_put_le64(to + 24, tc_runs_count(h->runs));
}

static void put_run(const TcRun *run, uint8_t *to)
{
    tm_put_le64(to, run->offset);
    tm_put_le64(to + 8, run->length);
    tm_put_le32(to + 16, run->kind);
    tm_put_le32(to + 20, 0);
}

/* Header and runs. */
static bool write_front(TcHashes *h, GError **error)
{
    g_autofree uint8_t *piece = g_malloc(PIECE);
    size_t used = HEADER;
    uint64_t at = 0;
    int ret = 0;

    put_header(h, piece);
    for (size_t i = 0; i < tc_runs_count(h->runs) && ret == 0; i++) {
        put_run(tc_runs_get(h->runs, i), piece + used);
        used += RUN;
        if (used > PIECE - RUN) {
            ret = tm_write_all(h->sys, h->fd, piece, used, at);
            at += used;
            used = 0;
        }
    }
    if (ret == 0)
        ret = tm_write_all(h->sys, h->fd, piece, used, at);
    return ret == 0 || failed(h, ret, error, "write");
}

static bool make_pages(TcHashes *h, GError **error)
{
    h->pages = g_try_new0(Page, MAX(pages(h), 1));
    return h->pages ||
           tm_error_set(error, "there is not enough memory for %" PRIu64 " hashes", h->n);
}

TcHashes *tc_hashes_create(const TmSys *sys, const char *path, TcRuns *runs, uint64_t size,
                           GError **error)
{
    g_autoptr(TcHashes) h = hashes_new(sys, path, size, O_RDWR | O_CREAT | O_EXCL, error);

    if (!h)
        return NULL;
    h->runs = runs;
    if (number_runs(h, error) && make_pages(h, error) && write_front(h, error)) {
        if (sys->ftruncate(h->fd, (off_t)file_size(h)) == 0)
            return g_steal_pointer(&h);
        failed(h, -errno, error, "write");
    }
    h->runs = NULL; /* the caller's still */
    return NULL;
}

/* ---- opening */

/* The SHA-256 of the whole file, which is @size bytes long. */
static int hash_file(const TcHashes *h, uint64_t size, char tree[65])
{
    g_autofree uint8_t *piece = g_malloc(PIECE);
    uint8_t hash[TC_HASH_SIZE];
    gnutls_hash_hd_t state;
    int ret = gnutls_hash_init(&state, GNUTLS_DIG_SHA256) == 0 ? 0 : -ENOMEM;

    if (ret < 0)
        return ret;
    for (uint64_t at = 0, n; at < size && ret == 0; at += n) {
        uint64_t done;

        n = tm_min(PIECE, size - at);
        ret = tm_read_all(h->sys, h->fd, piece, n, at, &done);
        if (ret == 0 && done < n)
            ret = -EIO;
        if (ret == 0 && gnutls_hash(state, piece, n) < 0)
            ret = -ENOMEM;
    }
    gnutls_hash_deinit(state, hash);
    tc_hash_text(hash, tree);
    return ret;
}

static bool check_header(const TcHashes *h, const uint8_t *bytes, uint64_t length, uint64_t *n_runs,
                         GError **error)
{
    static const uint8_t reserved[HEADER - 32];

    if (memcmp(bytes, MAGIC, 8))
        return damaged(h, error, "it is no file of hashes");
    if (tm_get_le32(bytes + 8) != VERSION)
        return damaged(h, error, "its version is not 1");
    if (tm_get_le32(bytes + 12) != TC_BLOCK)
        return damaged(h, error, "its blocks are not of 65536 bytes");
    if (tm_get_le64(bytes + 16) != h->size)
        return damaged(h, error, "it is of a disk of another size");
    if (memcmp(bytes + 32, reserved, sizeof(reserved)))
        return damaged(h, error, "the reserved bytes of its header are not zero");
    *n_runs = tm_get_le64(bytes + 24);
    return *n_runs <= (length - HEADER) / RUN || damaged(h, error, "it is too short for its runs");
}

/* After @end, which becomes its end. */
static bool take_run(TcHashes *h, const uint8_t *bytes, uint64_t *end, GError **error)
{
    uint64_t offset = tm_get_le64(bytes), length = tm_get_le64(bytes + 8);
    uint32_t kind = tm_get_le32(bytes + 16);

    if (offset < *end || !length || !tm_range_within(offset, length, h->size) ||
        offset % TC_BLOCK || (length % TC_BLOCK && offset + length != h->size) ||
        (kind != TC_RUN_DATA && kind != TC_RUN_ZERO) || tm_get_le32(bytes + 20))
        return damaged(h, error, "a run of blocks is impossible");
    *end = offset + length;
    return tc_runs_add(h->runs, offset, length, (TcRunKind)kind, error);
}

static bool read_runs(TcHashes *h, uint64_t n, GError **error)
{
    const uint64_t many = PIECE / RUN;
    g_autofree uint8_t *piece = g_malloc(many * RUN);
    uint64_t end = 0, done;

    h->runs = tc_runs_new(h->size);
    for (uint64_t i = 0; i < n; i++) {
        if (i % many == 0) {
            uint64_t length = tm_min(many, n - i) * RUN;
            int ret = tm_read_all(h->sys, h->fd, piece, length, HEADER + i * RUN, &done);

            if (ret < 0 || done < length)
                return ret < 0 ? failed(h, ret, error, "read")
                               : damaged(h, error, "it is too short for its runs");
        }
        if (!take_run(h, piece + i % many * RUN, &end, error))
            return false;
    }
    if (tc_runs_count(h->runs) != n)
        return damaged(h, error, "two neighbouring runs are of one kind");
    return tc_runs_end(h->runs, error);
}

static bool read_hashes(TcHashes *h, const char *tree, GError **error)
{
    uint8_t header[HEADER];
    uint64_t done, n_runs = 0;
    struct stat st;
    char hex[65];
    int ret;

    if (h->sys->fstat(h->fd, &st) < 0)
        return failed(h, -errno, error, "read");
    if (!S_ISREG(st.st_mode))
        return damaged(h, error, "it is no regular file");
    if ((uint64_t)st.st_size / (RUN + TC_HASH_SIZE) > blocks(h->size) + 1)
        return damaged(h, error, "it is longer than one of that disk can be");
    ret = hash_file(h, (uint64_t)st.st_size, hex);
    if (ret < 0)
        return failed(h, ret, error, "read");
    if (strcmp(hex, tree))
        return damaged(h, error, "its SHA-256 is not that of the manifest");
    ret = tm_read_all(h->sys, h->fd, header, HEADER, 0, &done);
    if (ret < 0)
        return failed(h, ret, error, "read");
    if (done < HEADER)
        return damaged(h, error, "it is too short");
    return check_header(h, header, (uint64_t)st.st_size, &n_runs, error) &&
           read_runs(h, n_runs, error) && number_runs(h, error) &&
           ((uint64_t)st.st_size == file_size(h) ||
            damaged(h, error, "it is not as long as its runs ask for"));
}

TcHashes *tc_hashes_open(const TmSys *sys, const char *path, const char *tree, uint64_t size,
                         GError **error)
{
    g_autoptr(TcHashes) h = hashes_new(sys, path, size, O_RDONLY, error);

    return h && read_hashes(h, tree, error) ? g_steal_pointer(&h) : NULL;
}

/* ---- runs and hashes */

const TcRuns *tc_hashes_runs(const TcHashes *h)
{
    return h->runs;
}

/* The number of the last run that begins at or before @offset, plus 1; 0: there is none. */
static size_t find_run(const TcHashes *h, uint64_t offset)
{
    size_t low = 0, high = tc_runs_count(h->runs);

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (tc_runs_get(h->runs, middle)->offset <= offset)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

TcRunKind tc_hashes_run(const TcHashes *h, uint64_t offset, uint64_t *length)
{
    size_t i = find_run(h, offset);
    const TcRun *run = i ? tc_runs_get(h->runs, i - 1) : NULL;

    if (run && offset - run->offset < run->length) {
        *length = run->length - (offset - run->offset);
        return run->kind;
    }
    *length = (i < tc_runs_count(h->runs) ? tc_runs_get(h->runs, i)->offset : h->size) - offset;
    return TC_RUN_NONE;
}

/* The number of the first of these blocks' hashes. */
static bool place(const TcHashes *h, uint64_t offset, size_t n, uint64_t *number)
{
    size_t i = find_run(h, offset);
    const TcRun *run = i ? tc_runs_get(h->runs, i - 1) : NULL;
    uint64_t block;

    if (!run || run->kind != TC_RUN_DATA || offset % TC_BLOCK)
        return false;
    block = (offset - run->offset) / TC_BLOCK;
    *number = h->first[i - 1] + block;
    return tm_range_within(block, n, blocks(run->length));
}

static uint64_t page_room(const TcHashes *h, uint64_t page)
{
    return tm_min(PAGE, h->n - page * PAGE);
}

/* Within one page. If it is complete with them, it is in *full (returned). */
static int put_values(TcHashes *h, uint64_t number, const uint8_t *values, uint64_t n,
                      uint8_t **full)
{
    Page *page = &h->pages[number / PAGE];
    uint64_t room = page_room(h, number / PAGE);
    TM_GUARD(&h->lock);

    if (!page->values)
        page->values = g_try_malloc0(room * TC_HASH_SIZE);
    if (!page->values)
        return -ENOMEM;
    memcpy(page->values + number % PAGE * TC_HASH_SIZE, values, n * TC_HASH_SIZE);
    page->set += n;
    if (page->set >= room)
        *full = g_steal_pointer(&page->values);
    return 0;
}

static int write_page(const TcHashes *h, uint64_t page, const uint8_t *values)
{
    return tm_write_all(h->sys, h->fd, values, page_room(h, page) * TC_HASH_SIZE,
                        hashes_at(h) + page * PAGE * TC_HASH_SIZE);
}

int tc_hashes_set(TcHashes *h, uint64_t offset, const uint8_t *values, size_t n)
{
    uint64_t number, m;
    int ret = 0;

    if (!place(h, offset, n, &number))
        return -EINVAL;
    for (; n && ret == 0; number += m, values += m * TC_HASH_SIZE, n -= m) {
        g_autofree uint8_t *full = NULL;

        m = tm_min(n, PAGE - number % PAGE);
        ret = put_values(h, number, values, m, &full);
        if (ret == 0 && full)
            ret = write_page(h, number / PAGE, full);
    }
    return ret;
}

/* What is not complete. */
static int write_pages(TcHashes *h)
{
    int ret = 0;

    for (uint64_t i = 0; i < pages(h) && ret == 0; i++) {
        g_autofree uint8_t *values = g_steal_pointer(&h->pages[i].values);

        if (values)
            ret = write_page(h, i, values);
    }
    return ret;
}

int tc_hashes_get(const TcHashes *h, uint64_t offset, uint8_t *values, size_t n)
{
    uint64_t number, done;
    int ret;

    if (!place(h, offset, n, &number))
        return -EINVAL;
    ret = tm_read_all(h->sys, h->fd, values, n * TC_HASH_SIZE, hashes_at(h) + TC_HASH_SIZE * number,
                      &done);
    return ret == 0 && done < n * TC_HASH_SIZE ? -EIO : ret;
}

TcRunKind tc_hashes_find(const TcHashes *h, uint64_t offset, uint64_t *length)
{
    static const uint8_t zero[TC_HASH_SIZE];
    uint8_t values[LOOK * TC_HASH_SIZE];
    uint64_t start = tm_align_down(offset, TC_BLOCK), end;
    TcRunKind kind = tc_hashes_run(h, offset, length);
    size_t n = (size_t)tm_min(blocks(offset - start + *length), LOOK), same = 1;
    bool first;

    if (kind != TC_RUN_DATA || tc_hashes_get(h, start, values, n) < 0)
        return kind;
    first = memcmp(values, zero, TC_HASH_SIZE) == 0;
    while (same < n && (memcmp(values + same * TC_HASH_SIZE, zero, TC_HASH_SIZE) == 0) == first)
        same++;
    end = start + same * TC_BLOCK; /* of a run, perhaps beyond the end of the disk */
    *length = tm_min(*length, end - offset);
    return first ? TC_RUN_ZERO : TC_RUN_DATA;
}

/* ---- the end */

bool tc_hashes_finish(TcHashes *h, char tree[65], GError **error)
{
    int ret = write_pages(h);

    if (ret == 0)
        ret = hash_file(h, file_size(h), tree);
    if (ret == 0)
        ret = tm_fdatasync(h->sys, h->fd);
    return ret == 0 || failed(h, ret, error, "write");
}
