/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/unit/test_qmp.c: the tables' checks, the command line's syntax, dispatch, transactions,
 * events and a session, on a graph of null nodes. Messages are those of qemu-storage-daemon 7.2. */
#include "block/engine/engine.h"
#include "qmp/json/json.h"
#include "qmp/keyval.h"
#include "qmp/monitor.h"
#include "tests/asserts.h"
#include "util/error.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static BlkRegistry *registry;
static BlkEngine *engine;
static BlkGraph *graph;
static BlkExports *exports;
static QmpContext *ctx;
static TmLog *logged;
static bool quitted;

static void quit(void *opaque)
{
    quitted = true;
}

static void setup(void)
{
    BlkEngineOptions engine_options = { .io = BLK_IO_THREADS, .loops = 1, .workers = 1 };
    QmpContextOptions options = { .quit = quit };

    registry = blk_registry_new(&tm_sys_kernel);
    engine = blk_engine_new(&engine_options, NULL);
    ck_assert_ptr_nonnull(engine);
    options.graph = graph = blk_graph_new(registry, engine, &tm_sys_kernel);
    options.exports = exports = blk_exports_new(graph);
    options.log = logged = tm_log_new(NULL);
    ctx = qmp_context_new(&options);
    quitted = false;
}

static void teardown(void)
{
    qmp_context_free(ctx);
    blk_exports_free(exports);
    blk_graph_free(graph);
    blk_engine_free(engine);
    blk_registry_free(registry);
    tm_log_free(logged);
}

static json_object *parse(const char *text)
{
    json_object *value = NULL;
    g_autoptr(GError) error = NULL;

    ck_assert_msg(qmp_json_parse(text, &value, &error), "test's own JSON: %s", text);
    return value;
}

/* Runs a command; its result, or "CLASS: message", as text (g_free). */
static char *run(const char *command, const char *args)
{
    json_object *object = parse(args), *result = NULL;
    g_autoptr(GError) error = NULL;
    char *text;

    if (qmp_dispatch(ctx, command, object, &result, &error))
        text = qmp_json_text(result, false);
    else
        text = g_strdup_printf("%s: %s", tm_error_class_name(error), error->message);
    json_object_put(result);
    json_object_put(object);
    return text;
}

static void gives(const char *command, const char *args, const char *expected)
{
    g_autofree char *text = run(command, args);

    ck_assert_msg(!strcmp(text, expected), "%s %s\n gave     %s\n expected %s", command, args, text,
                  expected);
}

/* ---- checks: a table with one member of every kind ---- */

static const char *const colours[] = { "red", "blue", NULL };
static const QmpType colour = { .kind = QMP_KIND_ENUM, .name = "Colour", .values = colours };
static const QmpType small = { .kind = QMP_KIND_INT, .name = "int8_t", .min = -128, .max = 127 };
static const QmpMember red_members[] = { { "depth", &qmp_type_size, true }, { NULL } };
static const QmpType red_type = { .kind = QMP_KIND_OBJECT, .name = "Red", .members = red_members };
static const QmpVariant variants[] = { { "red", &red_type }, { NULL } };
static const QmpMember inner_members[] = { { "colour", &colour }, { NULL } };
static const QmpType inner = { .kind = QMP_KIND_OBJECT,
                               .name = "Inner",
                               .members = inner_members,
                               .tag = "colour",
                               .variants = variants };
static const QmpType inner_array = { .kind = QMP_KIND_ARRAY, .name = "array", .element = &inner };
static const QmpMember outer_members[] = {
    { "s", &qmp_type_str, true },
    { "b", &qmp_type_bool, true },
    { "i", &qmp_type_int, true },
    { "small", &small, true },
    { "u", &qmp_type_uint32, true },
    { "size", &qmp_type_size, true },
    { "in", &inner, true },
    { "list", &inner_array, true },
    { "maps", &qmp_type_bitmaps, true },
    { "ref", &qmp_type_blockdev_ref_null, true },
    { NULL },
};
static const QmpType outer = { .kind = QMP_KIND_OBJECT, .name = "Outer", .members = outer_members };

