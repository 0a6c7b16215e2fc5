/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/unit/journal_util.h: what the tests of the live journal share: a journal in a real file,
 * whose system calls go through a table that counts and blocks syncs, lets somebody read the
 * file around them, and makes calls fail. */
#pragma once
#include "bitmap/store/intents.h"
#include "bitmap/store/journal.h"
#include "tests/asserts.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SHIFT  16u
#define MIB    (UINT64_C(1) << 20)
#define REGION (4 * MIB) /* 64 granules: two words */
#define SEED   UINT64_C(0x1234567)
#define AT     UINT64_C(8192) /* of the journal in the file */

/* What a table of calls can't be given as an argument. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned syncs, running; /* begun so far; in the kernel now */
    bool blocked;            /* syncs wait */
    unsigned medium_us;      /* what a sync takes */
    int sync_error, write_error;
    off_t errors_from; /* offset of the first write that fails */
    void (*before_sync)(int fd);
    void (*after_sync)(int fd);
} io = { .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };

static inline int test_fdatasync(int fd)
{
    int err;

    if (io.before_sync)
        io.before_sync(fd);
    pthread_mutex_lock(&io.lock);
    io.syncs++;
    io.running++;
    pthread_cond_broadcast(&io.changed);
    while (io.blocked)
        pthread_cond_wait(&io.changed, &io.lock);
    io.running--;
    err = io.sync_error;
    pthread_mutex_unlock(&io.lock);
    if (err) {
        errno = err;
        return -1;
    }
    if (io.medium_us)
        usleep(io.medium_us);
    if (io.after_sync)
        io.after_sync(fd);
    return 0;
}

static inline ssize_t test_pwritev2(int fd, const struct iovec *iov, int iovcnt, off_t offset,
                                    int flags)
{
    if (__atomic_load_n(&io.write_error, __ATOMIC_RELAXED) && offset >= io.errors_from) {
        errno = io.write_error;
        return -1;
    }
    return pwritev2(fd, iov, iovcnt, offset, flags);
}

static inline void block_syncs(bool blocked)
{
    pthread_mutex_lock(&io.lock);
    io.blocked = blocked;
    pthread_cond_broadcast(&io.changed);
    pthread_mutex_unlock(&io.lock);
}

static inline void wait_for_sync(void)
{
    pthread_mutex_lock(&io.lock);
    while (!io.running)
        pthread_cond_wait(&io.changed, &io.lock);
    pthread_mutex_unlock(&io.lock);
}

static inline unsigned syncs_now(void)
{
    pthread_mutex_lock(&io.lock);
    unsigned n = io.syncs;
    pthread_mutex_unlock(&io.lock);
    return n;
}

typedef struct Fix {
    TmSys sys;
    BmpJournal *journal;
    BmpGeometry g;
    int fd;
    uint64_t epoch;
} Fix;

static inline int temp_file(void)
{
    g_autofree char *path = NULL;
    int fd = g_file_open_tmp("test-journal-XXXXXX", &path, NULL);

    ck_assert_int_ge(fd, 0);
    unlink(path);
    return fd;
}

static inline void fix_open(Fix *f, uint64_t size, unsigned shift, BmpDurability durability)
{
    int err = 0;

    *f = (Fix){ .sys = tm_sys_kernel, .fd = temp_file(), .epoch = 7 };
    f->sys.fdatasync = test_fdatasync;
    f->sys.pwritev2 = test_pwritev2;
    bmp_geometry_choose(&f->g, size, shift, BMP_REGION_SHIFT_MIN);
    ck_assert_int_eq(bmp_journal_create(&f->sys, f->fd, AT, &f->g, SEED), 0);
    f->journal = bmp_journal_open(
        &(BmpJournalOptions){
            .sys = &f->sys,
            .fd = f->fd,
            .geometry = f->g,
            .offset = AT,
            .seed = SEED,
            .epoch = f->epoch,
            .durability = durability,
        },
        &err);
    ck_assert_msg(f->journal != NULL, "bmp_journal_open: %s", strerror(-err));
}

