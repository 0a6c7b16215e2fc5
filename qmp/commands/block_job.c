/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp/commands/block_job.c: block jobs by their older commands and events (qapi/block-core.json of
 * QEMU). They are jobs as the others are. */
#include "qmp/commands/families.h"
#include "qmp/context.h"
#include "util/error.h"

static bool run_query(QmpCall *call, GError **error)
{
    call->result = blk_jobs_query_block(qmp_context_jobs(call->ctx));
    return true;
}

static BlkJob *find(QmpCall *call, const char *key, GError **error)
{
    return blk_jobs_find_block(qmp_context_jobs(call->ctx), qmp_arg_str(call->args, key), error);
}

static bool act(QmpCall *call, const char *key, BlkJobVerb verb, GError **error)
{
    BlkJob *job = find(call, key, error);

    return job && blk_job_act(job, verb, error);
}

static bool run_cancel(QmpCall *call, GError **error)
{
    BlkJob *job = find(call, "device", error);

    if (!job)
        return false;
    if (blk_job_paused(job) && !qmp_arg_bool(call->args, "force", false))
        return tm_error_set(error, "The block job for device '%s' is currently paused",
                            qmp_arg_str(call->args, "device"));
    return blk_job_act(job, BLK_JOB_CANCEL, error);
}

static bool run_pause(QmpCall *call, GError **error)
{
    return act(call, "device", BLK_JOB_PAUSE, error);
}

static bool run_resume(QmpCall *call, GError **error)
{
    return act(call, "device", BLK_JOB_RESUME, error);
}

static bool run_complete(QmpCall *call, GError **error)
{
    return act(call, "device", BLK_JOB_COMPLETE, error);
}

static bool run_finalize(QmpCall *call, GError **error)
{
    return act(call, "id", BLK_JOB_FINALIZE, error);
}

static bool run_dismiss(QmpCall *call, GError **error)
{
    return act(call, "id", BLK_JOB_DISMISS, error);
}

static bool run_change(QmpCall *call, GError **error)
{
    return act(call, "id", BLK_JOB_CHANGE, error);
}

static bool run_set_speed(QmpCall *call, GError **error)
{
    BlkJob *job = find(call, "device", error);

    return job && blk_job_set_speed(job, qmp_arg_int(call->args, "speed", 0), error);
}

/* ---- types */

static const char *const status_values[] = { "undefined", "created",   "running", "paused",
                                             "ready",     "standby",   "waiting", "pending",
                                             "aborting",  "concluded", "null",    NULL };
const QmpType qmp_type_job_status = { .kind = QMP_KIND_ENUM,
                                      .name = "JobStatus",
                                      .values = status_values };
/* Those of QEMU, too, that block-job-change may name. */
static const char *const type_values[] = { "commit", "stream", "mirror", "backup",
                                           "create", "amend",  NULL };
const QmpType qmp_type_job_type = { .kind = QMP_KIND_ENUM,
                                    .name = "JobType",
                                    .values = type_values };
static const char *const io_status_values[] = { "ok", "failed", "nospace", NULL };
static const QmpType io_status = { .kind = QMP_KIND_ENUM,
                                   .name = "BlockDeviceIoStatus",
                                   .values = io_status_values };

static const QmpMember device_members[] = {
    { "device", &qmp_type_str, false, "the job" },
    { NULL },
};
static const QmpType device_args = { .kind = QMP_KIND_OBJECT,
                                     .name = "q_obj_block-job-pause-arg",
                                     .members = device_members };
static const QmpMember cancel_members[] = {
    { "device", &qmp_type_str, false, "the job" },
    { "force", &qmp_type_bool, true, "cancel it even if it is paused (default: off)" },
    { NULL },
};
static const QmpType cancel_args = { .kind = QMP_KIND_OBJECT,
                                     .name = "q_obj_block-job-cancel-arg",
                                     .members = cancel_members };
static const QmpMember speed_members[] = {
    { "device", &qmp_type_str, false, "the job" },
    { "speed", &qmp_type_int, false, "bytes per second; 0 for no limit" },
    { NULL },
};
static const QmpType speed_args = { .kind = QMP_KIND_OBJECT,
                                    .name = "q_obj_block-job-set-speed-arg",
                                    .members = speed_members };
