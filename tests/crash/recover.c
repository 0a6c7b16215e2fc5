/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/crash/recover.c: opening what is left, and whether it is right. */
#include "bitmap/store/format.h"
#include "bitmap/store/intents.h"
#include "tests/crash/run.h"
#include "util/error.h"

#include <string.h>

/* ---- opening -------------------------------------------------------------------------------- */

static void heard(void *opaque, const BmpReport *report)
{
    Found *found = opaque;

    if (report->healed)
        return;
    found->degraded++;
    g_snprintf(found->report, sizeof(found->report), "%s: %s",
               report->bitmap ? report->bitmap : "-", report->reason);
}

/* What was written is on the medium, and no bitmap rests on what may go. Or it failed, and what
 * could go stays so for good: later flushes work again, as where a file is opened anew. */
bool recover_flush(Disk *disk)
{
    bool ok = medium_sys.fdatasync(medium_disk_fd(disk->index)) == 0;

    for (size_t i = 0; i < MODEL_WORDS && !ok; i++)
        disk->lost.words[i] |= disk->unflushed.words[i];
    disk->flush_failed |= !ok;
    memset(&disk->unflushed, 0, sizeof(disk->unflushed));
    if (ok) {
        model_flushed(&disk->model, &disk->lost);
        model_flushed(&disk->after, &disk->lost);
    }
    return ok;
}

static bool flush_disk(void *opaque, GError **error)
{
    return recover_flush(opaque) || tm_error_set(error, "the disk can't be flushed");
}

BmpSet *recover_open(Run *run, Medium *m, unsigned n, uint8_t boot, bool read_only,
                     BmpReportFn report, void *opaque)
{
    const Disk *disk = &run->disks[n];
    BmpStoreOptions options = {
        .sys = &medium_sys,
        .path = disk->path,
        .disk_fd = medium_disk_fd(n),
        .layer = "raw",
        .durability = disk->durability,
        .read_only = read_only,
        .accept_changed = disk->accept_changed,
        .region_shift_min = disk->region_shift,
        .flush = opaque == disk ? flush_disk : NULL,
        .report = report,
        .opaque = opaque,
    };
    Medium *before = medium_use(m);
    g_autoptr(GError) error = NULL;
    BmpSet *set = bmp_set_new("node", medium_disk_size(m, n));

    memset(options.boot_id, boot, sizeof(options.boot_id));
    if (!bmp_set_open_store(set, &options, &error)) {
        if (run->options->verbose)
            g_printerr("refused: %s\n", error ? error->message : "without an error");
        if (!error)
            run_fail(run, "opening failed without an error");
        bmp_set_free(set);
        set = NULL;
    }
    medium_use(before);
    return set;
}

void recover_read(BmpSet *set, Found *found)
{
    size_t n = bmp_set_length(set);

    found->n = 0;
    for (size_t i = 0; i < n && found->n < G_N_ELEMENTS(found->bitmaps); i++) {
        g_autoptr(BmpBitmap) bitmap = bmp_set_nth(set, i);
        FoundBitmap *f = &found->bitmaps[found->n++];
        g_autofree char *reason = bmp_bitmap_reason(bitmap);

        g_strlcpy(f->name, bmp_bitmap_name(bitmap), sizeof(f->name));
        f->shift = __builtin_ctzll(bmp_bitmap_granularity(bitmap));
        f->persistent = bmp_bitmap_persistent(bitmap);
        f->enabled = bmp_bitmap_enabled(bitmap);
        f->inconsistent = bmp_bitmap_inconsistent(bitmap);
        f->recovered = bmp_bitmap_recovered(bitmap);
        f->reason = reason;
        model_read(bitmap, found->size, &f->bits);
    }
}

static void add_one(BmpSet *set)
{
    BmpAddOptions options = { .persistent = true };
    g_autoptr(BmpBitmap) bitmap = NULL;

    bmp_set_change_begin(&set, 1);
    bitmap = bmp_set_add(set, "late", &options, NULL);
    if (bitmap && !bmp_set_commit(&set, 1, NULL))
        bmp_bitmap_remove(bitmap, NULL);
    bmp_set_change_end(&set, 1);
}

