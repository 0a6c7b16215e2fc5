/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/jobs/create.h: blockdev-create, as a job. Main thread. */
#pragma once
#include "block/jobs/job.h"

/* @options: BlockdevCreateOptions (block/image/image.h), borrowed. Errors: the id's; others are the
 * job's. */
bool blk_jobs_create(BlkJobs *jobs, BlkGraph *graph, const char *id, json_object *options,
                     GError **error);
