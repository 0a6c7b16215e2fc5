/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/crash/damage.c: bytes of a store at rest that are not what was written. */
#include "bitmap/store/format.h"
#include "tests/crash/run.h"

#include <string.h>

#define TRIES 6

typedef enum { FLIP, OLD_SUPER, MILD, ZERO = MILD, CUT, NOISE, TWO, KINDS } Kind;

/* Whether it is an older superblock of the same store. */
static bool older(const uint8_t *super, const uint8_t *than)
{
    BmpSuper a, b;
    uint32_t version;

    return bmp_super_decode(super, &a, &version) == BMP_SUPER_OK &&
           bmp_super_decode(than, &b, &version) == BMP_SUPER_OK &&
           !memcmp(a.uuid, b.uuid, sizeof(a.uuid)) && a.generation < b.generation;
}

static char *spoil(Run *run, unsigned d, Image *image, Kind kind, Rng *rng)
{
    uint64_t at = rng_below(rng, image->size), length;
    unsigned copy = rng_below(rng, BMP_SUPER_COPIES), bit = rng_below(rng, 8);

    switch (kind) {
    case OLD_SUPER:
        if (older(run->old_super[d], image->data)) {
            memcpy(image->data + copy * BMP_STORE_ALIGN, run->old_super[d], SECTOR);
            return g_strdup_printf("copy %u of the superblock is an older one", copy);
        } /* fall through */
    case FLIP:
        /* Most of it is superblocks' padding and free space: where there is something. */
        for (int i = 0; i < 20 && !image->data[at]; i++)
            at = rng_below(rng, image->size);
        image->data[at] ^= 1u << bit;
        return g_strdup_printf("bit %u of byte %" G_GUINT64_FORMAT " is flipped", bit, at);
    case ZERO:
        at = at / SECTOR * SECTOR;
        memset(image->data + at, 0, MIN(SECTOR, image->size - at));
        return g_strdup_printf("the sector at %" G_GUINT64_FORMAT " is zero", at);
    case CUT:
        memset(image->data + at, 0, image->high > at ? image->high - at : 0);
        image->high = MIN(image->high, at);
        image->size = at;
        return g_strdup_printf("the file ends at %" G_GUINT64_FORMAT, at);
    case NOISE:
        length = MIN(1 + rng_below(rng, 300), image->size - at);
        for (uint64_t i = 0; i < length; i++)
            image->data[at + i] = rng_next(rng);
        return g_strdup_printf("%" G_GUINT64_FORMAT " bytes at %" G_GUINT64_FORMAT " are noise",
                               length, at);
    default:
        g_free(spoil(run, d, image, FLIP, rng));
        return spoil(run, d, image, MILD + rng_below(rng, TWO - MILD), rng);
    }
}

static void damage(Run *run, unsigned d, Rng *rng)
{
    Kind kind = rng_below(rng, KINDS);
    bool power = rng_chance(rng, 2);
    g_autofree Found *found = g_new(Found, 1);
    g_autofree char *what = NULL, *wrong = NULL;
    Image *image;

    medium_cut(run->scratch, run->medium, NULL);
    image = medium_file(run->scratch, run->disks[d].path + strlen("/m/"));
    if (!image || !image->size || !image->data)
        return;
    what = spoil(run, d, image, kind, rng);
    run->damaged++;
    for (int round = 0; round < 2 && !run->failure; round++) {
        /* The second time it is what the first has made of it: quietly. */
        recover(run, run->scratch, d, power,
                round == 0 && rng_chance(rng, 4) ? READ_ONLY : THEN_DIE, found);
        found->degraded += round;
        wrong = check_damaged(&run->disks[d].model, found, kind < MILD);
        if (wrong && !run->failure)
            run_fail(run,
                     "--seed %" G_GUINT64_FORMAT " step %u event %u: disk %u, %s, %s%s: %s (%s)",
                     run->seed, run->step, run->medium->event, d, what,
                     power               ? "power lost"
                     : run->disks[d].set ? "killed"
                                         : "closed",
                     round ? ", opened again" : "", wrong, found->report);
    }
}

/* Inspected and repaired without a daemon, it has all that was dirty, or says that it has not. */
static void offline(Run *run, unsigned d, Rng *rng)
{
    g_autofree Found *found = g_new(Found, 1);
    g_autofree char *disk = g_strdup_printf("/m/disk%u", d), *what = NULL, *wrong = NULL;
    uint8_t boot[16];
    Medium *before = medium_use(run->scratch);
    BmpStoreInfo info = { 0 };
    Image *image;
    bool known, repaired;

    memset(boot, run->boot, sizeof(boot));
    medium_cut(run->scratch, run->medium, NULL);
    image = medium_file(run->scratch, run->disks[d].path + strlen("/m/"));
    if (image && image->size && image->data) {
        what = spoil(run, d, image, rng_below(rng, KINDS), rng);
        known = bmp_store_inspect(&medium_sys, run->disks[d].path, disk, boot, &info, NULL);
        if (known)
            bmp_store_info_clear(&info);
        repaired = bmp_store_repair(&medium_sys, run->disks[d].path, disk, boot, NULL);
        if (medium_open_count(run->scratch))
            run_fail(run, "a repair left descriptors behind");
        recover(run, run->scratch, d, true, THEN_DIE, found);
        found->degraded++; /* the repair has said it */
        wrong = check_damaged(&run->disks[d].model, found, false);
        if (wrong)
            run_fail(run, "--seed %" G_GUINT64_FORMAT " step %u event %u: disk %u, %s, %s: %s",
                     run->seed, run->step, run->medium->event, d, what,
                     repaired ? "repaired" : "beyond repair", wrong);
    }
    medium_use(before);
}

void damage_at_rest(Run *run)
{
    for (unsigned d = 0; d < run->n_disks; d++) {
        const Image *image = medium_file(run->medium, run->disks[d].path + strlen("/m/"));
        Rng rng = { run->seed * 31 + run->step };

        if (run->disks[d].looseness != STRICT || run->faulted)
            continue;
        for (int i = 0; i < TRIES && !run->failure; i++)
            damage(run, d, &rng);
        if (!run->failure)
            offline(run, d, &rng);
        if (image && image->size > SECTOR)
            memcpy(run->old_super[d], image->data, SECTOR);
    }
}