void recover(Run *run, Medium *m, unsigned n, bool power, How how, Found *found)
{
    Medium *before = medium_use(m);
    unsigned writes = m->writes;
    BmpSet *set;

    found->degraded = found->n = 0;
    found->report[0] = 0;
    found->size = medium_disk_size(m, n);
    set = recover_open(run, m, n, run->boot + power, how == READ_ONLY, heard, found);
    found->opened = set;
    if (set) {
        recover_read(set, found);
        if (how == THEN_CLOSE)
            bmp_set_close_store(set);
        else if (how == THEN_ADD)
            add_one(set);
        writes = how == READ_ONLY ? writes : m->writes;
        bmp_set_free(set);
        if (m->writes != writes)
            run_fail(run, "a set that was %s wrote to the store",
                     how == READ_ONLY ? "opened read-only" : "freed without being closed");
    }
    if (medium_open_count(m))
        run_fail(run, "%u descriptors or mappings left behind", medium_open_count(m));
    medium_use(before);
}

/* ---- the harness's own reading of a store --------------------------------------------------- */

static void doubt_of_intents(const BmpSuper *super, const Image *image, const BmpGeometry *g,
                             Doubt *doubt)
{
    g_autoptr(GArray) intents = g_array_new(FALSE, FALSE, sizeof(BmpIntent));

    if (super->journal_offset + BMP_INTENTS_SIZE > image->size ||
        !bmp_intents_decode(image->data + super->journal_offset, bmp_entry_seed(super->uuid),
                            super->journal_epoch, intents)) {
        doubt->everything = true;
        return;
    }
    doubt->open += intents->len;
    for (guint i = 0; i < intents->len; i++) {
        BmpIntent *intent = &g_array_index(intents, BmpIntent, i);

        model_set(&doubt->bits, 9, intent->first << g->journal_shift,
                  MIN(intent->end << g->journal_shift, g->size) -
                      (intent->first << g->journal_shift));
    }
}

static void doubt_of_journal(const BmpSuper *super, const Image *image, bool full, Doubt *doubt)
{
    uint64_t seed = bmp_entry_seed(super->uuid), epoch;
    BmpRegionState state;
    BmpGeometry g;

    if (!super->journal_shift || !bmp_geometry_of(&g, super))
        return;
    for (uint32_t i = 0; i < g.regions; i++) {
        uint64_t entry, at = (uint64_t)i << g.region_shift;
        uint64_t offset = super->journal_offset + g.table_offset + (uint64_t)i * 8;

        if (offset + 8 > image->size)
            return;
        memcpy(&entry, image->data + offset, 8);
        if (!bmp_entry_read(seed, i, GUINT64_FROM_LE(entry), &epoch, &state) ||
            epoch != super->journal_epoch)
            continue;
        if (state == BMP_REGION_CROWDED || (full && state == BMP_REGION_FULL)) {
            doubt->open++;
            model_set(&doubt->bits, 9, at, MIN(UINT64_C(1) << g.region_shift, g.size - at));
        }
    }
    doubt_of_intents(super, image, &g, doubt);
}

void doubt_read(Run *run, Medium *m, unsigned n, Doubt *doubt)
{
    const Image *image = medium_file(m, run->disks[n].path + strlen("/m/"));
    BmpSuper supers[BMP_SUPER_COPIES];
    bool valid[BMP_SUPER_COPIES] = { false };
    unsigned newest = 0;

    memset(doubt, 0, sizeof(*doubt));
    if (!image || !image->data)
        return;
    for (unsigned i = 0; i < BMP_SUPER_COPIES; i++) {
        uint32_t version;

        valid[i] = bmp_super_decode(image->data + i * BMP_STORE_ALIGN, &supers[i], &version) ==
                   BMP_SUPER_OK;
        if (valid[i] && (!valid[newest] || supers[i].generation > supers[newest].generation))
            newest = i;
    }
    for (unsigned i = 0; i < BMP_SUPER_COPIES; i++) {
        if (!valid[i] || (i != newest && !supers[newest].group_pending))
            continue;
        if (supers[i].state == BMP_STORE_DISTRUSTED ||
            (supers[i].state == BMP_STORE_OPEN && supers[i].durability == BMP_DURABLE_PROCESS))
            doubt->everything = true;
        else if (supers[i].state == BMP_STORE_OPEN)
            doubt_of_journal(&supers[i], image, run->faulted, doubt);
    }
}

/* ---- is it right ---------------------------------------------------------------------------- */

static const FoundBitmap *found_find(const Found *found, const char *name)
{
    for (unsigned i = 0; i < found->n; i++) {
        if (!strcmp(found->bitmaps[i].name, name))
            return &found->bitmaps[i];
    }
    return NULL;
}

