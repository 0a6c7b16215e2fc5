/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* bitmap/store/inspect.c: a store without a daemon: what it holds, and making it usable. */
#include "bitmap/store/store_internal.h"

#include "util/error.h"

#include <errno.h>
#include <string.h>

typedef struct Opened {
    int fd, disk_fd;
    bool unsynced; /* what others have written, to disk or store, may not be on the medium */
    BmpIdentity disk;
    BmpRecovered found;
    uint64_t file_size;
} Opened;

static void opened_close(const TmSys *sys, Opened *o)
{
    if (o->fd >= 0)
        sys->close(o->fd);
    if (o->disk_fd >= 0)
        sys->close(o->disk_fd);
    bmp_recovered_clear(&o->found);
}

/* The size of the disk, if the kernel says. */
static uint64_t disk_size(const TmSys *sys, const Opened *o)
{
    off_t end = o->disk.device ? sys->lseek(o->disk_fd, 0, SEEK_END) : (off_t)o->disk.size;

    return end < 0 ? 0 : (uint64_t)end;
}

static bool open_both(const TmSys *sys, const char *path, const char *disk, Opened *o,
                      GError **error)
{
    *o = (Opened){ .fd = -1, .disk_fd = -1 };
    o->fd = sys->open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK, 0);
    if (o->fd < 0)
        return tm_error_set_errno(error, errno, "Could not open bitmap store '%s'", path);
    if (disk)
        o->disk_fd = sys->open(disk, O_RDONLY | O_CLOEXEC | O_NONBLOCK, 0);
    if (disk && o->disk_fd < 0)
        return tm_error_set_errno(error, errno, "Could not open disk '%s'", disk);
    o->unsynced = bmp_identity_sync(sys, o->disk_fd) < 0;
    bmp_identity_read(sys, o->disk_fd, &o->disk);
    return true;
}

/* @repair: what is found is to be written, and what it says must be on the medium, as where a disk
 * is opened; who only looks leaves the error to those who do. */
static bool open_and_recover(const TmSys *sys, const char *path, const char *disk,
                             const uint8_t boot_id[16], bool repair, Opened *o, GError **error)
{
    BmpRecoverOptions options = { .sys = sys, .path = path, .boot_id = boot_id };
    struct stat st;

    if (!open_both(sys, path, disk, o, error))
        return false;
    if (sys->fstat(o->fd, &st) < 0 || !S_ISREG(st.st_mode))
        return tm_error_set(error, "Bitmap store '%s' is not a regular file", path);
    o->file_size = (uint64_t)st.st_size;
    options.fd = o->fd;
    options.disk = &o->disk;
    options.size_known = disk != NULL;
    options.disk_size = disk ? disk_size(sys, o) : 0;
    options.accept_changed = !disk;
    if (repair && !bmp_store_file_locked(sys, o->fd) && tm_fsync(sys, o->fd) < 0)
        o->unsynced = true;
    options.unsynced = repair && o->unsynced;
    bmp_recover(&options, &o->found);
    bmp_recovered_drop_unfinished(&o->found, NULL);
    if (o->found.verdict != BMP_FOUND_NOTHING)
        return true;
    const BmpProblem *problem = o->found.reports->len ? o->found.reports->pdata[0] : NULL;
    return tm_error_set(error, "%s", problem ? problem->reason : "not a bitmap store");
}

static void record_free(void *opaque)
{
    bmp_record_clear(opaque);
    g_free(opaque);
}