static const struct {
    const char *text, *message; /* NULL: fits */
} json_cases[] = {
    { "{}", NULL },
    { "{'s':'x','b':true,'i':-1,'small':127,'u':4294967295,'size':18446744073709551615}", NULL },
    { "{'in':{'colour':'red','depth':1},'list':[{'colour':'blue'}],'maps':['a',{'node':'n',"
      "'name':'m'}],'ref':null}",
      NULL },
    { "1", "Invalid parameter type for '<anonymous>', expected: object" },
    { "{'s':1}", "Invalid parameter type for 's', expected: string" },
    { "{'s':null}", "Invalid parameter type for 's', expected: string" },
    { "{'s':'a\\u0000b'}", "Parameter 's' expects a string without NUL characters" },
    { "{'b':'on'}", "Invalid parameter type for 'b', expected: boolean" },
    { "{'i':1.5}", "Invalid parameter type for 'i', expected: integer" },
    { "{'i':9223372036854775808}", "Invalid parameter type for 'i', expected: integer" },
    { "{'small':128}", "Parameter 'small' expects int8_t" },
    { "{'small':-129}", "Parameter 'small' expects int8_t" },
    { "{'u':'1'}", "Parameter 'u' expects uint64" },
    { "{'u':4294967296}", "Parameter 'u' expects uint32_t" },
    { "{'u':-1}", "Parameter 'u' expects uint32_t" },
    { "{'in':{}}", "Parameter 'in.colour' is missing" },
    { "{'in':{'colour':'green'}}",
      "Parameter 'colour' does not accept value 'green': expected one of red, blue" },
    { "{'in':{'colour':'blue','depth':1}}", "Parameter 'in.depth' is unexpected" },
    { "{'in':{'colour':'red','depth':'x'}}", "Parameter 'in.depth' expects uint64" },
    { "{'list':{}}", "Invalid parameter type for 'list', expected: array" },
    { "{'list':[{'colour':'red'},{}]}", "Parameter 'list[1].colour' is missing" },
    { "{'list':[1]}", "Invalid parameter type for 'list[0]', expected: object" },
    { "{'maps':[1]}", "Invalid parameter type for 'null', expected: BlockDirtyBitmapOrStr" },
    { "{'maps':[{'node':'n'}]}", "Parameter 'maps[0].name' is missing" },
    { "{'ref':1}", "Invalid parameter type for 'ref', expected: BlockdevRefOrNull" },
    { "{'ref':{'driver':'file'}}", "Parameter 'ref.filename' is missing" },
    { "{'zork':1}", "Parameter 'zork' is unexpected" },
    { "{'zork':1,'s':1}", "Invalid parameter type for 's', expected: string" },
};

START_TEST(values_are_checked_with_qemus_messages)
{
    json_object *value = parse(json_cases[_i].text);
    g_autoptr(GError) error = NULL;
    bool ok = qmp_check(qmp_context_types(ctx), &outer, value, &error);

    ck_assert_int_eq(ok, json_cases[_i].message == NULL);
    if (!ok)
        ck_assert_str_eq(error->message, json_cases[_i].message);
    json_object_put(value);
}
END_TEST

