/* qmp/cmd_blockdev.c: nodes come, change size and go. The work is the block layer's. */
#include "qmp/context.h"
#include "qmp/families.h"
#include "util/error.h"

static bool run_add(QmpCall *call, GError **error)
{
    return blk_graph_add(qmp_context_graph(call->ctx), call->args, error) != NULL;
}

static bool run_del(QmpCall *call, GError **error)
{
    return blk_graph_del(qmp_context_graph(call->ctx), qmp_arg_str(call->args, "node-name"), error);
}

static bool run_reopen(QmpCall *call, GError **error)
{
    return blk_graph_reopen(qmp_context_graph(call->ctx), qmp_arg(call->args, "options"), error);
}

static bool run_resize(QmpCall *call, GError **error)
{
    /* "device" names a guest's device in QEMU; a storage daemon has none. */
    BlkNode *node = qmp_find_node(call->ctx, qmp_arg_str(call->args, "device"),
                                  qmp_arg_str(call->args, "node-name"), error);
    json_object *size = qmp_arg(call->args, "size");

    if (!node)
        return false;
    if (json_object_get_int64(size) < 0)
        return tm_error_set(error, "Parameter 'size' expects a >0 size");
    return blk_graph_resize(qmp_context_graph(call->ctx), node, json_object_get_uint64(size),
                            error);
}

static const QmpMember del_members[] = {
    { "node-name", &qmp_type_str, false, "name of the node" },
    { NULL },
};
static const QmpType del_args = { .kind = QMP_KIND_OBJECT,
                                  .name = "q_obj_blockdev-del-arg",
                                  .members = del_members };

static const QmpType reopen_list = { .kind = QMP_KIND_ARRAY,
                                     .name = "array",
                                     .element = &qmp_type_blockdev_options };
static const QmpMember reopen_members[] = {
    { "options", &reopen_list, false,
      "the nodes, each with all of the options that it is to have" },
    { NULL },
};
static const QmpType reopen_args = { .kind = QMP_KIND_OBJECT,
                                     .name = "q_obj_blockdev-reopen-arg",
                                     .members = reopen_members };

static const QmpMember resize_members[] = {
    { "device", &qmp_type_str, true, "for compatibility; names no node" },
    { "node-name", &qmp_type_str, true, "name of the node" },
    { "size", &qmp_type_int, false, "new size in bytes" },
    { NULL },
};
static const QmpType resize_args = { .kind = QMP_KIND_OBJECT,
                                     .name = "q_obj_block_resize-arg",
                                     .members = resize_members };

static const QmpMember corrupted_members[] = {
    { "device", &qmp_type_str, false, "for compatibility; empty" },
    { "node-name", &qmp_type_str, true, "the node" },
    { "msg", &qmp_type_str, false, "what was found, for people" },
    { "offset", &qmp_type_int, true, "where in the image" },
    { "size", &qmp_type_int, true, "how much of it" },
    { "fatal", &qmp_type_bool, false, "the image is not written any more" },
    { NULL },
};
static const QmpType corrupted_data = { .kind = QMP_KIND_OBJECT,
                                        .name = "q_obj_BLOCK_IMAGE_CORRUPTED-arg",
                                        .members = corrupted_members };

static const QmpEvent events[] = {
    { "BLOCK_IMAGE_CORRUPTED", "an image was found not to be what it says", &corrupted_data },
    { NULL },
};

static const QmpCommand commands[] = {
    { "blockdev-add", "open a node", &qmp_type_blockdev_options, &qmp_type_empty, run_add },
    { "blockdev-del", "close a node that nothing uses", &del_args, &qmp_type_empty, run_del },
    { "blockdev-reopen", "give nodes other options, all of them or none", &reopen_args,
      &qmp_type_empty, run_reopen },
    { "block_resize", "change the size of a node", &resize_args, &qmp_type_empty, run_resize },
    { NULL },
};

const QmpFamily qmp_family_blockdev = { "Block nodes", commands, events };