bool bmp_store_inspect(const TmSys *sys, const char *path, const char *disk,
                       const uint8_t boot_id[16], BmpStoreInfo *info, GError **error)
{
    Opened o;

    if (!open_and_recover(sys, path, disk, boot_id, false, &o, error)) {
        opened_close(sys, &o);
        return false;
    }
    *info = (BmpStoreInfo){ .super = o.found.super, .file_size = o.file_size };
    info->usable = o.found.verdict == BMP_FOUND_STORE;
    info->in_use = bmp_store_file_locked(sys, o.fd);
    info->records = g_ptr_array_new_with_free_func(record_free);
    info->problems = g_ptr_array_new_with_free_func(g_free);
    for (guint i = 0; i < o.found.records->len; i++) {
        BmpRecord *record = &g_array_index(o.found.records, BmpRecord, i);

        g_ptr_array_add(info->records, g_memdup2(record, sizeof(*record)));
        *record = (BmpRecord){ 0 };
    }
    for (guint i = 0; i < o.found.reports->len; i++) {
        const BmpProblem *problem = o.found.reports->pdata[i];

        g_ptr_array_add(info->problems,
                        problem->bitmap
                            ? g_strdup_printf("bitmap '%s': %s", problem->bitmap, problem->reason)
                            : g_strdup(problem->reason));
    }
    opened_close(sys, &o);
    return true;
}

void bmp_store_info_clear(BmpStoreInfo *info)
{
    if (info->records)
        g_ptr_array_unref(info->records);
    if (info->problems)
        g_ptr_array_unref(info->problems);
    *info = (BmpStoreInfo){ 0 };
}

/* The safest state that can be used: what nobody knows is dirty. */
static void make_safe(GArray *records, uint64_t size)
{
    for (guint i = 0; i < records->len; i++) {
        BmpRecord *record = &g_array_index(records, BmpRecord, i);
        uint64_t before = bmp_bits_count(&record->bits);

        if (!record->inconsistent)
            continue;
        record->inconsistent = false;
        bmp_bits_clear_all(&record->bits);
        bmp_bits_init(&record->bits, size, record->shift);
        bmp_bits_set_bytes(&record->bits, 0, size);
        record->recovered += (bmp_bits_count(&record->bits) - before) << record->shift;
    }
}

static bool write_safe(const TmSys *sys, const char *path, const uint8_t boot_id[16], Opened *o,
                       GError **error)
{
    g_autofree char *layer = g_strdup(o->found.super.layer);
    BmpStore store = {
        .o = { .sys = sys, .durability = BMP_DURABLE_POWER },
        .path = (char *)path,
        .layer = layer,
        .fd = -1,
        .disk_fd = o->disk_fd,
        .super = o->found.super,
        .replace = true,
    };
    bool ok;

    memcpy(store.o.boot_id, boot_id, 16);
    pthread_mutex_init(&store.ticking, NULL);
    pthread_mutex_init(&store.lock, NULL);
    ok = bmp_store_write_new(&store, (BmpRecord *)(void *)o->found.records->data,
                             o->found.records->len, BMP_STORE_CLOSED, error);
    if (store.fd >= 0)
        sys->close(store.fd);
    pthread_mutex_destroy(&store.ticking);
    pthread_mutex_destroy(&store.lock);
    return ok;
}

static bool repair(const TmSys *sys, const char *path, const uint8_t boot_id[16], Opened *o,
                   GError **error)
{
    if (bmp_store_file_locked(sys, o->fd))
        return tm_error_set(error, "Bitmap store '%s' is in use by another process", path);
    if (o->found.verdict != BMP_FOUND_STORE)
        return tm_error_set(error,
                            "Bitmap store '%s' can't be repaired: nothing of it can be trusted; "
                            "remove it to start again",
                            path);
    if (o->disk.known && bmp_layer_is_whole_file(o->found.super.layer))
        o->found.super.disk_size = disk_size(sys, o);
    make_safe(o->found.records, o->found.super.disk_size);
    if (!o->found.records->len) {
        if (!bmp_store_file_remove(sys, path, error))
            return false;
        bmp_identity_unmark(sys, o->disk_fd, o->found.super.uuid);
        return true;
    }
    return write_safe(sys, path, boot_id, o, error);
}

bool bmp_store_repair(const TmSys *sys, const char *path, const char *disk,
                      const uint8_t boot_id[16], GError **error)
{
    Opened o;
    bool ok = open_and_recover(sys, path, disk, boot_id, true, &o, error) &&
              repair(sys, path, boot_id, &o, error);

    if (!ok && o.unsynced) /* nobody else will get the error */
        bmp_identity_unmark(sys, o.disk_fd, o.found.super.uuid);
    opened_close(sys, &o);
    return ok;
}