static const QmpMember id_members[] = { { "id", &qmp_type_str, false, "the job" }, { NULL } };
static const QmpType id_args = { .kind = QMP_KIND_OBJECT,
                                 .name = "q_obj_block-job-finalize-arg",
                                 .members = id_members };
static const char *const copy_values[] = { "background", "write-blocking", NULL };
static const QmpType copy_mode = { .kind = QMP_KIND_ENUM,
                                   .name = "MirrorCopyMode",
                                   .values = copy_values };
static const QmpMember mirror_members[] = {
    { "copy-mode", &copy_mode, false, "how a mirror job copies" },
    { NULL },
};
static const QmpType change_mirror = { .kind = QMP_KIND_OBJECT,
                                       .name = "BlockJobChangeOptionsMirror",
                                       .members = mirror_members };
static const QmpVariant change_variants[] = { { "mirror", &change_mirror }, { NULL } };
static const QmpMember change_members[] = {
    { "id", &qmp_type_str, false, "the job" },
    { "type", &qmp_type_job_type, false, "the kind of job" },
    { NULL },
};
static const QmpType change_args = { .kind = QMP_KIND_OBJECT,
                                     .name = "BlockJobChangeOptions",
                                     .members = change_members,
                                     .tag = "type",
                                     .variants = change_variants };

static const QmpMember info_members[] = {
    { "type", &qmp_type_str, false, "the kind of job" },
    { "device", &qmp_type_str, false, "the job's id" },
    { "len", &qmp_type_int, false, "expected progress at the end, in bytes; may change" },
    { "offset", &qmp_type_int, false, "progress, in bytes" },
    { "busy", &qmp_type_bool, false, "whether it is working at this moment, not waiting" },
    { "paused", &qmp_type_bool, false, "whether it is paused, or will be as soon as it can" },
    { "speed", &qmp_type_int, false, "bytes per second; 0 for no limit" },
    { "io-status", &io_status, false, "the kind of error that paused it; ok: none" },
    { "ready", &qmp_type_bool, false, "whether it may be completed" },
    { "status", &qmp_type_job_status, false, "its state" },
    { "auto-finalize", &qmp_type_bool, false, "whether it finalizes itself" },
    { "auto-dismiss", &qmp_type_bool, false, "whether it is removed when it concludes" },
    { "error", &qmp_type_str, true, "the error message, if it failed" },
    { NULL },
};
static const QmpType info_type = { .kind = QMP_KIND_OBJECT,
                                   .name = "BlockJobInfo",
                                   .members = info_members };
static const QmpType info_array = { .kind = QMP_KIND_ARRAY,
                                    .name = "array",
                                    .element = &info_type };

static const QmpMember end_members[] = {
    { "type", &qmp_type_job_type, false, "the kind of job" },
    { "device", &qmp_type_str, false, "the job's id" },
    { "len", &qmp_type_int, false, "expected progress at the end, in bytes" },
    { "offset", &qmp_type_int, false, "progress, in bytes" },
    { "speed", &qmp_type_int, false, "bytes per second; 0 for no limit" },
    { NULL },
};
static const QmpType cancelled_data = { .kind = QMP_KIND_OBJECT,
                                        .name = "q_obj_BLOCK_JOB_CANCELLED-arg",
                                        .members = end_members };
static const QmpMember completed_members[] = {
    { "type", &qmp_type_job_type, false, "the kind of job" },
    { "device", &qmp_type_str, false, "the job's id" },
    { "len", &qmp_type_int, false, "expected progress at the end, in bytes" },
    { "offset", &qmp_type_int, false, "progress, in bytes" },
    { "speed", &qmp_type_int, false, "bytes per second; 0 for no limit" },
    { "error", &qmp_type_str, true, "the error message, if it failed" },
    { NULL },
};
static const QmpType completed_data = { .kind = QMP_KIND_OBJECT,
                                        .name = "q_obj_BLOCK_JOB_COMPLETED-arg",
                                        .members = completed_members };
static const QmpMember pending_members[] = {
    { "type", &qmp_type_job_type, false, "the kind of job" },
    { "id", &qmp_type_str, false, "the job" },
    { NULL },
};
static const QmpType pending_data = { .kind = QMP_KIND_OBJECT,
                                      .name = "q_obj_BLOCK_JOB_PENDING-arg",
                                      .members = pending_members };
