/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* util/secret.c: see the header. */
#include "util/secret.h"

#include "util/error.h"
#include "util/file.h"

#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#define READ_MIN 4095u  /* bytes, with the NUL a page: files of the kernel claim to have none */
#define PIPE_MAX 65536u /* bytes of a pipe, which can't say how many they are */

bool tm_secret_new(TmSecret *secret, size_t size, GError **error)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), mapped = (size / page + 1) * page;
    void *data = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (data == MAP_FAILED)
        return tm_error_set(error, "Not enough memory for a secret of %zu bytes", size);
    madvise(data, mapped, MADV_DONTDUMP);
    mlock(data, mapped); /* as far as RLIMIT_MEMLOCK goes */
    *secret = (TmSecret){ .data = data, .length = size, .mapped = mapped };
    return true;
}

bool tm_secret_read(TmSecret *secret, const char *path, size_t max, GError **error)
{
    g_auto(TmSecret) read = { 0 };
    uint64_t size;
    int fd = tm_file_open(path, &size, error);
    ssize_t n;

    if (fd < 0)
        return false;
    if (!tm_secret_new(&read, MIN(size == UINT64_MAX ? PIPE_MAX : MAX(size, READ_MIN), max) + 1,
                       error)) {
        close(fd);
        return false;
    }
    n = tm_file_fill(fd, path, read.data, read.length, error);
    close(fd);
    if (n < 0)
        return false;
    if (n == 0 && size == UINT64_MAX)
        return tm_error_set(error, "Unable to read '%s': nothing came through the pipe", path);
    if ((size_t)n == read.length)
        return tm_error_set(error, "'%s' is too large for a secret: more than %zu bytes", path,
                            read.length - 1);
    read.length = (size_t)n;
    *secret = read;
    read = (TmSecret){ 0 };
    return true;
}

void tm_secret_clear(TmSecret *secret)
{
    if (!secret->data)
        return;
    explicit_bzero(secret->data, secret->mapped);
    munmap(secret->data, secret->mapped);
    *secret = (TmSecret){ 0 };
}

void tm_secret_no_dumps(void)
{
#if !defined(__SANITIZE_ADDRESS__) /* the leak checker looks into this process from another one */
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
#endif
}
