/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/file/extents.c: remembered data and holes; see the header.
 *
 * The file is divided into windows of equal size, a power of two. Each remembers one segment of
 * itself, from where a look-up began to as far as look-ups have followed on, as a list of runs. A
 * walk from the beginning thus fills one window after the other with no more questions than there
 * are runs.
 *
 * Two races matter.
 * A look-up asks the kernel and remembers the answer, while a write makes it wrong. So a change
 * that finds a look-up asking, or something remembered, counts itself under the lock (sequence) and
 * notes that in its windows (changed); the look-up reads the count before it asks, and doesn't
 * remember anything of windows that changed since. The look-up raises `asking` before it asks and
 * the change reads it after it is done; the kernel orders the two by the inode's own lock: if the
 * answer was too early to have the change, the change sees `asking`, or what came of it. A write
 * into data changes nothing that we remember. Each window has 64 bits for its 64 equal parts: set
 * where a part is remembered and all data. A write into such parts is done after reading them.
 *
 * Invariants, under the lock:
 *  - start <= end; the runs' ends increase, the last is `end`, neighbours differ in kind;
 *  - a part's bit is set only if it lies in [start, end) and is data;
 *  - live is false exactly when start == end. */
#include "block/drivers/file/extents.h"
#include "util/range.h"

#include <errno.h>
#include <glib.h>
#include <string.h>
#include <unistd.h>

#define WINDOWS_MAX      4096u
#define WINDOW_SHIFT_MIN 20u
#define PARTS            64u
#define WINDOW_RUNS_MAX  (FILE_EXTENTS_MAX / 4)
#define ASK_MAX          1000

struct FileWindow {
    uint64_t parts; /* atomic */
    bool live;      /* atomic: something is remembered */
    uint32_t count, room;
    uint64_t changed; /* the sequence of the last change */
    uint64_t start, end;
    uint64_t *runs; /* where each ends << 1 | whether it is data */
};

/* ---- the table */

static size_t window_count(const FileExtents *x)
{
    return x->size ? ((x->size - 1) >> x->shift) + 1 : 0;
}

static void window_drop(FileExtents *x, FileWindow *w)
{
    x->runs -= w->room;
    g_free(w->runs);
    w->runs = NULL;
    w->count = w->room = 0;
    w->start = w->end = 0;
    __atomic_store_n(&w->parts, 0, __ATOMIC_SEQ_CST);
    __atomic_store_n(&w->live, false, __ATOMIC_SEQ_CST);
}

static void set_size(FileExtents *x, uint64_t size)
{
    __atomic_store_n(&x->size, size, __ATOMIC_RELAXED);
    x->shift = WINDOW_SHIFT_MIN;
    while (window_count(x) > WINDOWS_MAX)
        x->shift++;
}

void blk_file_extents_init(FileExtents *x, const TmSys *sys, int fd, uint64_t size)
{
    memset(x, 0, sizeof(*x));
    x->sys = sys;
    x->fd = fd;
    set_size(x, size);
    pthread_mutex_init(&x->lock, NULL);
}

static void drop_all(FileExtents *x)
{
    if (!x->windows)
        return;
    for (size_t i = 0; i < window_count(x); i++)
        g_free(x->windows[i].runs);
    g_free(x->windows);
    __atomic_store_n(&x->windows, NULL, __ATOMIC_SEQ_CST);
    x->runs = x->hand = 0;
}

void blk_file_extents_free(FileExtents *x)
{
    drop_all(x);
    pthread_mutex_destroy(&x->lock);
}

void blk_file_extents_resize(FileExtents *x, uint64_t size)
{
    pthread_mutex_lock(&x->lock);
    drop_all(x);
    set_size(x, size);
    x->resized = ++x->sequence;
    pthread_mutex_unlock(&x->lock);
}

/* NULL if there is no memory: then nothing is remembered. Under the lock. */
static FileWindow *table(FileExtents *x)
{
    if (!x->windows && x->size)
        __atomic_store_n(&x->windows, g_try_new0(FileWindow, window_count(x)), __ATOMIC_SEQ_CST);
    return x->windows;
}

/* ---- changes */

