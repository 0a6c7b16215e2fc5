/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* bitmap/store/mirror.c: a store that a keeper has, as a file in memory; see the header. */
#include "bitmap/store/mirror.h"

#include "util/range.h"
#include "util/sync.h"

#include <errno.h>
#include <glib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define BLOCK  UINT64_C(512)
#define BLOCKS (TIDEMARK_STORE_MAX / BLOCK)
#define CHUNK  (UINT64_C(4) << 20) /* bytes of a write of a sync */

struct BmpMirror {
    const TmSys *sys; /* borrowed */
    BmpKeeper keeper;
    pthread_mutex_t syncing; /* held over the keeper's writes: guards @fd and @size */
    int fd;                  /* the file that the keeper has; -1: none */
    uint64_t size;           /* of it, as the keeper has it */
    pthread_mutex_t lock;    /* guards what follows; a leaf */
    uint64_t changed[BLOCKS / 64];
};

BmpMirror *bmp_mirror_new(const TmSys *sys, const BmpKeeper *keeper)
{
    BmpMirror *mirror = g_new0(BmpMirror, 1);

    mirror->sys = sys;
    mirror->keeper = *keeper;
    mirror->fd = -1;
    pthread_mutex_init(&mirror->syncing, NULL);
    pthread_mutex_init(&mirror->lock, NULL);
    return mirror;
}

void bmp_mirror_free(BmpMirror *mirror)
{
    if (!mirror)
        return;
    pthread_mutex_destroy(&mirror->syncing);
    pthread_mutex_destroy(&mirror->lock);
    g_free(mirror);
}

static int size_of(const BmpMirror *mirror, int fd, uint64_t *size)
{
    struct stat st;

    if (mirror->sys->fstat(fd, &st) < 0)
        return -errno;
    *size = (uint64_t)st.st_size;
    return *size > TIDEMARK_STORE_MAX ? -EFBIG : 0;
}

/* Under the lock of syncs: @fd, of @size bytes, is what the keeper has. */
static void adopt(BmpMirror *mirror, int fd, uint64_t size)
{
    TM_GUARD(&mirror->lock);

    __atomic_store_n(&mirror->fd, fd, __ATOMIC_RELEASE);
    mirror->size = size;
    memset(mirror->changed, 0, sizeof(mirror->changed));
}

/* ---- opening */

int bmp_mirror_create(BmpMirror *mirror, int *fd)
{
    int made = memfd_create("bitmaps", MFD_CLOEXEC);

    if (made < 0)
        return -errno;
    TM_GUARD(&mirror->syncing);
    if (made == mirror->fd) /* the number of one that was closed */
        adopt(mirror, -1, 0);
    *fd = made;
    return 0;
}

static int load(BmpMirror *mirror, int fd, uint64_t size)
{
    g_autofree char *buffer = g_try_malloc(CHUNK);
    int ret = buffer ? 0 : -ENOMEM;

    for (uint64_t at = 0; ret == 0 && at < size; at += CHUNK) {
        uint64_t n = tm_min(CHUNK, size - at);

        ret = mirror->keeper.read(mirror->keeper.opaque, buffer, n, at);
        if (ret == 0)
            ret = tm_write_all(mirror->sys, fd, buffer, n, at);
    }
    return ret;
}

int bmp_mirror_open(BmpMirror *mirror, bool read_only, int *fd)
{
    uint64_t size = 0;
    int made = -1, ret = mirror->keeper.open(mirror->keeper.opaque, read_only, &size);

    *fd = -1;
    if (ret < 0 || !size)
        return ret;
    if (size > TIDEMARK_STORE_MAX)
        return -EFBIG;
    ret = bmp_mirror_create(mirror, &made);
    if (ret == 0)
        ret = load(mirror, made, size);
    if (ret < 0) {
        if (made >= 0)
            mirror->sys->close(made);
        return ret;
    }
    TM_GUARD(&mirror->syncing);
    if (!read_only)
        adopt(mirror, made, size);
    *fd = made;
    return 0;
}

bool bmp_mirror_is_written(BmpMirror *mirror)
{
    uint64_t size;

    return mirror->keeper.open(mirror->keeper.opaque, true, &size) < 0;
}

/* ---- changes */

void bmp_mirror_note(BmpMirror *mirror, int fd, uint64_t offset, uint64_t length)
{
    if (!length || fd != __atomic_load_n(&mirror->fd, __ATOMIC_ACQUIRE))
        return;
    TM_GUARD(&mirror->lock);
    for (uint64_t i = offset / BLOCK; i <= (offset + length - 1) / BLOCK && i < BLOCKS; i++)
        mirror->changed[i / 64] |= UINT64_C(1) << (i & 63);
}

/* Where the first noted block from @from on is; BLOCKS: there is none. */
static uint64_t next_changed(const BmpMirror *mirror, uint64_t from)
{
    for (uint64_t i = from; i < BLOCKS; i = (i | 63) + 1) {
        uint64_t word = mirror->changed[i / 64] >> (i & 63);

        if (word)
            return i + (uint64_t)__builtin_ctzll(word);
    }
    return BLOCKS;
}