static const struct {
    const char *text, *result; /* JSON, or a message */
} keyval_cases[] = {
    { "", "{}" },
    { "s=x,b=on,i=-5", "{\"s\": \"x\", \"b\": true, \"i\": -5}" },
    { "s=a,,b=c,,", "{\"s\": \"a,b=c,\"}" },
    { "s=,b=n,b=yes,", "{\"s\": \"\", \"b\": true}" },
    { "implied,i=0x10", "{\"s\": \"implied\", \"i\": 16}" },
    { "size=4k,u=7", "{\"size\": 4096, \"u\": 7}" },
    { "size=2T", "{\"size\": 2199023255552}" },
    { "in.colour=red,in.depth=1M", "{\"in\": {\"colour\": \"red\", \"depth\": 1048576}}" },
    { "list.1.colour=blue,list.0.colour=red",
      "{\"list\": [{\"colour\": \"red\"}, {\"colour\": \"blue\"}]}" },
    { "maps.0=a,maps.1.node=n,maps.1.name=m",
      "{\"maps\": [\"a\", {\"node\": \"n\", \"name\": \"m\"}]}" },
    { "ref=other", "{\"ref\": \"other\"}" },
    { "ref.driver=null-co,ref.size=1G,ref.cache.direct=on",
      "{\"ref\": {\"driver\": \"null-co\", \"size\": 1073741824, \"cache\": {\"direct\": true}}}" },
    { "{\"s\":\"x\"}", "{\"s\": \"x\"}" },
    { "{\"s\":", "JSON parse error, premature EOI" },
    { "s=a,s", "Expected '=' after parameter 's'" },
    { "a..b=1", "Invalid parameter 'a..b'" },
    { "0=1", "Invalid parameter '0'" },
    { "=1", "Invalid parameter ''" },
    { "s.x=1,s=2", "Parameters 's.*' used inconsistently" },
    { "list.0=a,list.b=c", "Parameters 'list.*' used inconsistently" },
    { "maps.1=a", "Parameter 'maps.0' missing" },
    { "s.x=1", "Parameters 's.*' are unexpected" },
    { "b=maybe", "Parameter 'b' expects 'on' or 'off'" },
    { "i=1k", "Parameter 'i' expects integer" },
    { "i=9223372036854775808", "Invalid parameter type for 'i', expected: integer" },
    { "size=16E", "Parameter 'size' expects a size value representable as a 64-bit integer" },
    { "size=1x", "Parameter 'size' expects a size value representable as a 64-bit integer" },
    { "u=-1", "Parameter 'u' expects uint32_t" },
    { "in=red", "Invalid parameter type for 'in', expected: object" },
    { "list.0.colour=green",
      "Parameter 'colour' does not accept value 'green': expected one of red, blue" },
    { "list.0.x=y", "Parameter 'list.0.colour' is missing" },
    { "maps.0.node=n", "Parameter 'maps.0.name' is missing" },
    { "ref.0=x", "Invalid parameter type for 'ref', expected: BlockdevRefOrNull" },
    { "zork=1", "Parameter 'zork' is unexpected" },
};

START_TEST(keyval_options_parse_as_in_qemu)
{
    g_autoptr(GError) error = NULL;
    json_object *value =
        qmp_option_parse(qmp_context_types(ctx), &outer, keyval_cases[_i].text, "s", &error);
    g_autofree char *text = value ? qmp_json_text(value, false) : g_strdup(error->message);

    ck_assert_str_eq(text, keyval_cases[_i].result);
    json_object_put(value);
}
END_TEST

START_TEST(keyval_nesting_and_length_are_bounded)
{
    g_autofree char *deep = g_strnfill(4000, '.'), *wide = g_strnfill(128, 'a');
    g_autofree char *assignment = NULL;
    g_autoptr(GError) error = NULL;

    for (size_t i = 0; i < 4000; i += 2)
        deep[i] = 'a';
    deep[3998] = '=';
    ck_assert_ptr_null(qmp_keyval_parse(deep, NULL, &error));
    ck_assert_ptr_nonnull(error);
    g_clear_error(&error);
    assignment = g_strconcat(wide, "=1", NULL);
    ck_assert_ptr_null(qmp_keyval_parse(assignment, NULL, &error));
    ck_assert(g_str_has_suffix(error->message, "is too long"));
}
END_TEST

/* ---- commands ---- */

