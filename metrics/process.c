/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* metrics/process.c: memory, threads, processor time and descriptors of this process, from
 * /proc. */
#include "metrics/metrics_internal.h"

#include <dirent.h>
#include <glib.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static unsigned descriptors(void)
{
    DIR *dir = opendir("/proc/self/fd");
    unsigned n = 0;

    while (dir && readdir(dir))
        n++;
    if (dir)
        closedir(dir);
    return n > 3 ? n - 3 : 0; /* ".", ".." and that of @dir */
}

/* Seconds since 1970 at which the process began, @ticks after the boot. */
static double start_time(unsigned long long ticks)
{
    struct timespec now, up;

    clock_gettime(CLOCK_REALTIME, &now);
    clock_gettime(CLOCK_BOOTTIME, &up);
    return (double)(now.tv_sec - up.tv_sec) + (double)(now.tv_nsec - up.tv_nsec) / 1e9 +
           (double)ticks / (double)sysconf(_SC_CLK_TCK);
}

json_object *metrics_process(void)
{
    json_object *row = json_object_new_object();
    g_autofree char *text = NULL;
    unsigned long long user, system, began, virtual;
    long threads, resident;
    const char *rest;

    if (!g_file_get_contents("/proc/self/stat", &text, NULL, NULL) ||
        !(rest = strrchr(text, ')')) ||
        sscanf(rest + 1,
               " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu %*d %*d %*d %*d %ld %*d %llu"
               " %llu %ld",
               &user, &system, &threads, &began, &virtual, &resident) != 6)
        return row;
    json_object_object_add(
        row, "cpu", json_object_new_double((double)(user + system) / (double)sysconf(_SC_CLK_TCK)));
    json_object_object_add(row, "start", json_object_new_double(start_time(began)));
    tm_json_add_uint(row, "threads", (uint64_t)threads);
    tm_json_add_uint(row, "virtual", virtual);
    tm_json_add_uint(row, "resident", (uint64_t)resident * (uint64_t)sysconf(_SC_PAGESIZE));
    tm_json_add_uint(row, "descriptors", descriptors());
    return row;
}
