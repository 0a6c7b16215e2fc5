/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* util/mapping.c: the guarded mappings and the handler of SIGBUS.
 *
 * A signal handler is given nothing but an address, so the table of mappings is the one global
 * here. The handler takes no lock: a slot is published by its address, last, and taken back by it,
 * first. */
#include "util/mapping.h"

#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

/* Linux has fewer mappings for a process, unless it is configured otherwise. */
#define SLOTS     65536
#define HUGETLBFS 0x958458f6 /* statfs(2)'s f_type */

static struct {
    uintptr_t address; /* atomic; 0: free; 1: being made or closed */
    size_t length;     /* atomic */
    size_t page;       /* atomic: the bytes that are replaced at a time */
    int broken;        /* atomic */
} guarded[SLOTS];

/* What is interrupted may be an access of the thread sanitizer's runtime that holds its locks, so
 * the handler calls nothing that takes them: it is not instrumented, and maps without the
 * library. */
#if defined(__clang__) && __clang_major__ >= 14
#define NOT_SANITIZED __attribute__((disable_sanitizer_instrumentation))
#else
#define NOT_SANITIZED
#endif

/* The kernel divides a mapping of huge pages nowhere but between them. */
NOT_SANITIZED static bool replace_page(uintptr_t at)
{
    for (int i = 0; i < SLOTS; i++) {
        uintptr_t address = __atomic_load_n(&guarded[i].address, __ATOMIC_ACQUIRE);
        size_t page = __atomic_load_n(&guarded[i].page, __ATOMIC_RELAXED);

        if (address <= 1 || at < address ||
            at - address >= __atomic_load_n(&guarded[i].length, __ATOMIC_RELAXED))
            continue;
        __atomic_store_n(&guarded[i].broken, 1, __ATOMIC_RELEASE);
        return syscall(SYS_mmap, at & ~(page - 1), page, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) != -1;
    }
    return false;
}

NOT_SANITIZED static void on_sigbus(int number, siginfo_t *info, void *context)
{
    int saved = errno;

    if (!replace_page((uintptr_t)info->si_addr))
        signal(SIGBUS, SIG_DFL); /* the access is repeated, and ends the process */
    errno = saved;
    (void)number;
    (void)context;
}

void tm_mapping_guard_install(void)
{
    struct sigaction action = { .sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO };

    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, NULL);
}

size_t tm_mapping_page_size(int fd)
{
    struct statfs fs;

    return fstatfs(fd, &fs) == 0 && fs.f_type == HUGETLBFS ? (size_t)fs.f_bsize
                                                           : (size_t)sysconf(_SC_PAGESIZE);
}

static int take_slot(void *address, size_t length, size_t page)
{
    for (int i = 0; i < SLOTS; i++) {
        uintptr_t none = 0;

        if (!__atomic_compare_exchange_n(&guarded[i].address, &none, 1, false, __ATOMIC_ACQ_REL,
                                         __ATOMIC_RELAXED))
            continue;
        __atomic_store_n(&guarded[i].length, length, __ATOMIC_RELAXED);
        __atomic_store_n(&guarded[i].page, page, __ATOMIC_RELAXED);
        __atomic_store_n(&guarded[i].broken, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&guarded[i].address, (uintptr_t)address, __ATOMIC_RELEASE);
        return i;
    }
    return -1;
}

int tm_mapping_open(TmMapping *mapping, const TmSys *sys, int fd, uint64_t offset, size_t length)
{
    void *address = sys->mmap(fd, (off_t)offset, length);

    if (!address)
        return -errno;
    *mapping = (TmMapping){ .sys = sys, .address = address, .length = length };
    mapping->slot = take_slot(address, length, tm_mapping_page_size(fd));
    if (mapping->slot >= 0)
        return 0;
    tm_mapping_close(mapping); /* one that is not guarded could end the process */
    return -EMFILE;
}

void tm_mapping_close(TmMapping *mapping)
{
    if (!mapping->address)
        return;
    if (mapping->slot >= 0)
        __atomic_store_n(&guarded[mapping->slot].address, 1, __ATOMIC_RELEASE);
    mapping->sys->munmap(mapping->address, mapping->length);
    if (mapping->slot >= 0)
        __atomic_store_n(&guarded[mapping->slot].address, 0, __ATOMIC_RELEASE);
    mapping->address = NULL;
}

bool tm_mapping_broken(const TmMapping *mapping)
{
    return mapping->address && mapping->slot >= 0 &&
           __atomic_load_n(&guarded[mapping->slot].broken, __ATOMIC_ACQUIRE);
}