/* The first granule of @a that is not in @b. */
static uint64_t first_beyond(const ModelBits *a, const ModelBits *b)
{
    for (uint64_t i = 0; i < MODEL_WORDS; i++) {
        uint64_t beyond = a->words[i] & ~b->words[i];

        if (beyond)
            return i * 64 + __builtin_ctzll(beyond);
    }
    g_assert_not_reached();
}

/* Bytes of the disk that are in @a and not in @b. */
static uint64_t bytes_beyond(const ModelBits *a, const ModelBits *b, unsigned shift, uint64_t size)
{
    uint64_t bytes = 0;

    for (uint64_t at = 0; at < size; at += UINT64_C(1) << shift) {
        if (model_test(a, at >> shift) && !model_test(b, at >> shift))
            bytes += MIN(UINT64_C(1) << shift, size - at);
    }
    return bytes;
}

static char *check_content(const ModelBitmap *b, const FoundBitmap *f, uint64_t size, bool power,
                           const Doubt *doubt, Looseness looseness)
{
    uint64_t bytes;
    ModelBits may;

    if (!model_subset(&b->must, &f->bits))
        return g_strdup_printf("P1: %s: granule %" G_GUINT64_FORMAT " of %u bytes is not dirty",
                               b->name, first_beyond(&b->must, &f->bits), 1u << f->shift);
    if (!power && looseness == STRICT && b->exact && f->recovered)
        return g_strdup_printf("P4: %s: recovered is %" G_GUINT64_FORMAT " without a power loss",
                               b->name, f->recovered);
    if (looseness != STRICT || model_subset(&f->bits, &b->may))
        return NULL;
    if (!doubt)
        return g_strdup_printf("%s: %s: granule %" G_GUINT64_FORMAT " of %u bytes is dirty, "
                               "which was not written",
                               power ? "P2" : "P4", b->name, first_beyond(&f->bits, &b->may),
                               1u << f->shift);
    may = b->may;
    model_or(&may, b->shift, &doubt->bits, 9, size);
    if (!doubt->everything && !model_subset(&f->bits, &may))
        return g_strdup_printf("P2: %s: granule %" G_GUINT64_FORMAT " of %u bytes is dirty, which "
                               "was not written and is in no open region",
                               b->name, first_beyond(&f->bits, &may), 1u << f->shift);
    bytes = bytes_beyond(&f->bits, &b->may, b->shift, size);
    if (bytes > f->recovered)
        return g_strdup_printf("P2: %s: %" G_GUINT64_FORMAT " bytes are dirty without having been "
                               "written, recovered says %" G_GUINT64_FORMAT,
                               b->name, bytes, f->recovered);
    return NULL;
}

/* What the bitmap was given as clean is on the medium, or dirty. */
static char *check_data(const ModelBitmap *b, const FoundBitmap *f, uint64_t size)
{
    ModelBits lost = { 0 };

    model_or(&lost, f->shift, &b->unflushed, 9, size);
    if (model_subset(&lost, &f->bits))
        return NULL;
    return g_strdup_printf("P5: %s: granule %" G_GUINT64_FORMAT
                           " of %u bytes is clean, and was not "
                           "on the medium when it began",
                           b->name, first_beyond(&lost, &f->bits), 1u << f->shift);
}

static char *check_bitmap(const ModelBitmap *b, const FoundBitmap *f, uint64_t size, bool power,
                          bool disk_lost, const Doubt *doubt, Looseness looseness)
{
    if (!f && looseness == LOOSE_STATES)
        return NULL;
    if (!f)
        return g_strdup_printf("P3: %s is missing", b->name);
    if (f->inconsistent && disk_lost)
        return f->reason ? NULL : g_strdup_printf("%s is inconsistent without a reason", b->name);
    if (looseness != LOOSE_STATES && f->inconsistent != b->inconsistent)
        return g_strdup_printf("P3: %s is %sconsistent", b->name, f->inconsistent ? "in" : "");
    if (f->inconsistent)
        return f->reason ? NULL : g_strdup_printf("%s is inconsistent without a reason", b->name);
    if (looseness == LOOSE_STATES && f->shift != b->shift)
        return NULL; /* another of that name, which the failure left behind */
    if (f->shift != b->shift)
        return g_strdup_printf("P3: %s has granules of %u bytes, expected %u", b->name,
                               1u << f->shift, 1u << b->shift);
    if (!f->persistent)
        return g_strdup_printf("P3: %s is not persistent", b->name);
    if (f->enabled != b->enabled && looseness != LOOSE_STATES)
        return g_strdup_printf("P3: %s is %s", b->name, f->enabled ? "enabled" : "disabled");
    return check_content(b, f, size, power, doubt, looseness);
}

