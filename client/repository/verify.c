/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/verify.c: which images points stand on, and what they lose with them. */
#include "client/repository/verify.h"
#include "client/repository/images.h"
#include "client/repository/repository_internal.h"
#include "client/text.h"
#include "util/range.h"
#include <string.h>

#define LINES_MAX 20u /* ranges of a disk that are named one by one */

/* ---- images */

static void image_free(void *data)
{
    TcVerifyImage *image = data;

    g_free(image->lost);
    g_array_unref(image->bad);
    g_ptr_array_unref(image->notes);
    g_free(image);
}

static TcVerifyImage *find_image(const TcVerify *v, const TcManifest *point, const char *disk)
{
    for (guint i = 0; i < v->images->len; i++) {
        TcVerifyImage *image = v->images->pdata[i];

        if (image->point == point && !strcmp(image->disk->name, disk))
            return image;
    }
    return NULL;
}

static void add_image(TcVerify *v, const TcManifest *point, const char *disk)
{
    TcVerifyImage *image;

    if (find_image(v, point, disk))
        return;
    image = g_new0(TcVerifyImage, 1);
    image->point = point;
    image->disk = tc_manifest_disk(point, disk);
    image->bad = g_array_new(FALSE, FALSE, sizeof(TcRun));
    image->notes = g_ptr_array_new_with_free_func(g_free);
    g_ptr_array_add(v->images, image);
    v->total += image->disk->stored;
}

void tc_verify_init(TcVerify *v, TcRepository *repo, const GPtrArray *points)
{
    *v = (TcVerify){ .repo = repo, .threads = CLAMP(2 * g_get_num_processors(), 4, 16) };
    v->images = g_ptr_array_new_with_free_func(image_free);
    for (guint i = 0; i < points->len; i++) {
        const TcManifest *m = points->pdata[i];

        for (guint k = 0; k < m->disks->len; k++) {
            const char *disk = ((TcPointDisk *)m->disks->pdata[k])->name;
            g_autoptr(GPtrArray) chain = tc_repo_chain(repo, m, disk, NULL);

            for (guint l = 0; chain && l < chain->len; l++)
                add_image(v, chain->pdata[l], disk);
            if (!chain)
                add_image(v, m, disk);
        }
    }
}

void tc_verify_clear(TcVerify *v)
{
    g_clear_pointer(&v->images, g_ptr_array_unref);
    g_clear_error(&v->failure);
}

bool tc_verify_run(TcVerify *v, GError **error)
{
    for (guint i = 0; i < v->images->len && !v->stop && !v->failure; i++)
        tc_verify_image(v, v->images->pdata[i]);
    if (v->failure) {
        g_propagate_error(error, g_steal_pointer(&v->failure));
        return false;
    }
    return !v->stop;
}

/* ---- what a point loses */

/* Those of @bad that no run of @above covers. */
static GArray *uncovered(const GArray *bad, const TcHashes *above)
{
    GArray *left = g_array_new(FALSE, FALSE, sizeof(TcRun));

    for (guint i = 0; i < bad->len; i++) {
        TcRun run = g_array_index(bad, TcRun, i);

        while (run.length) {
            TcRun part = { run.offset, 0, TC_RUN_DATA };
            TcRunKind kind = tc_hashes_run(above, run.offset, &part.length);

            part.length = tm_min(part.length, run.length);
            if (kind == TC_RUN_NONE)
                g_array_append_val(left, part);
            run.offset += part.length;
            run.length -= part.length;
        }
    }
    return left;
}

/* What of the image's damage shows in the chain's first point; the image is its @n-th. */
static GArray *shown(TcVerify *v, const GPtrArray *chain, guint n, const TcVerifyImage *image)
{
    GArray *bad = g_array_copy(image->bad);

    for (guint i = n; i-- > 0 && bad->len;) {
        const TcManifest *m = chain->pdata[i];
        const TcPointDisk *d = tc_manifest_disk(m, image->disk->name);
        g_autoptr(TcHashes) above = tc_repo_open_hashes(v->repo, m->point, d, NULL);
        GArray *left = above ? uncovered(bad, above) : NULL;

        if (!left)
            continue; /* it is lost itself, and with it the point */
        g_array_unref(bad);
        bad = left;
    }
    return bad;
}