START_TEST(commands_are_dispatched_and_errors_have_qemus_class)
{
    gives("nope", "{}", "CommandNotFound: The command nope has not been found");
    gives("qmp_capabilities", "{}",
          "CommandNotFound: Capabilities negotiation is already complete, command ignored");
    gives("query-version", "{'x':1}", "GenericError: Parameter 'x' is unexpected");
    gives("query-block-exports", "{}", "[]");
    gives("blockdev-add", "{'driver':'null-co','node-name':'n'}", "{}");
    gives("blockdev-del", "{'node-name':'n'}", "{}");
    gives("query-named-block-nodes", "{}", "[]");
    ck_assert(!quitted);
    gives("quit", "{}", "{}");
    ck_assert(quitted);
}
END_TEST

static const char nodes[] = "{'driver':'null-co','node-name':'%s','size':1048576}";

static void add_node(const char *name)
{
    g_autofree char *args = g_strdup_printf(nodes, name);

    gives("blockdev-add", args, "{}");
}

/* The names of a node's bitmaps, newest first, with '+' if recording: "b+ a " (g_free). */
static char *bitmaps_of(const char *node)
{
    BmpSet *set = blk_node_bitmaps(blk_graph_find(graph, node, NULL));
    GString *out = g_string_new(NULL);

    for (size_t i = bmp_set_length(set); i > 0; i--) {
        g_autoptr(BmpBitmap) bitmap = bmp_set_nth(set, i - 1);

        g_string_append_printf(out, "%s%s ", bmp_bitmap_name(bitmap),
                               bmp_bitmap_enabled(bitmap) ? "+" : "");
    }
    return g_string_free(out, FALSE);
}

static void holds(const char *node, const char *expected)
{
    g_autofree char *text = bitmaps_of(node);

    ck_assert_str_eq(text, expected);
}

static void mark(const char *node, uint64_t offset, uint64_t length)
{
    BmpSet *set = blk_node_bitmaps(blk_graph_find(graph, node, NULL));

    bmp_set_mark_end(set, offset, length, bmp_set_mark_begin(set, offset, length));
}

static uint64_t count_of(const char *node, const char *name)
{
    g_autoptr(BmpBitmap) bitmap =
        bmp_set_find(blk_node_bitmaps(blk_graph_find(graph, node, NULL)), name, NULL);

    ck_assert_ptr_nonnull(bitmap);
    return bmp_bitmap_count(bitmap);
}

#define ADD(node, name)                                                                            \
    "{'type':'block-dirty-bitmap-add','data':{'node':'" node "','name':'" name "'}}"
#define ACT(what, node, name)                                                                      \
    "{'type':'block-dirty-bitmap-" what "','data':{'node':'" node "','name':'" name "'}}"
#define ABORT "{'type':'abort','data':{}}"

START_TEST(a_transaction_is_all_or_nothing)
{
    add_node("n");
    add_node("m");
    gives("transaction", "{'actions':[" ADD("n", "a") "," ADD("n", "b") "," ADD("m", "c") "]}",
          "{}");
    holds("n", "b+ a+ ");
    mark("n", 0, 1);
    mark("m", 0, 131072);

    /* Every kind of action, each taken back; the removed one must be where it was. */
    gives("transaction",
          "{'actions':[" ACT("clear", "n", "a") "," ACT("disable", "n", "a") "," ACT(
              "remove", "n",
              "a") "," ADD("n", "a") "," ACT("clear", "m",
                                             "c") ",{'type':"
                                                  "'block-dirty-bitmap-merge','data':{'node':'n','"
                                                  "target':'b','bitmaps':[{'node':'m',"
                                                  "'name':'c'}]}}," ABORT "]}",
          "GenericError: Transaction aborted using Abort action");
    holds("n", "b+ a+ ");
    ck_assert_uint_eq(count_of("n", "a"), 65536);
    ck_assert_uint_eq(count_of("n", "b"), 65536);
    ck_assert_uint_eq(count_of("m", "c"), 131072);

    /* The bitmaps record as before. */
    mark("n", 1 << 19, 1);
    ck_assert_uint_eq(count_of("n", "a"), 2 * 65536);

    gives("transaction",
          "{'actions':[" ACT("disable", "n", "a") "," ACT("clear", "n", "b") "," ACT("remove", "m",
                                                                                     "c") "]}",
          "{}");
    holds("n", "b+ a ");
    holds("m", "");
    ck_assert_uint_eq(count_of("n", "b"), 0);
    ck_assert_uint_eq(count_of("n", "a"), 2 * 65536);
}
END_TEST

