/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/crash/medium.c: files, their changes and what a loss of power leaves; see the header. The
 * calls are in medium_calls.c. */
#include "tests/crash/medium_calls.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

static Medium *current; /* a TmSys has no context */
static int disk_fds[MEDIUM_DISKS] = { -1, -1 };

Medium *medium_use(Medium *m)
{
    Medium *before = current;

    current = m;
    return before;
}

Medium *medium_used(void)
{
    return current;
}

int medium_disk_fd(unsigned n)
{
    if (disk_fds[n] < 0)
        disk_fds[n] = memfd_create("disk", MFD_CLOEXEC);
    g_assert(disk_fds[n] >= 0);
    return disk_fds[n];
}

/* ---- images --------------------------------------------------------------------------------- */

static void image_reset(Image *image)
{
    if (image->high)
        memset(image->data, 0, image->high);
    image->high = 0;
    image->size = image->mtime = 0;
    image->xattr = -1;
    memset(image->allocated, 0, sizeof(image->allocated));
}

static void image_copy(Image *to, const Image *from)
{
    uint8_t *data = to->data;
    size_t high = to->high;

    if (from->high && !data)
        data = g_malloc0(MEDIUM_FILE_MAX);
    if (from->high)
        memcpy(data, from->data, from->high);
    if (high > from->high)
        memset(data + from->high, 0, high - from->high);
    *to = *from;
    to->data = data;
}

/* Bytes [from, to) are about to be written. */
uint8_t *image_touch(Image *image, size_t from, size_t to)
{
    if (!image->data)
        image->data = g_malloc0(MEDIUM_FILE_MAX);
    image->high = MAX(image->high, to);
    return image->data + from;
}

void image_allocate(Image *image, uint64_t from, uint64_t to)
{
    for (uint64_t page = from / MEDIUM_PAGE; from < to && page <= (to - 1) / MEDIUM_PAGE; page++)
        image->allocated[page] = true;
}

void image_set_size(Image *image, uint64_t size)
{
    if (size < image->high) {
        memset(image->data + size, 0, image->high - size);
        image->high = size;
    }
    for (uint64_t page = (size + MEDIUM_PAGE - 1) / MEDIUM_PAGE;
         page < MEDIUM_FILE_MAX / MEDIUM_PAGE; page++)
        image->allocated[page] = false;
    image->size = size;
}

/* ---- life ----------------------------------------------------------------------------------- */

Medium *medium_new(bool recording)
{
    Medium *m = g_new0(Medium, 1);

    m->recording = recording;
    m->changes = g_array_new(false, false, sizeof(Change));
    medium_reset(m);
    return m;
}

void medium_free(Medium *m)
{
    for (unsigned i = 0; i < MEDIUM_INODES; i++) {
        g_free(m->inodes[i].now.data);
        g_free(m->inodes[i].base.data);
        g_free(m->inodes[i].seen);
    }
    for (unsigned i = 0; i < MEDIUM_NAMES; i++)
        g_free(m->names[i]);
    g_array_unref(m->changes);
    g_free(m->violation);
    g_free(m);
}

static void inode_reset(Inode *inode)
{
    if (inode->seen)
        memset(inode->seen, 0, MEDIUM_FILE_MAX);
    inode->seen_high = 0;
    image_reset(&inode->now);
    image_reset(&inode->base);
    inode->used = inode->disk = inode->unwritten = false;
    inode->fds = 0;
}

void medium_reset(Medium *m)
{
    for (unsigned i = 0; i < MEDIUM_INODES; i++) {
        inode_reset(&m->inodes[i]);
    }
    for (unsigned i = 0; i < MEDIUM_NAMES; i++) {
        g_clear_pointer(&m->names[i], g_free);
        m->entry[i] = m->base_entry[i] = -1;
    }
    for (unsigned i = 0; i < MEDIUM_FDS; i++)
        m->fds[i].inode = -1;
    g_array_set_size(m->changes, 0);
    g_clear_pointer(&m->violation, g_free);
    m->fault = (MediumFault){ 0 };
    m->mappings = m->event = m->writes = m->syncs = 0;
    m->serials = 1;
    m->clock = UINT64_C(1700000000) * 1000000000;
}

void medium_broken(Medium *m, const char *format, ...)
{
    va_list args;

    if (m->violation)
        return;
    va_start(args, format);
    m->violation = g_strdup_vprintf(format, args);
    va_end(args);
}