static void add_line(GPtrArray *lines, const char *format, ...) G_GNUC_PRINTF(2, 3);
static void add_line(GPtrArray *lines, const char *format, ...)
{
    va_list ap;

    va_start(ap, format);
    g_ptr_array_add(lines, g_strdup_vprintf(format, ap));
    va_end(ap);
}

static void add_ranges(GPtrArray *lines, const TcVerifyImage *image, const GArray *bad)
{
    for (guint i = 0; i < bad->len; i++) {
        const TcRun *run = &g_array_index(bad, TcRun, i);

        if (i == LINES_MAX) {
            add_line(lines, "disk %s: and %u ranges more", image->disk->name, bad->len - i);
            return;
        }
        add_line(lines,
                 "disk %s: %" PRIu64 " bytes at %" PRIu64 " are lost, in the image of point %s",
                 image->disk->name, run->length, run->offset, image->point->point);
    }
}

/* Whether the disk of the chain's first point is whole. */
static bool check_chain(TcVerify *v, const GPtrArray *chain, const char *disk, GPtrArray *lines)
{
    bool whole = true;

    for (guint i = 0; i < chain->len; i++) {
        const TcVerifyImage *image = find_image(v, chain->pdata[i], disk);
        g_autoptr(GArray) bad = NULL;

        if (image->lost) {
            add_line(lines, "disk %s: the image of point %s is lost: %s", disk, image->point->point,
                     image->lost);
            whole = false;
            continue;
        }
        bad = shown(v, chain, i, image);
        add_ranges(lines, image, bad);
        whole = whole && !bad->len;
    }
    return whole;
}

/* ---- files */

static bool is_of_point(const TcManifest *point, const char *name)
{
    for (guint i = 0; i < point->disks->len; i++) {
        const char *disk = ((TcPointDisk *)point->disks->pdata[i])->name;
        size_t length = strlen(disk);

        if (!strncmp(name, disk, length) &&
            (!strcmp(name + length, ".qcow2") || !strcmp(name + length, ".hashes")))
            return true;
    }
    return tc_repo_is_own_file(name) && !g_str_has_suffix(name, ".qcow2") &&
           !g_str_has_suffix(name, ".hashes");
}

static void add_foreign(const TcVerify *v, const TcManifest *point, GPtrArray *lines)
{
    g_autofree char *path = g_build_filename(tc_repo_path(v->repo), point->point, NULL);
    g_autoptr(GPtrArray) names = v->repo->place->list(v->repo, path, NULL);

    for (guint i = 0; names && i < names->len; i++) {
        g_autofree char *clean = tc_printable(names->pdata[i]);

        if (!is_of_point(point, names->pdata[i]))
            add_line(lines, "'%s' is no file of the point", clean);
    }
}

GPtrArray *tc_verify_point(TcVerify *v, const TcManifest *point, bool *whole)
{
    GPtrArray *lines = g_ptr_array_new_with_free_func(g_free);

    *whole = true;
    for (guint i = 0; i < point->disks->len; i++) {
        const char *disk = ((TcPointDisk *)point->disks->pdata[i])->name;
        const TcVerifyImage *own = find_image(v, point, disk);
        g_autoptr(GError) error = NULL;
        g_autoptr(GPtrArray) chain = tc_repo_chain(v->repo, point, disk, &error);

        if (!chain) {
            add_line(lines, "disk %s: %s", disk, error->message);
            *whole = false;
        } else if (!check_chain(v, chain, disk, lines)) {
            *whole = false;
        }
        for (guint k = 0; k < own->notes->len; k++)
            add_line(lines, "disk %s: %s", disk, (char *)own->notes->pdata[k]);
    }
    add_foreign(v, point, lines);
    return lines;
}