START_TEST(a_transaction_reports_its_first_error)
{
    add_node("n");
    gives("transaction", "{'actions':[" ADD("n", "a") "," ADD("n", "a") "," ADD("x", "y") "]}",
          "GenericError: Bitmap already exists: a");
    gives("transaction", "{'actions':[" ADD("n", "a") "," ADD("x", "y") "," ADD("n", "a") "]}",
          "GenericError: Cannot find device='x' nor node-name='x'");
    holds("n", "");
    gives("transaction",
          "{'actions':[" ADD("n", "a") "],'properties':{'completion-mode':'grouped'}}",
          "GenericError: Action 'block-dirty-bitmap-add' does not support Transaction property "
          "completion-mode = grouped");
    gives("transaction",
          "{'actions':[" ADD("n", "a") "],'properties':{'completion-mode':'individual'}}", "{}");
    holds("n", "a+ ");
}
END_TEST

START_TEST(busy_bitmaps_refuse_changes)
{
    static const char busy[] =
        "GenericError: Bitmap 'a' is currently in use by another operation and cannot be used";
    g_autoptr(BmpBitmap) bitmap = NULL;

    add_node("n");
    gives("block-dirty-bitmap-add", "{'node':'n','name':'a'}", "{}");
    gives("block-dirty-bitmap-add", "{'node':'n','name':'b'}", "{}");
    bitmap = bmp_set_find(blk_node_bitmaps(blk_graph_find(graph, "n", NULL)), "a", NULL);
    bmp_bitmap_busy_begin(bitmap);
    gives("block-dirty-bitmap-clear", "{'node':'n','name':'a'}", busy);
    gives("block-dirty-bitmap-enable", "{'node':'n','name':'a'}", busy);
    gives("block-dirty-bitmap-disable", "{'node':'n','name':'a'}", busy);
    gives("block-dirty-bitmap-remove", "{'node':'n','name':'a'}", busy);
    gives("block-dirty-bitmap-merge", "{'node':'n','target':'a','bitmaps':['b']}", busy);
    gives("block-dirty-bitmap-merge", "{'node':'n','target':'b','bitmaps':['a']}", busy);
    holds("n", "b+ a+ ");
    bmp_bitmap_busy_end(bitmap);
    gives("block-dirty-bitmap-clear", "{'node':'n','name':'a'}", "{}");
}
END_TEST

/* ---- derived texts ---- */

START_TEST(commands_and_arguments_are_listed)
{
    g_autofree char *man = qmp_table_man();
    g_auto(GStrv) names = qmp_table_completion(qmp_context_types(ctx), NULL);
    g_auto(GStrv) args = qmp_table_completion(qmp_context_types(ctx), "blockdev-add");

    ck_assert(g_strv_contains((const char *const *)names, "block-export-dirty-bitmap"));
    ck_assert(g_strv_contains((const char *const *)args, "cache.direct="));
    ck_assert(g_strv_contains((const char *const *)args, "filename="));
    ck_assert_ptr_null(qmp_table_completion(qmp_context_types(ctx), "nope"));
    for (char **n = names; *n; n++) {
        const QmpCommand *c = qmp_table_command(*n);

        ck_assert_ptr_nonnull(c);
        ck_assert_msg(c->help && *c->help, "%s has no line of help", *n);
    }
    ck_assert_ptr_nonnull(strstr(man, ".It Cm block-dirty-bitmap-add\n"));
    ck_assert_ptr_nonnull(strstr(man, "BLOCK_EXPORT_DELETED"));
    ck_assert_ptr_null(qmp_table_help(qmp_context_types(ctx), "nope"));
}
END_TEST

