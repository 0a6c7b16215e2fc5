/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp/commands/job.c: jobs, and the command that creates images in one. Names and answers are
 * QEMU's (qapi/job.json, qapi/block-core.json). */
#include "block/jobs/job.h"
#include "qmp/commands/families.h"
#include "qmp/context.h"

static bool run_query(QmpCall *call, GError **error)
{
    call->result = blk_jobs_query(qmp_context_jobs(call->ctx));
    return true;
}

static bool act(QmpCall *call, BlkJobVerb verb, GError **error)
{
    BlkJob *job = blk_jobs_find(qmp_context_jobs(call->ctx), qmp_arg_str(call->args, "id"), error);

    return job && blk_job_act(job, verb, error);
}

static bool run_cancel(QmpCall *call, GError **error)
{
    return act(call, BLK_JOB_CANCEL, error);
}

static bool run_pause(QmpCall *call, GError **error)
{
    return act(call, BLK_JOB_PAUSE, error);
}

static bool run_resume(QmpCall *call, GError **error)
{
    return act(call, BLK_JOB_RESUME, error);
}

static bool run_complete(QmpCall *call, GError **error)
{
    return act(call, BLK_JOB_COMPLETE, error);
}

static bool run_finalize(QmpCall *call, GError **error)
{
    return act(call, BLK_JOB_FINALIZE, error);
}

static bool run_dismiss(QmpCall *call, GError **error)
{
    return act(call, BLK_JOB_DISMISS, error);
}

static bool run_create(QmpCall *call, GError **error)
{
    return blk_jobs_create(qmp_context_jobs(call->ctx), qmp_context_graph(call->ctx),
                           qmp_arg_str(call->args, "job-id"), qmp_arg(call->args, "options"),
                           error);
}

/* ---- types */

static const QmpMember id_members[] = {
    { "id", &qmp_type_str, false, "the job" },
    { NULL },
};
static const QmpType id_args = { .kind = QMP_KIND_OBJECT,
                                 .name = "q_obj_job-arg",
                                 .members = id_members };

static const QmpMember info_members[] = {
    { "id", &qmp_type_str, false, "the job" },
    { "type", &qmp_type_job_type, false, "the kind of job" },
    { "status", &qmp_type_job_status, false, "its state" },
    { "current-progress", &qmp_type_int, false, "progress, in no particular unit" },
    { "total-progress", &qmp_type_int, false, "expected progress at the end; may change" },
    { "error", &qmp_type_str, true, "the error message, if it failed" },
    { NULL },
};
static const QmpType info_type = { .kind = QMP_KIND_OBJECT,
                                   .name = "JobInfo",
                                   .members = info_members };
static const QmpType info_array = { .kind = QMP_KIND_ARRAY,
                                    .name = "array",
                                    .element = &info_type };

static const char *const file_preallocations[] = { "off", "metadata", "falloc", "full", NULL };
static const QmpType preallocation = { .kind = QMP_KIND_ENUM,
                                       .name = "PreallocMode",
                                       .values = file_preallocations };
static const char *const versions[] = { "v2", "v3", NULL };
static const QmpType version = { .kind = QMP_KIND_ENUM,
                                 .name = "BlockdevQcow2Version",
                                 .values = versions };
static const char *const compressions[] = { "zlib", "zstd", NULL };
static const QmpType compression = { .kind = QMP_KIND_ENUM,
                                     .name = "Qcow2CompressionType",
                                     .values = compressions };

/* A name to note: that of any format that QEMU knows. */
static const char *const formats[] = { "bochs", "cloop", "dmg",       "host_device", "luks", "nbd",
                                       "file",  "qcow",  "parallels", "qcow2",       "qed",  "raw",
                                       "vdi",   "vhdx",  "vmdk",      "vpc",         NULL };
static const QmpType format_type = { .kind = QMP_KIND_ENUM,
                                     .name = "BlockdevDriver",
                                     .values = formats };

static const QmpMember file_members[] = {
    { "filename", &qmp_type_str, false,
      "the file; created if it does not exist, emptied if it does" },
    { "size", &qmp_type_size, false, "size of the file in bytes" },
    { "preallocation", &preallocation, true, "off, falloc or full (default: off)" },
    { "nocow", &qmp_type_bool, true,
      "turn off copy-on-write, if the file system can (default: off)" },
    { "extent-size-hint", &qmp_type_size, true,
      "the unit in which the file system allocates space, if it can (default: 1M; 0: its own)" },
    { NULL },
};
static const QmpType file_type = { .kind = QMP_KIND_OBJECT,
                                   .name = "BlockdevCreateOptionsFile",
                                   .members = file_members };