static inline void fix_close(Fix *f)
{
    bmp_journal_close(f->journal);
    close(f->fd);
}

static inline bool try_mark(Fix *f, uint64_t offset, uint64_t length)
{
    return bmp_journal_mark(f->journal, offset, length);
}

/* As a writer does it. */
static inline int mark(Fix *f, uint64_t offset, uint64_t length)
{
    int ret = 0;

    while (ret == 0 && !try_mark(f, offset, length))
        ret = bmp_journal_intend(f->journal, offset, length);
    return ret;
}

static inline void recover_fd(Fix *f, int fd, bool power_lost, BmpJournalFound *found)
{
    bmp_journal_recover(&tm_sys_kernel, fd, AT, &f->g, SEED, f->epoch, power_lost, found);
}

static inline bool bits_equal(const BmpBits *a, const BmpBits *b)
{
    BmpBitsIter i = bmp_bits_iter(a), j = bmp_bits_iter(b);
    uint64_t at = 0, first[2], end[2] = { 0 };

    while (bmp_bits_next(&i, at, a->nbits, &first[0], &end[0])) {
        if (!bmp_bits_next(&j, at, b->nbits, &first[1], &end[1]) || first[0] != first[1] ||
            end[0] != end[1])
            return false;
        at = end[0];
    }
    return !bmp_bits_next(&j, at, b->nbits, &first[1], &end[1]);
}

static inline void expect_found(Fix *f, bool power_lost, const BmpBits *marked, uint64_t uncertain)
{
    BmpJournalFound found;

    recover_fd(f, f->fd, power_lost, &found);
    ck_assert(bits_equal(&found.marked, marked));
    ck_assert_uint_eq(bmp_bits_count(&found.uncertain), uncertain);
    bmp_journal_found_clear(&found);
}

static inline void ticks(Fix *f, unsigned n)
{
    while (n--)
        ck_assert_int_eq(bmp_journal_tick(f->journal), 0);
}

static inline uint64_t entry_of(int fd, uint32_t r, BmpRegionState *state)
{
    uint64_t entry, epoch;

    ck_assert_int_eq(pread(fd, &entry, 8, (off_t)(AT + BMP_INTENTS_SIZE + 8 * r)), 8);
    ck_assert(bmp_entry_read(SEED, r, GUINT64_FROM_LE(entry), &epoch, state));
    return epoch;
}

/* How many regions have this epoch's stamp. */
static inline uint32_t stamped(Fix *f)
{
    BmpRegionState state;
    uint32_t n = 0;

    for (uint32_t r = 0; r < f->g.regions; r++)
        n += entry_of(f->fd, r, &state) == f->epoch;
    return n;
}

typedef struct Marker {
    Fix *f;
    BmpBits model;
    uint32_t seed;
    unsigned n;
    uint64_t offset, length; /* for one mark */
    int ret;
    bool done; /* atomic */
    pthread_t thread;
} Marker;

static inline uint32_t next_random(uint32_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state;
}

static inline void *mark_once(void *opaque)
{
    Marker *m = opaque;

    m->ret = mark(m->f, m->offset, m->length);
    __atomic_store_n(&m->done, true, __ATOMIC_RELEASE);
    return NULL;
}

/* A file that has what @fd has now. */
static inline int copy_file(int fd)
{
    struct stat st;
    g_autofree char *data = NULL;
    int copy = temp_file();

    ck_assert_int_eq(fstat(fd, &st), 0);
    data = g_malloc((gsize)st.st_size);
    ck_assert_int_eq(pread(fd, data, (size_t)st.st_size, 0), st.st_size);
    ck_assert_int_eq(pwrite(copy, data, (size_t)st.st_size, 0), st.st_size);
    return copy;
}