/* ---- names and inodes ----------------------------------------------------------------------- */

int medium_name(Medium *m, const char *path, bool make)
{
    int unused = -1;

    if (!g_str_has_prefix(path, "/m/"))
        return -1;
    for (unsigned i = 0; i < MEDIUM_NAMES; i++) {
        if (!m->names[i])
            unused = unused < 0 ? (int)i : unused;
        else if (!strcmp(m->names[i], path + 3))
            return i;
    }
    /* A temporary name that nothing can refer to any more gives its place. */
    for (unsigned i = 0; make && unused < 0 && i < MEDIUM_NAMES; i++) {
        bool needed = m->entry[i] >= 0 || m->base_entry[i] >= 0;

        for (guint c = 0; !needed && c < m->changes->len; c++) {
            const Change *change = &g_array_index(m->changes, Change, c);

            needed =
                change->kind == CHANGE_ENTRY && (change->sector == i || change->from == (int)i);
        }
        if (!needed) {
            g_clear_pointer(&m->names[i], g_free);
            unused = i;
        }
    }
    if (!make)
        return -1;
    g_assert(unused >= 0);
    m->names[unused] = g_strdup(path + 3);
    return unused;
}

static bool inode_needed(const Medium *m, int n)
{
    if (m->inodes[n].fds || m->inodes[n].disk)
        return true;
    for (unsigned i = 0; i < MEDIUM_NAMES; i++) {
        if (m->entry[i] == n || m->base_entry[i] == n)
            return true;
    }
    for (guint i = 0; i < m->changes->len; i++) {
        const Change *change = &g_array_index(m->changes, Change, i);

        if (change->kind == CHANGE_ENTRY && change->inode == n)
            return true;
    }
    return false;
}

static void drop_changes_of(Medium *m, int n)
{
    for (guint i = m->changes->len; i-- > 0;) {
        if (g_array_index(m->changes, Change, i).inode == n)
            g_array_remove_index(m->changes, i);
    }
}

int medium_inode(Medium *m)
{
    for (unsigned i = 0; i < MEDIUM_INODES; i++) {
        Inode *inode = &m->inodes[i];

        if (inode->used && !inode_needed(m, i)) {
            drop_changes_of(m, i);
            inode_reset(inode);
        }
        if (!inode->used) {
            inode->used = true;
            inode->serial = m->serials++;
            inode->now.mtime = inode->base.mtime = m->clock;
            return i;
        }
    }
    g_error("the simulated medium has no inode left");
}

void medium_make_disk(Medium *m, unsigned n, uint64_t size)
{
    g_autofree char *path = g_strdup_printf("/m/disk%u", n);
    int name = medium_name(m, path, true), i = medium_inode(m);

    m->inodes[i].disk = true;
    m->inodes[i].now.size = m->inodes[i].base.size = size;
    m->entry[name] = m->base_entry[name] = i;
}

int medium_disk(const Medium *m, unsigned n)
{
    char wanted[] = "disk0";

    wanted[4] += n;
    for (unsigned i = 0; i < MEDIUM_NAMES; i++) {
        if (m->names[i] && !strcmp(m->names[i], wanted))
            return m->entry[i];
    }
    return -1;
}

uint64_t medium_disk_size(Medium *m, unsigned n)
{
    return m->inodes[medium_disk(m, n)].now.size;
}

Image *medium_file(Medium *m, const char *name)
{
    for (unsigned i = 0; i < MEDIUM_NAMES; i++) {
        if (m->names[i] && !strcmp(m->names[i], name))
            return m->entry[i] < 0 ? NULL : &m->inodes[m->entry[i]].now;
    }
    return NULL;
}

/* ---- events and states ---------------------------------------------------------------------- */

void medium_event(Medium *m, const char *what)
{
    if (!m->recording)
        return;
    if (m->on_event)
        m->on_event(m->opaque, what);
    m->event++;
}

void medium_observe(Medium *m, const char *what)
{
    medium_absorb(m, true);
    medium_event(m, what);
}