START_TEST(help_has_types_conditions_and_errors)
{
    g_autofree char *help = qmp_table_help(qmp_context_types(ctx), "block-export-add");
    g_autofree char *add = qmp_table_help(qmp_context_types(ctx), "blockdev-add");
    g_autofree char *transaction = qmp_table_help(qmp_context_types(ctx), "transaction");

    ck_assert_ptr_nonnull(strstr(help, "\n  writable (boolean, optional)\n      allow clients"));
    ck_assert_ptr_nonnull(strstr(help, "\n  bitmaps.N.node (string; with type=nbd)\n"));
    ck_assert_ptr_nonnull(strstr(help, "\n  Cannot find device='' nor node-name='NAME'\n"));
    ck_assert_ptr_nonnull(strstr(help, " 'bitmaps:=[\"b0\"]'\n"));
    ck_assert_ptr_nonnull(strstr(add, "  locking (auto | on | off, optional; with driver=file | "
                                      "host_device)\n"));
    ck_assert_ptr_nonnull(strstr(transaction, "  actions.N.data.target (string; with "
                                              "actions.N.type=block-dirty-bitmap-merge)\n"));
}
END_TEST

/* Each example is what its command takes, and what takes something that it needs has one. */
START_TEST(examples_are_valid)
{
    const QmpTypes *types = qmp_context_types(ctx);

    for (const QmpFamily *const *f = qmp_families; *f; f++)
        for (const QmpCommand *c = (*f)->commands; c->name; c++) {
            g_autofree char *text = g_strdup(c->example ? c->example : "{}");
            json_object *arguments = parse(g_strdelimit(text, "'", '"'));
            g_autoptr(GError) error = NULL;

            ck_assert_msg(qmp_check(types, c->args, arguments, &error), "%s: %s", c->name,
                          error ? error->message : "");
            json_object_put(arguments);
        }
}
END_TEST

/* How many members have no help; *name: one of them. */
static unsigned without_help(const QmpTypes *types, const QmpType *type, GHashTable *seen,
                             const char **name)
{
    const QmpType *t = qmp_types_resolve(types, type);
    unsigned found = 0;

    if (!g_hash_table_add(seen, (void *)t))
        return 0;
    if (t->element)
        found += without_help(types, t->element, seen, name);
    for (const QmpType *const *a = t->alternatives; a && *a; a++)
        found += without_help(types, *a, seen, name);
    for (const QmpVariant *v = t->variants; v && v->value; v++)
        found += without_help(types, v->type, seen, name);
    for (const QmpMember *m = t->members; m && m->name; m++) {
        if (!m->help) {
            *name = m->name;
            found++;
        }
        found += without_help(types, m->type, seen, name);
    }
    return found;
}

START_TEST(every_member_has_help)
{
    const QmpTypes *types = qmp_context_types(ctx);
    g_autoptr(GHashTable) seen = g_hash_table_new(NULL, NULL);
    const char *name = NULL;

    for (const QmpFamily *const *f = qmp_families; *f; f++) {
        for (const QmpCommand *c = (*f)->commands; c->name; c++) {
            unsigned found = without_help(types, c->args, seen, &name);

            found += without_help(types, c->result, seen, &name);
            ck_assert_msg(found == 0, "%s: member %s has no help", c->name, name);
        }
        for (const QmpEvent *e = (*f)->events; e && e->name; e++)
            ck_assert_msg(without_help(types, e->data, seen, &name) == 0,
                          "%s: member %s has no help", e->name, name);
    }
}
END_TEST

/* ---- sessions and events ---- */

static GString *received;

/* Runs the main loop until what was received ends with @end. */
static void receive(int fd, const char *end)
{
    while (!g_str_has_suffix(received->str, end)) {
        char bytes[4096];
        ssize_t n;

        g_main_context_iteration(NULL, FALSE);
        n = recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT);
        if (n > 0)
            g_string_append_len(received, bytes, n);
    }
}

