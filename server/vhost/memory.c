/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/vhost/memory.c: the guest's memory, region by region. */
#include "server/vhost/vhost_internal.h"

#include "util/range.h"

#include <errno.h>
#include <sys/stat.h>

int vhost_map(TmMapping *mapping, int fd, uint64_t offset, uint64_t length, uint8_t **at)
{
    uint64_t page = tm_mapping_page_size(fd), begin = tm_align_down(offset, page);
    struct stat st;
    int err;

    if (fstat(fd, &st) < 0)
        return -errno;
    if (!length || !tm_range_within(offset, length, (uint64_t)st.st_size) || !S_ISREG(st.st_mode))
        return -EINVAL;
    err = tm_mapping_open(mapping, &tm_sys_kernel, fd, begin,
                          tm_align_up(offset + length - begin, page));
    if (!err)
        *at = (uint8_t *)mapping->address + (offset - begin);
    return err;
}

static bool overlap(uint64_t a, uint64_t b, uint64_t a_size, uint64_t b_size)
{
    return a < b + b_size && b < a + a_size;
}

/* How many regions begin at or below a guest's address. */
static unsigned regions_until(const VhostMemory *memory, uint64_t address)
{
    unsigned low = 0, high = memory->n;

    while (low < high) {
        unsigned middle = (low + high) / 2;

        if (memory->region[middle].info.guest <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

int vhost_memory_add(VhostMemory *memory, const VhostRegionInfo *info, int fd)
{
    VhostRegion r = { .info = *info };
    unsigned at;
    int err;

    if (memory->n == VHOST_REGIONS || !info->size || info->guest > UINT64_MAX - info->size ||
        info->user > UINT64_MAX - info->size)
        return -EINVAL;
    for (unsigned i = 0; i < memory->n; i++) {
        const VhostRegionInfo *other = &memory->region[i].info;

        if (overlap(info->guest, other->guest, info->size, other->size) ||
            overlap(info->user, other->user, info->size, other->size))
            return -EINVAL;
    }
    err = vhost_map(&r.mapping, fd, info->offset, info->size, &r.host);
    if (err)
        return err;
    at = regions_until(memory, info->guest);
    memmove(&memory->region[at + 1], &memory->region[at], (memory->n - at) * sizeof(r));
    memory->region[at] = r;
    memory->n++;
    return 0;
}

bool vhost_memory_remove(VhostMemory *memory, const VhostRegionInfo *info)
{
    unsigned at = regions_until(memory, info->guest);
    VhostRegion *r = at ? &memory->region[at - 1] : NULL;

    if (!r || r->info.guest != info->guest || r->info.size != info->size ||
        r->info.user != info->user)
        return false;
    tm_mapping_close(&r->mapping);
    memory->n--;
    memmove(r, r + 1, (memory->n - (at - 1)) * sizeof(*r));
    return true;
}

void vhost_memory_clear(VhostMemory *memory)
{
    for (unsigned i = 0; i < memory->n; i++)
        tm_mapping_close(&memory->region[i].mapping);
    memory->n = 0;
}

uint8_t *vhost_memory_at(const VhostMemory *memory, uint64_t address, uint64_t *length)
{
    unsigned at = regions_until(memory, address);
    const VhostRegion *r = at ? &memory->region[at - 1] : NULL;

    if (!r || address - r->info.guest >= r->info.size)
        return NULL;
    *length = r->info.size - (address - r->info.guest);
    return r->host + (address - r->info.guest);
}

void *vhost_memory_user(const VhostMemory *memory, uint64_t address, uint64_t length, size_t align)
{
    for (unsigned i = 0; i < memory->n; i++) {
        const VhostRegion *r = &memory->region[i];
        uint8_t *at;

        if (address < r->info.user ||
            !tm_range_within(address - r->info.user, length, r->info.size))
            continue;
        at = r->host + (address - r->info.user);
        return (uintptr_t)at & (align - 1) ? NULL : at;
    }
    return NULL;
}

bool vhost_memory_broken(const VhostMemory *memory)
{
    for (unsigned i = 0; i < memory->n; i++) {
        if (tm_mapping_broken(&memory->region[i].mapping))
            return true;
    }
    return false;
}
