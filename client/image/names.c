/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/image/names.c: what image files are and what others they name, from their first cluster.
 *
 * Source: QEMU docs/interop/qcow2.txt. Nothing of it is trusted; that the image as a whole is sound
 * is for whoever opens it to find out. */
#include "client/image/image.h"

#include "block/image/image.h"
#include "block/named.h"
#include "block/rbd_name.h"
#include "util/endian.h"
#include "util/range.h"
#include "util/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAGIC          0x514649fbu
#define HEADER_2       72u
#define HEADER_MAX     (1u << 21) /* a cluster at most */
#define NAME_MAX_BYTES 1023u
#define EXT_END        0u
#define EXT_FORMAT     0xe2792acau
#define EXT_DATA_FILE  0x44415441u
#define HAS_DATA_FILE  4u /* of the incompatible features */

/* The first bytes of the file, up to @max; g_free. */
static uint8_t *read_start(int fd, const char *path, size_t max, size_t *length, GError **error)
{
    g_autofree uint8_t *bytes = g_malloc(max);
    ssize_t n = 0;

    *length = 0;
    while (*length < max && (n = pread(fd, bytes + *length, max - *length, (off_t)*length)) > 0)
        *length += (size_t)n;
    if (n >= 0)
        return g_steal_pointer(&bytes);
    tm_error_set_errno(error, errno, "Could not read '%s'", path);
    return NULL;
}

static int open_image(const char *path, GError **error)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0)
        tm_error_set_errno(error, errno, "Could not open '%s'", path);
    else if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
        tm_error_set(error, "'%s' is neither a file nor a block device", path);
    else
        return fd;
    if (fd >= 0)
        close(fd);
    return -1;
}

static char *name_at(const uint8_t *bytes, size_t length, uint64_t offset, uint64_t size)
{
    if (!size || size > NAME_MAX_BYTES || offset > length || size > length - offset ||
        !bytes[offset])
        return NULL;
    return g_strndup((const char *)bytes + offset, size);
}

/* Of several of a type the last one counts, as for whoever opens it. Takes @value. */
static void set(char **name, char *value)
{
    g_free(*name);
    *name = value;
}

static void read_extensions(const uint8_t *bytes, size_t length, TcImageNames *names)
{
    uint32_t version = tm_get_be32(bytes + 4);
    uint64_t at = version >= 3 && length >= 104 ? tm_get_be32(bytes + 100) : HEADER_2;

    while (at + 8 <= length) {
        uint32_t type = tm_get_be32(bytes + at), size = tm_get_be32(bytes + at + 4);

        at += 8;
        if (type == EXT_END || size > length - at)
            return;
        if (type == EXT_FORMAT)
            set(&names->backing_format, name_at(bytes, length, at, size));
        if (type == EXT_DATA_FILE)
            set(&names->data_file, name_at(bytes, length, at, size));
        at += ((uint64_t)size + 7) / 8 * 8;
    }
}

bool tc_image_names(const char *path, const char *format, TcImageNames *names, GError **error)
{
    bool ok;
    int fd;

    *names = (TcImageNames){ 0 };
    if (strcmp(format, "qcow2"))
        return true;
    fd = open_image(path, error);
    if (fd < 0)
        return false;
    ok = tc_image_names_of(fd, path, names, error);
    close(fd);
    return ok;
}

static bool parse_start(const uint8_t *bytes, size_t length, const char *path, TcImageNames *names,
                        GError **error)
{
    if (length < HEADER_2 || tm_get_be32(bytes) != MAGIC)
        return tm_error_set(error, "'%s' is not in qcow2 format", path);
    names->backing = name_at(bytes, length, tm_get_be64(bytes + 8), tm_get_be32(bytes + 16));
    read_extensions(bytes, length, names);
    if (tm_get_be32(bytes + 4) < 3 || length < 80 || !(tm_get_be64(bytes + 72) & HAS_DATA_FILE))
        set(&names->data_file, NULL);
    return true;
}

bool tc_image_names_of(int fd, const char *path, TcImageNames *names, GError **error)
{
    g_autofree uint8_t *bytes = NULL;
    size_t length;

    *names = (TcImageNames){ 0 };
    bytes = read_start(fd, path, HEADER_MAX, &length, error);
    return bytes && parse_start(bytes, length, path, names, error);
}

bool tc_image_names_through(BlkNode *node, const char *path, TcImageNames *names, GError **error)
{
    uint64_t length = tm_min(blk_node_size(node), HEADER_MAX);
    g_autofree uint8_t *bytes = g_malloc(HEADER_MAX);
    int ret = blk_node_pread(node, bytes, 0, length);

    *names = (TcImageNames){ 0 };
    if (ret < 0)
        return tm_error_set_errno(error, -ret, "Could not read '%s'", path);
    return parse_start(bytes, length, path, names, error);
}

void tc_image_names_clear(TcImageNames *names)
{
    g_clear_pointer(&names->backing, g_free);
    g_clear_pointer(&names->backing_format, g_free);
    g_clear_pointer(&names->data_file, g_free);
}

bool tc_image_check_path(const char *path, GError **error)
{
    if (g_str_has_prefix(path, "json:"))
        return tm_error_set(error,
                            "'%s' describes nodes, and FILE is the path of an image: use its path, "
                            "with --format",
                            path);
    if (g_str_has_prefix(path, "nbd:") || g_str_has_prefix(path, "nbd+unix:") ||
        g_str_has_prefix(path, "nbds:") || g_str_has_prefix(path, "nbds+unix:"))
        return tm_error_set(error,
                            "'%s' is an NBD URI, and FILE is the path of an image: 'tidemark info' "
                            "and 'tidemark map' show exports",
                            path);
    if (blk_is_rbd_name(path))
        return tm_error_set(error,
                            "'%s' is an image in a Ceph cluster, and FILE is the path of an image: "
                            "'tidemark serve' exports it",
                            path);
    return true;
}

char *tc_image_path(const char *path, const char *name, const char *names, GError **error)
{
    g_autofree char *found = NULL;
    int fd, ret = blk_name_resolve(path, name, names, &found, &fd);

    if (fd >= 0)
        close(fd);
    if (ret == -EPROTONOSUPPORT)
        tm_error_set(error,
                     "'%s' names '%s', which is not a path: use --backing-names any to open it",
                     path, name);
    else if (ret == -EXDEV)
        tm_error_set(error,
                     "'%s' names '%s', which is not a file in its own directory or below it: use "
                     "--backing-names any to open it",
                     path, name);
    else if (ret < 0)
        tm_error_set_errno(error, -ret, "Could not open '%s'", found);
    return ret < 0 ? NULL : g_steal_pointer(&found);
}

bool tc_image_same(const char *a, const char *b)
{
    struct stat sa, sb;

    return stat(a, &sa) == 0 && stat(b, &sb) == 0 && sa.st_dev == sb.st_dev &&
           sa.st_ino == sb.st_ino;
}
