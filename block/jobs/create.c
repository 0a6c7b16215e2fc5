/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/jobs/create.c: an image is created while the daemon goes on. */
#include "block/image/image.h"
#include "block/jobs/job.h"

typedef struct Create {
    BlkGraph *graph;
    json_object *options; /* a reference */
    BlkImageCreate *image;
} Create;

static bool create_begin(void *opaque, GError **error)
{
    Create *c = opaque;

    c->image = blk_image_create_begin(c->graph, c->options, error);
    return c->image != NULL;
}

static bool progress(void *opaque, uint64_t done, uint64_t total)
{
    return blk_job_progress(opaque, done, total);
}

static bool create_run(void *opaque, BlkJob *job, GError **error)
{
    Create *c = opaque;

    return blk_image_create_run(c->image, progress, job, error);
}

static void create_end(void *opaque, bool success)
{
    Create *c = opaque;

    blk_image_create_end(c->image);
    json_object_put(c->options);
    g_free(c);
}

static const BlkJobKind create_kind = {
    .type = "create", .begin = create_begin, .run = create_run, .end = create_end
};

bool blk_jobs_create(BlkJobs *jobs, BlkGraph *graph, const char *id, json_object *options,
                     GError **error)
{
    Create *c = g_new0(Create, 1);
    BlkJobOptions o = { .id = id, .kind = &create_kind, .opaque = c, .manual_dismiss = true };
    BlkJob *job;

    c->graph = graph;
    c->options = json_object_get(options);
    job = blk_job_new(jobs, &o, error);
    if (job)
        blk_job_start(job);
    else
        create_end(c, false);
    return job != NULL;
}