/* @salvaged: old names may have come back, to be removed. */
static char *check_unexpected(const ModelDisk *model, const Found *found, bool salvaged)
{
    for (unsigned i = 0; i < found->n; i++) {
        const ModelBitmap *b = model_find((ModelDisk *)model, found->bitmaps[i].name);

        if ((!b || !b->persistent) && !(salvaged && found->bitmaps[i].inconsistent))
            return g_strdup_printf("P3: %s should not exist", found->bitmaps[i].name);
    }
    return NULL;
}

char *check_found(const ModelDisk *expected, const Found *found, bool power, const Doubt *doubt,
                  Looseness looseness)
{
    g_autofree ModelDisk *model = g_memdup2(expected, sizeof(*expected));
    char *wrong = NULL;

    if (!found->opened)
        return g_strdup("R6: the store could not be opened");
    if (looseness == LOOSE_ALL)
        return NULL;
    model_drop_unfinished(model);
    model_found_with_size(model, found->size, looseness != STRICT);
    for (unsigned i = 0; i < model->n && !wrong; i++) {
        const ModelBitmap *b = &model->bitmaps[i];

        if (b->persistent)
            wrong = check_bitmap(b, found_find(found, b->name), found->size, power,
                                 found->disk_lost, doubt, looseness);
    }
    if (!wrong && looseness != LOOSE_STATES)
        wrong = check_unexpected(model, found, false);
    return wrong;
}

char *check_data_kept(const ModelDisk *model, const Found *found)
{
    char *wrong = NULL;

    for (unsigned i = 0; i < model->n && !wrong; i++) {
        const FoundBitmap *f = found_find(found, model->bitmaps[i].name);

        if (f && !f->inconsistent)
            wrong = check_data(&model->bitmaps[i], f, found->size);
    }
    return wrong;
}

char *check_same(const Found *a, const Found *b)
{
    if (a->opened != b->opened || a->n != b->n)
        return g_strdup_printf("%u bitmaps and then %u", a->n, b->n);
    for (unsigned i = 0; i < a->n; i++) {
        const FoundBitmap *x = &a->bitmaps[i], *y = &b->bitmaps[i];

        if (strcmp(x->name, y->name) || x->shift != y->shift || x->enabled != y->enabled ||
            x->inconsistent != y->inconsistent)
            return g_strdup_printf("%s is another", x->name);
        if (!x->inconsistent && memcmp(&x->bits, &y->bits, sizeof(x->bits)))
            return g_strdup_printf("%s has another content", x->name);
        if (!x->inconsistent && x->recovered != y->recovered)
            return g_strdup_printf("%s: recovered was %" G_GUINT64_FORMAT
                                   " and is %" G_GUINT64_FORMAT,
                                   x->name, x->recovered, y->recovered);
    }
    return NULL;
}

char *check_damaged(const ModelDisk *expected, const Found *found, bool mild)
{
    g_autofree ModelDisk *model = g_memdup2(expected, sizeof(*expected));

    if (!found->opened)
        return g_strdup("R6: the disk does not open");
    model_drop_unfinished(model);
    model_found_with_size(model, found->size, false);
    for (unsigned i = 0; i < model->n; i++) {
        const ModelBitmap *b = &model->bitmaps[i];
        const FoundBitmap *f = b->persistent ? found_find(found, b->name) : NULL;

        if (!b->persistent || (f && b->inconsistent && f->inconsistent))
            continue;
        if ((!f || f->inconsistent) && (mild || !found->degraded))
            return g_strdup_printf("R6: %s is %s%s", b->name, f ? "inconsistent" : "missing",
                                   mild ? "" : " without a report");
        if (f && !f->inconsistent && f->enabled != b->enabled)
            return g_strdup_printf("R6: %s is %s", b->name, f->enabled ? "enabled" : "disabled");
        if (f && !f->inconsistent && !model_subset(&b->must, &f->bits))
            return g_strdup_printf("P1: %s: granule %" G_GUINT64_FORMAT " is not dirty", b->name,
                                   first_beyond(&b->must, &f->bits));
    }
    return check_unexpected(model, found, !mild);
}