static const QmpMember qcow2_members[] = {
    { "file", &qmp_type_blockdev_ref, false, "the node for the image; its content is lost" },
    { "data-file", &qmp_type_blockdev_ref, true, "the node for the data; its content is kept" },
    { "data-file-raw", &qmp_type_bool, true, "the data file is a raw image (default: off)" },
    { "extended-l2", &qmp_type_bool, true,
      "divide each cluster into 32 subclusters (default: off)" },
    { "size", &qmp_type_size, false, "bytes of the disk" },
    { "version", &version, true, "version of the format (default: v3)" },
    { "backing-file", &qmp_type_str, true, "the backing file's name to record; it is not opened" },
    { "backing-fmt", &format_type, true, "the backing file's format to record" },
    { "cluster-size", &qmp_type_size, true, "512 to 2M (default: 64k)" },
    { "preallocation", &preallocation, true,
      "what is allocated when the image is created (default: off)" },
    { "lazy-refcounts", &qmp_type_bool, true,
      "allow other programs to update refcounts late (default: off)" },
    { "refcount-bits", &qmp_type_int, true, "1 to 64, a power of two (default: 16)" },
    { "compression-type", &compression, true, "compression of clusters (default: zlib)" },
    { NULL },
};
static const QmpType qcow2_type = { .kind = QMP_KIND_OBJECT,
                                    .name = "BlockdevCreateOptionsQcow2",
                                    .members = qcow2_members };

static const char *const drivers[] = { "file", "qcow2", NULL };
static const QmpType driver_type = { .kind = QMP_KIND_ENUM,
                                     .name = "BlockdevCreateDriver",
                                     .values = drivers };
static const QmpMember create_options_members[] = {
    { "driver", &driver_type, false, "the format of the image" },
    { NULL },
};
static const QmpVariant create_variants[] = { { "file", &file_type },
                                              { "qcow2", &qcow2_type },
                                              { NULL } };
static const QmpType create_options = { .kind = QMP_KIND_OBJECT,
                                        .name = "BlockdevCreateOptions",
                                        .members = create_options_members,
                                        .tag = "driver",
                                        .variants = create_variants };
static const QmpMember create_members[] = {
    { "job-id", &qmp_type_str, false, "id of the new job" },
    { "options", &create_options, false, "the image" },
    { NULL },
};
static const QmpType create_args = { .kind = QMP_KIND_OBJECT,
                                     .name = "q_obj_blockdev-create-arg",
                                     .members = create_members };

static const QmpMember change_members[] = {
    { "id", &qmp_type_str, false, "the job" },
    { "status", &qmp_type_job_status, false, "its new state" },
    { NULL },
};
static const QmpType change_data = { .kind = QMP_KIND_OBJECT,
                                     .name = "q_obj_JOB_STATUS_CHANGE-arg",
                                     .members = change_members };

static const QmpEvent events[] = {
    { "JOB_STATUS_CHANGE", "the state of a job has changed", &change_data },
    { NULL },
};

static const char *const blockdev_create_errors[] = { "Job ID 'ID' already in use",
                                                      "Invalid job ID 'ID'", NULL };
static const char *const job_cancel_errors[] = {
    "Job not found", "Job 'ID' in state 'STATUS' cannot accept command verb 'VERB'", NULL
};
static const char *const job_pause_errors[] = {
    "Job not found", "Job 'ID' in state 'STATUS' cannot accept command verb 'VERB'",
    "Job is already paused", NULL
};
static const char *const job_resume_errors[] = {
    "Job not found", "Job 'ID' in state 'STATUS' cannot accept command verb 'VERB'",
    "Can't resume a job that was not paused", NULL
};

static const QmpCommand commands[] = {
    { "blockdev-create", "create an image in a job, which stays until job-dismiss", &create_args,
      &qmp_type_empty, run_create,
      .example = "{'job-id': 'create0', 'options': {'driver': 'qcow2', 'file': 'disk0', 'size': "
                 "10737418240}}",
      .errors = blockdev_create_errors },
    { "query-jobs", "the jobs, including concluded ones", &qmp_type_empty, &info_array, run_query },
    { "job-cancel", "cancel a job", &id_args, &qmp_type_empty, run_cancel,
      .example = "{'id': 'create0'}", .errors = job_cancel_errors },
    { "job-pause", "pause a job", &id_args, &qmp_type_empty, run_pause,
      .example = "{'id': 'create0'}", .errors = job_pause_errors },
    { "job-resume", "resume a paused job", &id_args, &qmp_type_empty, run_resume,
      .example = "{'id': 'create0'}", .errors = job_resume_errors },
    { "job-complete", "complete a job that is ready; no job of this daemon needs it", &id_args,
      &qmp_type_empty, run_complete, .example = "{'id': 'create0'}", .errors = job_cancel_errors },
    { "job-finalize",
      "finalize a pending job that has auto-finalize=off, and the other jobs of its transaction",
      &id_args, &qmp_type_empty, run_finalize, .example = "{'id': 'create0'}",
      .errors = job_cancel_errors },
    { "job-dismiss", "remove a concluded job", &id_args, &qmp_type_empty, run_dismiss,
      .example = "{'id': 'create0'}", .errors = job_cancel_errors },
    { NULL },
};

const QmpFamily qmp_family_job = { "Jobs", commands, events };