static const char *const operation_values[] = { "read", "write", NULL };
static const QmpType operation = { .kind = QMP_KIND_ENUM,
                                   .name = "IoOperationType",
                                   .values = operation_values };
static const char *const action_values[] = { "ignore", "report", "stop", NULL };
static const QmpType action = { .kind = QMP_KIND_ENUM,
                                .name = "BlockErrorAction",
                                .values = action_values };
static const QmpMember error_members[] = {
    { "device", &qmp_type_str, false, "the job's id" },
    { "operation", &operation, false, "what failed: reading the source, or writing the target" },
    { "action", &action, false, "what the job does after that" },
    { NULL },
};
static const QmpType error_data = { .kind = QMP_KIND_OBJECT,
                                    .name = "q_obj_BLOCK_JOB_ERROR-arg",
                                    .members = error_members };

static const QmpEvent events[] = {
    { "BLOCK_JOB_COMPLETED", "a block job has ended, with success or an error", &completed_data },
    { "BLOCK_JOB_CANCELLED", "a block job was canceled", &cancelled_data },
    { "BLOCK_JOB_ERROR", "a request of a block job has failed", &error_data },
    { "BLOCK_JOB_READY", "a block job may be completed", &cancelled_data },
    { "BLOCK_JOB_PENDING", "a block job waits for job-finalize", &pending_data },
    { NULL },
};

static const char *const verb_errors[] = {
    "Block job 'ID' not found", "Job 'ID' in state 'STATUS' cannot accept command verb 'VERB'", NULL
};
static const char *const cancel_errors[] = {
    "Block job 'ID' not found", "The block job for device 'ID' is currently paused",
    "Job 'ID' in state 'STATUS' cannot accept command verb 'VERB'", NULL
};
static const char *const pause_errors[] = {
    "Block job 'ID' not found", "Job 'ID' in state 'STATUS' cannot accept command verb 'VERB'",
    "Job is already paused", NULL
};
static const char *const resume_errors[] = {
    "Block job 'ID' not found", "Job 'ID' in state 'STATUS' cannot accept command verb 'VERB'",
    "Can't resume a job that was not paused", NULL
};
static const char *const speed_errors[] = {
    "Block job 'ID' not found", "Job 'ID' in state 'STATUS' cannot accept command verb 'VERB'",
    "Parameter 'speed' expects a non-negative value", NULL
};
static const char *const change_errors[] = { "Block job 'ID' not found",
                                             "Job type does not support change", NULL };

static const QmpCommand commands[] = {
    { "query-block-jobs", "the block jobs, including concluded ones", &qmp_type_empty, &info_array,
      run_query },
    { "block-job-cancel", "cancel a block job", &cancel_args, &qmp_type_empty, run_cancel,
      .example = "{'device': 'backup0'}", .errors = cancel_errors },
    { "block-job-pause", "pause a block job", &device_args, &qmp_type_empty, run_pause,
      .example = "{'device': 'backup0'}", .errors = pause_errors },
    { "block-job-resume", "resume a paused block job", &device_args, &qmp_type_empty, run_resume,
      .example = "{'device': 'backup0'}", .errors = resume_errors },
    { "block-job-complete", "complete a block job that is ready; no job of this daemon needs it",
      &device_args, &qmp_type_empty, run_complete, .example = "{'device': 'backup0'}",
      .errors = verb_errors },
    { "block-job-finalize",
      "finalize a pending block job that has auto-finalize=off, and the other jobs of its "
      "transaction",
      &id_args, &qmp_type_empty, run_finalize, .example = "{'id': 'backup0'}",
      .errors = verb_errors },
    { "block-job-dismiss", "remove a concluded block job", &id_args, &qmp_type_empty, run_dismiss,
      .example = "{'id': 'backup0'}", .errors = verb_errors },
    { "block-job-set-speed", "change the speed limit of a block job", &speed_args, &qmp_type_empty,
      run_set_speed, .example = "{'device': 'backup0', 'speed': 10485760}",
      .errors = speed_errors },
    { "block-job-change", "change a mirror job; this daemon has none", &change_args,
      &qmp_type_empty, run_change,
      .example = "{'id': 'mirror0', 'type': 'mirror', 'copy-mode': 'background'}",
      .errors = change_errors },
    { NULL },
};

const QmpFamily qmp_family_block_job = { "Block jobs", commands, events };
