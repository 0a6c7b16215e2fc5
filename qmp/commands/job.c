/* qmp/commands/job.c: jobs, and the command that starts one. Names and answers are QEMU's
 * (qapi/job.json, qapi/block-core.json). */
#include "block/jobs/create.h"
#include "qmp/commands/families.h"
#include "qmp/context.h"

static bool run_query(QmpCall *call, GError **error)
{
    call->result = blk_jobs_query(qmp_context_jobs(call->ctx));
    return true;
}

static bool act(QmpCall *call, BlkJobVerb verb, GError **error)
{
    return blk_jobs_act(qmp_context_jobs(call->ctx), qmp_arg_str(call->args, "id"), verb, error);
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

static const char *const status_values[] = { "created",   "running", "paused",
                                             "waiting",   "pending", "aborting",
                                             "concluded", "null",    NULL };
static const QmpType status_type = { .kind = QMP_KIND_ENUM,
                                     .name = "JobStatus",
                                     .values = status_values };
static const char *const type_values[] = { "create", NULL };
static const QmpType type_type = { .kind = QMP_KIND_ENUM,
                                   .name = "JobType",
                                   .values = type_values };

static const QmpMember info_members[] = {
    { "id", &qmp_type_str, false, "the job" },
    { "type", &type_type, false, "what it does" },
    { "status", &status_type, false, "where in its life it is" },
    { "current-progress", &qmp_type_int, false, "how far it is, in no particular unit" },
    { "total-progress", &qmp_type_int, false, "where that will be at its end; may change" },
    { "error", &qmp_type_str, true, "why it failed" },
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
    { "filename", &qmp_type_str, false, "the file; made if it is not there, else emptied" },
    { "size", &qmp_type_size, false, "bytes" },
    { "preallocation", &preallocation, true, "off, falloc or full (default: off)" },
    { "nocow", &qmp_type_bool, true, "no copy on write by the file system, where it can" },
    { "extent-size-hint", &qmp_type_size, true, "accepted for compatibility" },
    { NULL },
};
static const QmpType file_type = { .kind = QMP_KIND_OBJECT,
                                   .name = "BlockdevCreateOptionsFile",
                                   .members = file_members };

static const QmpMember qcow2_members[] = {
    { "file", &qmp_type_blockdev_ref, false, "where it is put; what was there is gone" },
    { "data-file", &qmp_type_blockdev_ref, true, "where its data are put; what is there stays" },
    { "data-file-raw", &qmp_type_bool, true, "the data file is a raw image (default: off)" },
    { "extended-l2", &qmp_type_bool, true, "subclusters (default: off)" },
    { "size", &qmp_type_size, false, "bytes of the disk" },
    { "version", &version, true, "of the format (default: v3)" },
    { "backing-file", &qmp_type_str, true, "the name to note; nothing is opened" },
    { "backing-fmt", &format_type, true, "its format, to note, too" },
    { "cluster-size", &qmp_type_size, true, "512 to 2M (default: 64k)" },
    { "preallocation", &preallocation, true, "what is there from the start (default: off)" },
    { "lazy-refcounts", &qmp_type_bool, true,
      "let others do without refcounts until they close it" },
    { "refcount-bits", &qmp_type_int, true, "1 to 64, a power of two (default: 16)" },
    { "compression-type", &compression, true, "of compressed clusters (default: zlib)" },
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
    { "driver", &driver_type, false, "the kind of image" },
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
    { "job-id", &qmp_type_str, false, "a name for the job" },
    { "options", &create_options, false, "the image" },
    { NULL },
};
static const QmpType create_args = { .kind = QMP_KIND_OBJECT,
                                     .name = "q_obj_blockdev-create-arg",
                                     .members = create_members };

static const QmpMember change_members[] = {
    { "id", &qmp_type_str, false, "the job" },
    { "status", &status_type, false, "where in its life it is now" },
    { NULL },
};
static const QmpType change_data = { .kind = QMP_KIND_OBJECT,
                                     .name = "q_obj_JOB_STATUS_CHANGE-arg",
                                     .members = change_members };

static const QmpEvent events[] = {
    { "JOB_STATUS_CHANGE", "a job has another status", &change_data },
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
    { "blockdev-create", "create an image, as a job that has to be dismissed", &create_args,
      &qmp_type_empty, run_create,
      .example = "{'job-id': 'create0', 'options': {'driver': 'qcow2', 'file': 'disk0', 'size': "
                 "10737418240}}",
      .errors = blockdev_create_errors },
    { "query-jobs", "the jobs, concluded ones too", &qmp_type_empty, &info_array, run_query },
    { "job-cancel", "end a job before it is through", &id_args, &qmp_type_empty, run_cancel,
      .example = "{'id': 'create0'}", .errors = job_cancel_errors },
    { "job-pause", "let a job wait", &id_args, &qmp_type_empty, run_pause,
      .example = "{'id': 'create0'}", .errors = job_pause_errors },
    { "job-resume", "let a paused job go on", &id_args, &qmp_type_empty, run_resume,
      .example = "{'id': 'create0'}", .errors = job_resume_errors },
    { "job-complete", "end a job that is ready to; no kind of job here ever is", &id_args,
      &qmp_type_empty, run_complete, .example = "{'id': 'create0'}", .errors = job_cancel_errors },
    { "job-finalize", "end a job that is pending; here they do it themselves", &id_args,
      &qmp_type_empty, run_finalize, .example = "{'id': 'create0'}", .errors = job_cancel_errors },
    { "job-dismiss", "forget a concluded job", &id_args, &qmp_type_empty, run_dismiss,
      .example = "{'id': 'create0'}", .errors = job_cancel_errors },
    { NULL },
};

const QmpFamily qmp_family_job = { "Jobs", commands, events };