static void *emit_from_thread(void *opaque)
{
    json_object *data = json_object_new_object();

    json_object_object_add(data, "id", json_object_new_string("x"));
    qmp_context_emit(ctx, "BLOCK_EXPORT_DELETED", data);
    return NULL;
}

START_TEST(a_session_negotiates_and_resynchronises)
{
    static const char requests[] =
        "{'execute':'query-version'} }{'execute':'qmp_capabilities','id':1}{'execute':'nope'}\xff";
    QmpMonitorOptions options = { .pretty = false };
    QmpMonitor *monitor;
    GThread *thread;
    int fds[2];

    received = g_string_new(NULL);
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    monitor = qmp_monitor_new_stdio(ctx, fds[0], fds[0], &options);
    receive(fds[1], "\"capabilities\": []}}\r\n");
    g_string_truncate(received, 0);

    qmp_context_emit(ctx, "BLOCK_IO_ERROR", NULL); /* nobody has negotiated */
    ck_assert_int_eq(write(fds[1], requests, strlen(requests)), (ssize_t)strlen(requests));
    receive(fds[1], "stray '\\uFFFD'\"}}\r\n");
    ck_assert_str_eq(
        received->str,
        "{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"Expecting capabilities "
        "negotiation "
        "with 'qmp_capabilities'\"}}\r\n"
        "{\"error\": {\"class\": \"GenericError\", \"desc\": \"JSON parse error, expecting "
        "value\"}}\r\n"
        "{\"return\": {}, \"id\": 1}\r\n"
        "{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"The command nope has not been "
        "found\"}}\r\n"
        "{\"error\": {\"class\": \"GenericError\", \"desc\": \"JSON parse error, stray "
        "'\\uFFFD'\"}}\r\n");
    g_string_truncate(received, 0);

    thread = g_thread_new("event", emit_from_thread, NULL);
    receive(fds[1], "\"data\": {\"id\": \"x\"}}\r\n");
    ck_assert(g_str_has_prefix(received->str, "{\"timestamp\": {\"seconds\": "));
    g_thread_join(thread);

    ck_assert_uint_eq(qmp_monitor_sessions(monitor), 1);
    close(fds[1]);
    while (qmp_monitor_sessions(monitor))
        g_main_context_iteration(NULL, TRUE);
    qmp_monitor_free(monitor);
    close(fds[0]);
    g_string_free(received, TRUE);
}
END_TEST

/* How often the log has a message of level warning, all with @text. */
static unsigned warnings(const char *text)
{
    g_autoptr(GPtrArray) last = tm_log_last(logged, TM_LOG_LAST_MAX);

    for (guint i = 0; i < last->len; i++) {
        const TmLogEntry *entry = last->pdata[i];

        ck_assert_int_eq(entry->facts.area, TM_LOG_QMP);
        ck_assert_ptr_nonnull(strstr(entry->text, text));
    }
    return last->len;
}

/* Where clients must negotiate: the silent and the talkative are cut off, and who has done it
 * stays. */