/* The bits of the parts that [from, to) of a window touches. */
static uint64_t parts_touched(const FileExtents *x, uint64_t from, uint64_t to)
{
    unsigned part_shift = x->shift - 6; /* 64 parts */
    uint64_t mask = ((uint64_t)1 << x->shift) - 1;
    unsigned first = (unsigned)((from & mask) >> part_shift);
    unsigned last = (unsigned)(((to - 1) & mask) >> part_shift);

    return (UINT64_MAX >> (PARTS - 1 - last)) & (UINT64_MAX << first);
}

static void note_change(FileExtents *x, FileWindow *w)
{
    pthread_mutex_lock(&x->lock);
    w->changed = ++x->sequence;
    window_drop(x, w);
    pthread_mutex_unlock(&x->lock);
}

static void change(FileExtents *x, uint64_t offset, uint64_t length, bool to_data)
{
    FileWindow *windows = __atomic_load_n(&x->windows, __ATOMIC_SEQ_CST);
    uint64_t end = tm_min(offset + length, x->size);

    if (!windows)
        return;
    while (offset < end) {
        FileWindow *w = &windows[offset >> x->shift];
        uint64_t to = tm_min(end, ((offset >> x->shift) + 1) << x->shift);
        uint64_t touched = parts_touched(x, offset, to);

        offset = to;
        if (to_data && !(touched & ~__atomic_load_n(&w->parts, __ATOMIC_SEQ_CST)))
            continue;
        if (__atomic_load_n(&w->live, __ATOMIC_SEQ_CST) ||
            __atomic_load_n(&x->asking, __ATOMIC_SEQ_CST))
            note_change(x, w);
    }
}

void blk_file_extents_wrote(FileExtents *x, uint64_t offset, uint64_t length)
{
    change(x, offset, length, true);
}

void blk_file_extents_invalidate(FileExtents *x, uint64_t offset, uint64_t length)
{
    change(x, offset, length, false);
}

/* ---- remembering; all under the lock */

/* The run of @w that @offset lies in; [start, end) has it. */
static uint64_t find_run(const FileWindow *w, uint64_t offset)
{
    uint32_t low = 0, high = w->count - 1;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;

        if (w->runs[middle] >> 1 > offset)
            high = middle;
        else
            low = middle + 1;
    }
    return w->runs[low];
}

/* The remembered answer, joined over windows. */
static bool recall(const FileExtents *x, uint64_t offset, uint64_t length, bool *data,
                   uint64_t *run)
{
    uint64_t at = offset, end = tm_min(offset + length, x->size);

    while (at < end) {
        const FileWindow *w = &x->windows[at >> x->shift];
        uint64_t found;

        if (at < w->start || at >= w->end)
            break;
        found = find_run(w, at);
        if (at > offset && (found & 1) != *data)
            break;
        *data = found & 1;
        at = found >> 1;
        if (at & (((uint64_t)1 << x->shift) - 1)) /* it ends inside the window */
            break;
    }
    if (at == offset)
        return false;
    *run = tm_min(at, end) - offset;
    return true;
}

/* Lets other windows give way until one more run fits. */
static void make_room(FileExtents *x, const FileWindow *keep, size_t more)
{
    size_t n = window_count(x);

    for (size_t tries = 0; x->runs + more > FILE_EXTENTS_MAX && tries < n; tries++) {
        FileWindow *w = &x->windows[x->hand++ % n];

        if (w != keep && w->live)
            window_drop(x, w);
    }
}

static bool grow(FileExtents *x, FileWindow *w)
{
    uint32_t room = w->room ? w->room * 2 : 4;
    uint64_t *runs;

    if (w->count < w->room)
        return true;
    if (room > WINDOW_RUNS_MAX)
        return false;
    make_room(x, w, room - w->room);
    runs = g_try_renew(uint64_t, w->runs, room);
    if (!runs)
        return false;
    x->runs += room - w->room;
    w->runs = runs;
    w->room = room;
    return true;
}

/* Sets the bits of the parts that lie wholly in the last run. */
static void mark_parts(FileExtents *x, FileWindow *w)
{
    uint64_t begin = w->count > 1 ? w->runs[w->count - 2] >> 1 : w->start;
    uint64_t part = (uint64_t)1 << (x->shift - 6);
    uint64_t first = tm_align_up(begin, part);
    uint64_t last = w->end == x->size ? w->end : tm_align_down(w->end, part);

    if (w->runs[w->count - 1] & 1 && first < last)
        __atomic_fetch_or(&w->parts, parts_touched(x, first, last), __ATOMIC_SEQ_CST);
}

