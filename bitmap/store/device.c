/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* bitmap/store/device.c: what distinguishes block devices, as sysfs has it.
 *
 * A serial number, a world-wide name or the uuid of a mapping or an array outlives a restart of the
 * machine, and names a partition together with its number. The kernel's own number for an instance
 * of a device (diskseq, Linux 5.15) is never used twice in one run of the machine, and as long as
 * it is the same the sectors written to the device only ever become more. */
#include "bitmap/store/store_internal.h"

#include <inttypes.h>
#include <linux/loop.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

#define VALUE_MAX 4096u

/* The bytes of an attribute of the device; 0: it has none. */
static size_t read_attribute(const TmSys *sys, uint64_t number, const char *name, char *value)
{
    g_autofree char *path =
        g_strdup_printf("/sys/dev/block/%u:%u/%s", major(number), minor(number), name);
    int fd = sys->open(path, O_RDONLY | O_CLOEXEC, 0);
    struct iovec iov = { value, VALUE_MAX };
    ssize_t n;

    if (fd < 0)
        return 0;
    n = sys->preadv2(fd, &iov, 1, 0, 0);
    sys->close(fd);
    value[n > 0 ? n : 0] = '\0';
    g_strchomp(value);
    return n > 0 && *value ? (size_t)n : 0;
}

/* Of a partition what names its disk is one directory up. */
static uint64_t read_serial(const TmSys *sys, uint64_t number)
{
    static const char *const names[] = { "dm/uuid",        "md/uuid",         "serial",
                                         "wwid",           "device/wwid",     "device/vpd_pg83",
                                         "device/serial",  "../serial",       "../wwid",
                                         "../device/wwid", "../device/serial" };
    char value[VALUE_MAX + 1];
    uint64_t serial = 0;
    size_t n;

    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
        n = read_attribute(sys, number, names[i], value);
        if (n)
            serial = bmp_checksum(value, n, serial + i + 1);
    }
    n = serial ? read_attribute(sys, number, "partition", value) : 0;
    return n ? bmp_checksum(value, n, serial) : serial;
}

static uint64_t read_instance(const TmSys *sys, uint64_t number)
{
    char value[VALUE_MAX + 1];

    if (!read_attribute(sys, number, "diskseq", value) &&
        !read_attribute(sys, number, "../diskseq", value))
        return 0;
    return g_ascii_strtoull(value, NULL, 10);
}

/* The seventh number of "stat": sectors written. */
static uint64_t read_written(const TmSys *sys, uint64_t number)
{
    char value[VALUE_MAX + 1], *at = value;
    uint64_t written = 0;

    if (!read_attribute(sys, number, "stat", value))
        return 0;
    for (unsigned i = 0; i < 7; i++)
        written = g_ascii_strtoull(at, &at, 10);
    return written;
}

void bmp_device_read(const TmSys *sys, uint64_t number, BmpIdentity *identity)
{
    identity->dev = number;
    identity->serial = read_serial(sys, number);
    identity->instance = read_instance(sys, number);
    identity->written = read_written(sys, number);
}

int bmp_device_loop_file(const TmSys *sys, int fd, uint64_t number)
{
    char path[VALUE_MAX + 1];
    struct loop_info64 info;
    struct stat st;
    int file;

    if (sys->ioctl(fd, LOOP_GET_STATUS64, &info) < 0 ||
        !read_attribute(sys, number, "loop/backing_file", path))
        return -1;
    file = sys->open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK, 0);
    if (file >= 0 && sys->fstat(file, &st) == 0 && S_ISREG(st.st_mode) &&
        st.st_ino == info.lo_inode)
        return file;
    if (file >= 0)
        sys->close(file);
    return -1;
}