static bool is_changed(const BmpMirror *mirror, uint64_t i)
{
    return mirror->changed[i / 64] >> (i & 63) & 1;
}

/* Appends a piece without data, in as many as a write takes of them. */
static void append(GArray *pieces, uint64_t offset, uint64_t end)
{
    for (uint64_t n; offset < end; offset += n) {
        n = tm_min(CHUNK, end - offset);
        g_array_append_val(pieces, ((BmpPiece){ .offset = offset, .length = n }));
    }
}

/* What was noted until now, within @size; nothing is noted any more. */
static GArray *take_changed(BmpMirror *mirror, uint64_t size)
{
    GArray *pieces = g_array_new(FALSE, FALSE, sizeof(BmpPiece));

    TM_GUARD(&mirror->lock);
    for (uint64_t i = next_changed(mirror, 0), end; i < BLOCKS; i = next_changed(mirror, end)) {
        for (end = i + 1; end < BLOCKS && is_changed(mirror, end);)
            end++;
        append(pieces, i * BLOCK, tm_min(end * BLOCK, size));
    }
    memset(mirror->changed, 0, sizeof(mirror->changed));
    return pieces;
}

/* ---- to the keeper */

/* The pieces as they are now in the file, in one write. */
static int hand_over(BmpMirror *mirror, int fd, BmpPiece *pieces, size_t n, uint64_t size,
                     bool replace)
{
    g_autofree char *buffer = NULL;
    uint64_t total = 0, done;
    int ret = 0;

    for (size_t i = 0; i < n; i++)
        total += pieces[i].length;
    if (total > TIDEMARK_STORE_WRITE_MAX)
        return -EFBIG;
    buffer = g_try_malloc0(total + 1);
    if (!buffer)
        return -ENOMEM;
    total = 0;
    for (size_t i = 0; i < n && ret == 0; i++) {
        pieces[i].buf = buffer + total;
        ret =
            tm_read_all(mirror->sys, fd, buffer + total, pieces[i].length, pieces[i].offset, &done);
        total += pieces[i].length;
    }
    return ret < 0 ? ret : mirror->keeper.write(mirror->keeper.opaque, pieces, n, size, replace);
}

int bmp_mirror_sync(BmpMirror *mirror, int fd)
{
    g_autoptr(GArray) pieces = NULL;
    uint64_t size;
    int ret;

    TM_GUARD(&mirror->syncing);
    if (fd < 0 || fd != mirror->fd)
        return 0;
    ret = size_of(mirror, fd, &size);
    if (ret < 0)
        return ret;
    pieces = take_changed(mirror, size);
    if (!pieces->len && size == mirror->size)
        return 0;
    for (guint i = 0, n; ret == 0 && (i == 0 || i < pieces->len); i += n) {
        BmpPiece *first = &g_array_index(pieces, BmpPiece, i);
        uint64_t total = 0;

        for (n = 0; i + n < pieces->len && (!n || total + first[n].length <= CHUNK); n++)
            total += first[n].length;
        ret = hand_over(mirror, fd, first, n, size, false);
        n = MAX(n, 1);
    }
    if (ret == 0)
        mirror->size = size;
    return ret;
}

/* What the file has that is not a hole. */
static GArray *list_data(BmpMirror *mirror, int fd, uint64_t size)
{
    GArray *pieces = g_array_new(FALSE, FALSE, sizeof(BmpPiece));
    off_t at = 0;

    while ((uint64_t)at < size) {
        off_t data = mirror->sys->lseek(fd, at, SEEK_DATA);
        off_t end = data < 0 ? -1 : mirror->sys->lseek(fd, data, SEEK_HOLE);

        if (data < 0 && errno == ENXIO)
            break;
        if (end < 0) { /* nobody knows: all of it */
            data = at;
            end = (off_t)size;
        }
        append(pieces, (uint64_t)data, tm_min((uint64_t)end, size));
        at = end;
    }
    return pieces;
}

int bmp_mirror_replace(BmpMirror *mirror, int fd)
{
    g_autoptr(GArray) pieces = NULL;
    uint64_t size = 0;
    int ret = 0;

    TM_GUARD(&mirror->syncing);
    if (fd >= 0)
        ret = size_of(mirror, fd, &size);
    if (ret < 0)
        return ret;
    pieces = list_data(mirror, fd, size);
    ret = hand_over(mirror, fd, (BmpPiece *)(void *)pieces->data, pieces->len, size, true);
    if (ret == 0)
        adopt(mirror, fd, size);
    return ret;
}

void bmp_mirror_abandon(BmpMirror *mirror)
{
    mirror->keeper.abandon(mirror->keeper.opaque);
}

/* ---- of a file that may have a keeper */

int bmp_file_write(const TmSys *sys, BmpMirror *mirror, int fd, const void *data, uint64_t length,
                   uint64_t offset)
{
    int ret = tm_write_all(sys, fd, data, length, offset);

    if (mirror) /* also what was written of it before an error */
        bmp_mirror_note(mirror, fd, offset, length);
    return ret;
}

int bmp_file_sync(const TmSys *sys, BmpMirror *mirror, int fd)
{
    return mirror ? bmp_mirror_sync(mirror, fd) : tm_fdatasync(sys, fd);
}