START_TEST(a_client_that_does_not_negotiate_is_cut_off)
{
    static const char hello[] = "{'execute':'qmp_capabilities'}";
    g_autofree char *noise = g_strnfill(1 << 17, ' ');
    QmpMonitorOptions options = { .negotiate_ms = 60 * 1000 };
    QmpMonitor *talkative, *silent, *good;
    int fds[3][2];

    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, fds[i]), 0);
    received = g_string_new(NULL);
    talkative = qmp_monitor_new_stdio(ctx, fds[0][0], fds[0][0], &options);
    ck_assert_int_gt(send(fds[0][1], noise, 1 << 17, MSG_DONTWAIT), 1 << 16);
    while (qmp_monitor_sessions(talkative))
        g_main_context_iteration(NULL, TRUE);
    ck_assert_uint_eq(warnings("negotiate"), 1);

    options.negotiate_ms = 1;
    good = qmp_monitor_new_stdio(ctx, fds[1][0], fds[1][0], NULL);
    silent = qmp_monitor_new_stdio(ctx, fds[2][0], fds[2][0], &options);
    ck_assert_int_eq(write(fds[1][1], hello, strlen(hello)), (ssize_t)strlen(hello));
    receive(fds[1][1], "{\"return\": {}}\r\n");
    while (qmp_monitor_sessions(silent))
        g_main_context_iteration(NULL, TRUE);
    ck_assert_uint_eq(warnings("negotiate"), 2);
    ck_assert_uint_eq(qmp_monitor_sessions(good), 1);

    qmp_monitor_free(talkative);
    qmp_monitor_free(silent);
    qmp_monitor_free(good);
    for (int i = 0; i < 3; i++) {
        close(fds[i][0]);
        close(fds[i][1]);
    }
    g_string_free(received, TRUE);
}
END_TEST

/* A client that negotiates and never reads again is cut off; another one goes on. */
START_TEST(a_client_that_never_reads_is_cut_off)
{
    static const char hello[] = "{'execute':'qmp_capabilities'}";
    g_autofree char *text = g_strnfill(1 << 20, 'x');
    QmpMonitor *monitor;
    int fds[2];

    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    monitor = qmp_monitor_new_stdio(ctx, fds[0], fds[0], NULL);
    received = g_string_new(NULL);
    ck_assert_int_eq(write(fds[1], hello, strlen(hello)), (ssize_t)strlen(hello));
    receive(fds[1], "{\"return\": {}}\r\n");
    for (unsigned i = 0; i < 200 && !warnings("does not read"); i++) {
        json_object *data = json_object_new_object();

        json_object_object_add(data, "reason", json_object_new_string(text));
        qmp_context_emit(ctx, "BLOCK_IO_ERROR", data);
    }
    ck_assert_uint_eq(warnings("does not read"), 1);
    while (qmp_monitor_sessions(monitor))
        g_main_context_iteration(NULL, TRUE);
    qmp_monitor_free(monitor);
    close(fds[0]);
    close(fds[1]);
    g_string_free(received, TRUE);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("qmp");
    TCase *tables = tcase_create("tables"), *commands = tcase_create("commands");
    TCase *sessions = tcase_create("sessions");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_add_checked_fixture(tables, setup, teardown);
    tcase_add_loop_test(tables, values_are_checked_with_qemus_messages, 0,
                        G_N_ELEMENTS(json_cases));
    tcase_add_loop_test(tables, keyval_options_parse_as_in_qemu, 0, G_N_ELEMENTS(keyval_cases));
    tcase_add_test(tables, keyval_nesting_and_length_are_bounded);
    tcase_add_test(tables, commands_and_arguments_are_listed);
    tcase_add_test(tables, help_has_types_conditions_and_errors);
    tcase_add_test(tables, examples_are_valid);
    tcase_add_test(tables, every_member_has_help);
    suite_add_tcase(suite, tables);
    tcase_add_checked_fixture(commands, setup, teardown);
    tcase_add_test(commands, commands_are_dispatched_and_errors_have_qemus_class);
    tcase_add_test(commands, a_transaction_is_all_or_nothing);
    tcase_add_test(commands, a_transaction_reports_its_first_error);
    tcase_add_test(commands, busy_bitmaps_refuse_changes);
    suite_add_tcase(suite, commands);
    tcase_set_timeout(sessions, 60);
    tcase_add_checked_fixture(sessions, setup, teardown);
    tcase_add_test(sessions, a_session_negotiates_and_resynchronises);
    tcase_add_test(sessions, a_client_that_never_reads_is_cut_off);
    tcase_add_test(sessions, a_client_that_does_not_negotiate_is_cut_off);
    suite_add_tcase(suite, sessions);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