/* Appends [from, to), which lies in @w. */
static void window_add(FileExtents *x, FileWindow *w, uint64_t from, uint64_t to, bool data)
{
    if (from != w->end || w->count == WINDOW_RUNS_MAX)
        window_drop(x, w);
    if (w->count && (w->runs[w->count - 1] & 1) == data) {
        w->runs[w->count - 1] = to << 1 | data;
    } else {
        if (!grow(x, w)) {
            window_drop(x, w);
            return;
        }
        if (!w->count)
            w->start = from;
        w->runs[w->count++] = to << 1 | data;
    }
    w->end = to;
    __atomic_store_n(&w->live, true, __ATOMIC_SEQ_CST);
    mark_parts(x, w);
}

static void remember(FileExtents *x, uint64_t from, uint64_t to, bool data, uint64_t sequence)
{
    while (from < to) {
        FileWindow *w = &x->windows[from >> x->shift];
        uint64_t end = tm_min(to, ((from >> x->shift) + 1) << x->shift);

        if (w->changed <= sequence && !(from >= w->start && end <= w->end))
            window_add(x, w, from, end, data);
        from = end;
    }
}

/* ---- asking */

/* Asks the kernel what is at @offset: [offset, *end) is *data or not. The two questions are not
 * one: if the data has gone in between, or the file has been cut off, they don't fit and are put
 * again. */
static int ask(FileExtents *x, uint64_t offset, bool *data, uint64_t *end)
{
    uint64_t size = __atomic_load_n(&x->size, __ATOMIC_RELAXED);

    for (int tries = 0; tries < ASK_MAX; tries++) {
        off_t at = x->sys->lseek(x->fd, (off_t)offset, SEEK_DATA);

        if (at < 0 && errno != ENXIO)
            return -errno;
        *data = at >= 0 && (uint64_t)at == offset;
        if (*data)
            at = x->sys->lseek(x->fd, (off_t)offset, SEEK_HOLE);
        if (*data && at < 0 && errno != ENXIO)
            return -errno;
        if (*data && (at < 0 || (uint64_t)at <= offset))
            continue;
        *end = at < 0 ? size : tm_min((uint64_t)at, size); /* nothing more: hole to the end */
        *end = tm_max(*end, offset + 1);                   /* it may just have been cut off */
        return 0;
    }
    return -EINVAL; /* it makes no sense of the question */
}

static int ask_and_remember(FileExtents *x, uint64_t offset, bool *data, uint64_t *end)
{
    uint64_t sequence;
    int ret;

    pthread_mutex_lock(&x->lock);
    sequence = x->sequence;
    pthread_mutex_unlock(&x->lock);
    __atomic_fetch_add(&x->asking, 1, __ATOMIC_SEQ_CST);
    ret = ask(x, offset, data, end);
    pthread_mutex_lock(&x->lock);
    if (ret == 0 && x->windows && sequence >= x->resized && *end <= x->size)
        remember(x, offset, *end, *data, sequence);
    pthread_mutex_unlock(&x->lock);
    __atomic_fetch_sub(&x->asking, 1, __ATOMIC_SEQ_CST);
    return ret;
}

int blk_file_extents_lookup(FileExtents *x, uint64_t offset, uint64_t length, bool *data,
                            uint64_t *run)
{
    uint64_t end = offset;
    bool known;
    int ret;

    if (__atomic_load_n(&x->opaque, __ATOMIC_RELAXED)) {
        *data = true;
        *run = length;
        return 0;
    }
    pthread_mutex_lock(&x->lock);
    known = table(x) && recall(x, offset, length, data, run);
    pthread_mutex_unlock(&x->lock);
    if (known)
        return 0;
    ret = ask_and_remember(x, offset, data, &end);
    if (ret == -EINVAL || ret == -EOPNOTSUPP) {
        __atomic_store_n(&x->opaque, true, __ATOMIC_RELAXED);
        return blk_file_extents_lookup(x, offset, length, data, run);
    }
    if (ret == 0)
        *run = tm_min(end - offset, length);
    return ret;
}
