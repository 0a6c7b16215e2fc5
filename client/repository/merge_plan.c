/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/merge_plan.c: what it costs to remove points one after the other. Each removal
 * changes the runs of a child, and with them what the next one costs. */
#include "client/repository/merge_internal.h"
#include "client/repository/repository_internal.h"
#include <string.h>

/* A disk of a point, as it would be by now. */
typedef struct Disk {
    const TcManifest *point;
    const TcPointDisk *entry;
    const TcPointDisk *stands; /* the entry that says what it stands on by now */
    TcMergeLayer *layer;       /* NULL: its file of hashes was not read */
} Disk;

struct TcMergePlan {
    TcRepository *repo;
    GPtrArray *disks; /* Disk */
};

static void disk_free(void *data)
{
    Disk *d = data;

    tc_merge_layer_free(d->layer);
    g_free(d);
}

TcMergePlan *tc_merge_plan(TcRepository *repo)
{
    const GPtrArray *points = tc_repo_points(repo);
    TcMergePlan *plan = g_new0(TcMergePlan, 1);

    plan->repo = repo;
    plan->disks = g_ptr_array_new_with_free_func(disk_free);
    for (guint i = 0; i < points->len; i++) {
        const TcManifest *m = points->pdata[i];

        for (guint j = 0; j < m->disks->len; j++) {
            Disk *d = g_new0(Disk, 1);

            d->point = m;
            d->entry = m->disks->pdata[j];
            d->stands = d->entry;
            g_ptr_array_add(plan->disks, d);
        }
    }
    return plan;
}

void tc_merge_plan_free(TcMergePlan *plan)
{
    if (!plan)
        return;
    g_ptr_array_unref(plan->disks);
    g_free(plan);
}

guint tc_merge_order(const TcRepository *repo, guint i, guint n)
{
    return repo->place->merges ? i : n - 1 - i;
}

/* The disk that stands on @disk, or NULL; *other is a second one, or NULL. */
static Disk *child_of(const TcMergePlan *plan, const Disk *disk, const Disk **other)
{
    Disk *child = NULL;

    *other = NULL;
    for (guint i = 0; i < plan->disks->len; i++) {
        Disk *d = plan->disks->pdata[i];

        if (!tc_point_disk_stands_on(d->stands, disk->point) ||
            strcmp(d->entry->name, disk->entry->name) != 0)
            continue;
        if (child)
            *other = d;
        else
            child = d;
    }
    return child;
}

static bool load(const TcMergePlan *plan, Disk *disk, GError **error)
{
    g_autoptr(TcHashes) hashes = NULL;

    if (disk->layer)
        return true;
    hashes = tc_merge_open_hashes(plan->repo, disk->point, disk->entry->name, error);
    if (hashes)
        disk->layer = tc_merge_layer_new(hashes, disk->entry);
    return hashes != NULL;
}

static bool remove_disk(const TcMergePlan *plan, Disk *disk, TcMergeCost *cost, GError **error)
{
    const Disk *other;
    Disk *child = child_of(plan, disk, &other);
    TcMergeLayer *merged;

    if (!child) {
        cost->freed +=
            disk->layer ? tc_merge_layer_bytes(disk->layer, TC_RUN_DATA) : disk->entry->stored;
        return true;
    }
    if (!load(plan, disk, error) || !load(plan, child, error))
        return false;
    merged = tc_merge_layers(child->layer, disk->layer);
    tc_merge_layers_cost(child->layer, disk->layer, merged, cost);
    tc_merge_layer_free(child->layer);
    child->layer = merged;
    child->stands = disk->stands;
    return true;
}

char *tc_merge_two_children(const char *a, const char *b, const char *disk)
{
    return g_strdup_printf("points '%s' and '%s' both stand on its disk '%s'", a, b, disk);
}

bool tc_merge_plan_remove(TcMergePlan *plan, const char *point, TcMergeCost *cost, char **kept,
                          GError **error)
{
    *kept = NULL;
    for (guint i = 0; i < plan->disks->len; i++) {
        const Disk *d = plan->disks->pdata[i], *other;
        const Disk *child = strcmp(d->point->point, point) ? NULL : child_of(plan, d, &other);

        if (child && !plan->repo->place->merges) {
            *kept =
                g_strdup_printf("point '%s' stands on its disk '%s', and images in a bucket are "
                                "not merged",
                                child->point->point, d->entry->name);
            return true;
        }
        if (child && other) {
            *kept = tc_merge_two_children(child->point->point, other->point->point, d->entry->name);
            return true;
        }
    }
    for (guint i = 0; i < plan->disks->len;) {
        Disk *d = plan->disks->pdata[i];

        if (strcmp(d->point->point, point)) {
            i++;
            continue;
        }
        if (!remove_disk(plan, d, cost, error))
            return false;
        g_ptr_array_remove_index(plan->disks, i);
    }
    return true;
}
