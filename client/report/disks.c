/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/report/disks.c: where the images of a daemon are, and how their bitmap stores are. A disk
 * may hang, and whoever asks it hangs along: a thread does that, and may be left behind. */
#include "client/report/gather.h"
#include "client/store/store_view.h"
#include "util/sync.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>

#define DISKS_MAX 1000u

typedef struct Gathering {
    int refs; /* atomic */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    GPtrArray *paths;   /* strings, constant */
    json_object *disks; /* under the lock */
    bool done;          /* under the lock */
} Gathering;

static void gathering_unref(Gathering *g)
{
    if (!tm_unref(&g->refs))
        return;
    pthread_mutex_destroy(&g->lock);
    pthread_cond_destroy(&g->changed);
    g_ptr_array_unref(g->paths);
    json_object_put(g->disks);
    g_free(g);
}

/* "MOUNT-POINT FILE-SYSTEM SOURCE OPTIONS" of the mount that has @path: the last one of the longest
 * of those above it. See proc_pid_mountinfo(5). */
static char *mount_of(const char *path)
{
    g_autofree char *text = NULL, *found = NULL;
    g_auto(GStrv) lines = NULL;
    size_t best = 0;

    if (!g_file_get_contents("/proc/self/mountinfo", &text, NULL, NULL))
        return NULL;
    lines = g_strsplit(text, "\n", -1);
    for (guint i = 0; lines[i]; i++) {
        g_auto(GStrv) fields = g_strsplit(lines[i], " ", -1);
        guint n = g_strv_length(fields), dash = 6;
        size_t length;

        while (dash < n && strcmp(fields[dash], "-"))
            dash++;
        if (dash + 3 >= n)
            continue;
        length = strlen(fields[4]);
        if (strncmp(path, fields[4], length) || length < best ||
            (length > 1 && path[length] != '/' && path[length]))
            continue;
        best = length;
        g_free(found);
        found = g_strdup_printf("%s %s %s %s,%s", fields[4], fields[dash + 1], fields[dash + 2],
                                fields[5], fields[dash + 3]);
    }
    return g_steal_pointer(&found);
}

static void add_file(json_object *disk, const char *path)
{
    g_autofree char *real = realpath(path, NULL);
    g_autofree char *mount = real ? mount_of(real) : NULL;
    struct stat st;
    struct statvfs fs;

    if (stat(path, &st) < 0) {
        json_object_object_add(disk, "error", json_object_new_string(g_strerror(errno)));
        return;
    }
    json_object_object_add(disk, "type",
                           json_object_new_string(S_ISREG(st.st_mode)   ? "file"
                                                  : S_ISBLK(st.st_mode) ? "block device"
                                                                        : "other"));
    json_object_object_add(disk, "size", json_object_new_int64(st.st_size));
    json_object_object_add(disk, "allocated", json_object_new_int64(st.st_blocks * 512));
    json_object_object_add(disk, "mode", json_object_new_int(st.st_mode & 07777));
    if (mount)
        json_object_object_add(disk, "mount", json_object_new_string(mount));
    if (statvfs(path, &fs) == 0)
        json_object_object_add(disk, "free",
                               json_object_new_uint64((uint64_t)fs.f_bavail * fs.f_frsize));
}

static void add_store(json_object *disk, const char *path)
{
    g_auto(TcStorePlace) place = { 0 };
    g_autoptr(GError) error = NULL;
    json_object *store = NULL;

    if (tc_store_find(&tm_sys_kernel, path, NULL, &place, &error))
        store = tc_store_describe(&tm_sys_kernel, &place, &error);
    json_object_object_add(disk, "bitmap-store", store ? store : tc_report_error(error->message));
}

static void *run(void *opaque)
{
    Gathering *g = opaque;

    for (guint i = 0; i < g->paths->len; i++) {
        const char *path = g->paths->pdata[i];
        json_object *disk = tc_json_new("path", path, NULL);

        add_file(disk, path);
        if (!tc_json_get(disk, "error", NULL))
            add_store(disk, path);
        pthread_mutex_lock(&g->lock);
        json_object_array_add(g->disks, disk);
        pthread_mutex_unlock(&g->lock);
    }
    pthread_mutex_lock(&g->lock);
    g->done = true;
    pthread_cond_signal(&g->changed);
    pthread_mutex_unlock(&g->lock);
    gathering_unref(g);
    return NULL;
}

static Gathering *gathering_new(const GPtrArray *paths)
{
    Gathering *g = g_new0(Gathering, 1);
    pthread_condattr_t attributes;

    g->refs = 2; /* and the thread's */
    pthread_mutex_init(&g->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&g->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    g->paths = g_ptr_array_new_with_free_func(g_free);
    for (guint i = 0; i < MIN(paths->len, DISKS_MAX); i++)
        g_ptr_array_add(g->paths, g_strdup(paths->pdata[i]));
    g->disks = json_object_new_array();
    return g;
}

/* What there is in time; a disk that answers later would be added to the original. */
static json_object *wait_for(Gathering *g, unsigned seconds)
{
    json_object *disks = NULL;
    struct timespec until;
    int late = 0;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += seconds;
    TM_GUARD(&g->lock);
    while (!g->done && !late)
        late = pthread_cond_timedwait(&g->changed, &g->lock, &until);
    if (json_object_deep_copy(g->disks, &disks, NULL) < 0)
        disks = json_object_new_array();
    if (!g->done && json_object_array_length(disks) < g->paths->len) {
        const char *path = g->paths->pdata[json_object_array_length(disks)];
        g_autofree char *why = g_strdup_printf("no answer within %u seconds", seconds);

        json_object_array_add(disks, tc_json_new("path", path, "error", why, NULL));
    }
    return disks;
}

json_object *tc_report_disks(const GPtrArray *paths, unsigned seconds)
{
    Gathering *g = gathering_new(paths);
    json_object *disks;
    pthread_t thread;

    if (pthread_create(&thread, NULL, run, g) == 0)
        pthread_detach(thread);
    else
        run(g);
    disks = wait_for(g, seconds);
    gathering_unref(g);
    return disks;
}