static void copy_inodes(Medium *to, const Medium *from)
{
    for (unsigned i = 0; i < MEDIUM_INODES; i++) {
        Inode *in = &to->inodes[i];
        const Inode *old = &from->inodes[i];

        if (!old->used) {
            if (in->used)
                inode_reset(in);
            continue;
        }
        in->used = true;
        in->disk = old->disk;
        in->unwritten = false; /* of what was there before */
        in->fds = 0;
        in->serial = old->serial;
        image_copy(&in->now, &old->base);
    }
}

static void copy_names(Medium *to, const Medium *from)
{
    for (unsigned i = 0; i < MEDIUM_NAMES; i++) {
        if (g_strcmp0(to->names[i], from->names[i])) {
            g_free(to->names[i]);
            to->names[i] = g_strdup(from->names[i]);
        }
        to->entry[i] = from->base_entry[i];
    }
}

/* What was found after the loss is all there is. */
static void settle(Medium *m)
{
    for (unsigned i = 0; i < MEDIUM_INODES; i++) {
        Inode *inode = &m->inodes[i];

        if (!inode->used)
            continue;
        if (!inode->disk)
            image_set_size(&inode->now, inode->now.size);
        if (!m->recording)
            continue;
        if (inode->seen)
            memset(inode->seen, 0, MEDIUM_FILE_MAX);
        inode->seen_high = inode->now.high;
        if (inode->now.high) {
            inode->seen = inode->seen ? inode->seen : g_malloc0(MEDIUM_FILE_MAX);
            memcpy(inode->seen, inode->now.data, inode->now.high);
        }
        image_copy(&inode->base, &inode->now);
    }
    memcpy(m->base_entry, m->entry, sizeof(m->entry));
    g_array_set_size(m->changes, 0);
}

void medium_cut(Medium *to, const Medium *from, const uint8_t *kept)
{
    g_assert(to != from);
    copy_inodes(to, from);
    copy_names(to, from);
    for (guint i = 0; i < from->changes->len; i++) {
        const Change *change = &g_array_index(from->changes, Change, i);

        if (!kept || kept[i])
            change_apply(change, change->inode < 0 ? NULL : &to->inodes[change->inode].now,
                         to->entry);
    }
    medium_close_all(to);
    g_clear_pointer(&to->violation, g_free);
    to->fault = (MediumFault){ 0 };
    to->writes = 0;
    to->clock = from->clock + 1000000000;
    to->serials = from->serials;
    settle(to);
}

uint64_t medium_hash(const Medium *m)
{
    uint64_t hash = 0;

    for (unsigned i = 0; i < MEDIUM_NAMES; i++) {
        const Image *image = m->entry[i] < 0 ? NULL : &m->inodes[m->entry[i]].now;
        uint64_t head[4] = { hash, i };

        if (image) {
            head[2] = image->size + 1;
            head[3] = image->mtime;
            hash = XXH64(image->data, image->high, XXH64(head, sizeof(head), image->xattr));
        }
    }
    return hash;
}

void medium_close_all(Medium *m)
{
    for (unsigned i = 0; i < MEDIUM_INODES; i++)
        m->inodes[i].fds = 0;
    for (unsigned i = 0; i < MEDIUM_FDS; i++)
        m->fds[i].inode = -1;
    m->mappings = 0;
}

unsigned medium_open_count(const Medium *m)
{
    unsigned n = m->mappings;

    for (unsigned i = 0; i < MEDIUM_FDS; i++)
        n += m->fds[i].inode != -1;
    return n;
}

void medium_dump(const Medium *m, const char *path)
{
    for (unsigned i = 0; i < MEDIUM_NAMES; i++) {
        g_autofree char *name = g_strdup_printf("%s/%s", path, m->names[i]);
        const Image *image = m->entry[i] < 0 ? NULL : &m->inodes[m->entry[i]].now;

        if (image && !m->inodes[m->entry[i]].disk)
            g_file_set_contents(name, image->data ? (const char *)image->data : "", image->size,
                                NULL);
    }
}

bool medium_take(const char *name, const char *path)
{
    g_autofree char *bytes = NULL;
    gsize length;
    int fd;
    bool ok;

    if (!g_file_get_contents(path, &bytes, &length, NULL))
        return false;
    fd = medium_sys.open(name, O_RDWR | O_CREAT, 0600);
    if (fd < 0)
        return false;
    ok = tm_write_all(&medium_sys, fd, bytes, length, 0) == 0 && tm_fsync(&medium_sys, fd) == 0;
    medium_sys.close(fd);
    return ok;
}
