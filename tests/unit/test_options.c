/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/unit/test_options.c: parsing a node's options, and what the registry refuses. */
#include "block/options.h"
#include "block/registry.h"
#include "tests/asserts.h"

#include <stdlib.h>
#include <string.h>

static const char *const colours[] = { "red", "blue", NULL };

static const struct tidemark_option rule[] = {
    { .name = "event", .type = TIDEMARK_OPTION_ENUM, .choices = colours, .required = 1 },
    { .name = "at", .type = TIDEMARK_OPTION_UINT, .default_value = "7" },
    { 0 },
};
static const struct tidemark_option colour[] = {
    { .name = "", .type = TIDEMARK_OPTION_ENUM, .choices = colours },
    { 0 },
};

static const struct tidemark_option parts[] = {
    { .name = "base", .type = TIDEMARK_OPTION_ENUM, .choices = colours },
    { .name = "gloss", .type = TIDEMARK_OPTION_BOOL, .default_value = "on" },
    { 0 },
};

static const struct tidemark_option table[] = {
    { .name = "path", .type = TIDEMARK_OPTION_STRING, .required = 1 },
    { .name = "count", .type = TIDEMARK_OPTION_UINT, .min = 2, .max = 10, .default_value = "3" },
    { .name = "least", .type = TIDEMARK_OPTION_UINT, .min = 5 },
    { .name = "size", .type = TIDEMARK_OPTION_SIZE },
    { .name = "flag", .type = TIDEMARK_OPTION_BOOL, .default_value = "on" },
    { .name = "colour", .type = TIDEMARK_OPTION_ENUM, .choices = colours, .default_value = "red" },
    { .name = "mix", .type = TIDEMARK_OPTION_ENUM, .choices = colours, .fields = parts },
    { .name = "rules", .type = TIDEMARK_OPTION_LIST, .fields = rule },
    { .name = "colours", .type = TIDEMARK_OPTION_LIST, .fields = colour },
    { .name = "server.host", .type = TIDEMARK_OPTION_STRING },
    { .name = "server.port.number", .type = TIDEMARK_OPTION_UINT },
    { 0 },
};

static const struct tidemark_child children[] = { { "file", 0 }, { "backing", 0 }, { 0 } };
static const struct tidemark_child needed[] = { { "file", 1 }, { 0 } };

static const struct tidemark_driver driver = {
    .abi = TIDEMARK_ABI,
    .struct_size = sizeof(driver),
    .name = "test",
    .options = table,
    .children = children,
};

static BlkOptions *parse_with(const struct tidemark_driver *d, const char *text, GError **error)
{
    json_object *object = json_tokener_parse(text);
    BlkOptions *options;

    ck_assert_msg(object != NULL, "test's own JSON: %s", text);
    options = blk_options_parse(d, object, error);
    json_object_put(object); /* what is kept must be kept by reference */
    return options;
}

static BlkOptions *good(const char *members)
{
    g_autofree char *text = g_strdup_printf("{\"driver\":\"test\",\"path\":\"p\"%s}", members);
    g_autoptr(GError) error = NULL;
    BlkOptions *options = parse_with(&driver, text, &error);

    ck_assert_msg(options != NULL, "%s: %s", text, error ? error->message : "no error set");
    return options;
}

static void bad(const char *text, const char *message)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(BlkOptions) options = parse_with(&driver, text, &error);

    ck_assert_msg(options == NULL, "accepted: %s", text);
    ck_assert_ptr_nonnull(error);
    ck_assert_str_eq(error->message, message);
}

#define TEST_NODE "\"driver\":\"test\",\"path\":\"p\""

START_TEST(values_and_defaults_are_read)
{
    g_autoptr(BlkOptions) o = good(",\"size\":9223372036854775807,\"count\":10");

    ck_assert_str_eq(blk_options_string(o, "path"), "p");
    ck_assert_uint_eq(blk_options_uint(o, "size"), INT64_MAX);
    ck_assert_uint_eq(blk_options_uint(o, "count"), 10);
    ck_assert(blk_options_is_given(o, "count"));
    ck_assert(blk_options_bool(o, "flag"));
    ck_assert(blk_options_is_set(o, "flag"));
    ck_assert(!blk_options_is_given(o, "flag"));
    ck_assert_str_eq(blk_options_string(o, "colour"), "red");
    ck_assert(!blk_options_is_set(o, "least"));
    ck_assert_uint_eq(blk_options_uint(o, "least"), 0);
    ck_assert(!blk_options_is_set(o, "node-name"));
    ck_assert_ptr_null(blk_options_string(o, "node-name"));
    ck_assert_str_eq(blk_options_string(o, "discard"), "ignore");
    ck_assert_str_eq(blk_options_string(o, "detect-zeroes"), "off");
    ck_assert(!blk_options_bool(o, "cache.direct"));
}
END_TEST

START_TEST(dotted_groups_are_nested_objects)
{
    g_autoptr(BlkOptions) o =
        good(",\"cache\":{\"direct\":true},\"server\":{\"host\":\"h\",\"port\":{\"number\":7}}");

    ck_assert(blk_options_bool(o, "cache.direct"));
    ck_assert(!blk_options_bool(o, "cache.no-flush"));
    ck_assert_str_eq(blk_options_string(o, "server.host"), "h");
    ck_assert_uint_eq(blk_options_uint(o, "server.port.number"), 7);
}
END_TEST

START_TEST(a_choice_may_be_an_object_instead)
{
    g_autoptr(BlkOptions) value = good(",\"mix\":\"red\"");
    g_autoptr(BlkOptions) object = good(",\"mix\":{\"base\":\"red\"}");

    ck_assert_str_eq(blk_options_string(value, "mix"), "red");
    ck_assert(!blk_options_is_set(object, "mix"));
    ck_assert(blk_options_is_given(object, "mix"));
    ck_assert_str_eq(blk_options_string(object, "mix.base"), "red");
    ck_assert(blk_options_bool(object, "mix.gloss"));
    bad("{" TEST_NODE ",\"mix\":{\"base\":\"mud\"}}",
        "Parameter 'mix.base' does not accept value 'mud'");
    bad("{" TEST_NODE ",\"mix\":{\"depth\":1}}", "Parameter 'mix.depth' is unexpected");
    bad("{" TEST_NODE ",\"mix\":{\"gloss\":1}}",
        "Invalid parameter type for 'mix.gloss', expected: boolean");
    bad("{" TEST_NODE ",\"mix\":1}", "Invalid parameter type for 'mix', expected: string");
}
END_TEST

START_TEST(a_child_is_a_name_or_a_definition)
{
    g_autoptr(BlkOptions) o = good(",\"file\":{\"driver\":\"x\"},\"backing\":null");
    g_autoptr(BlkOptions) none = good("");
    json_object *value;

    ck_assert(blk_options_child(o, "file", &value));
    ck_assert_str_eq(json_object_get_string(json_object_object_get(value, "driver")), "x");
    ck_assert(blk_options_child(o, "backing", &value));
    ck_assert_ptr_null(value);
    ck_assert(!blk_options_child(none, "file", &value));
    ck_assert_ptr_null(value);
}
END_TEST

START_TEST(elements_of_a_list_are_options)
{
    g_autoptr(BlkOptions) o = good(
        ",\"rules\":[{\"event\":\"blue\"},{\"event\":\"red\",\"at\":1}],\"colours\":[\"red\"]");
    g_autoptr(BlkOptions) none = good(",\"rules\":[]");

    ck_assert_uint_eq(blk_options_uint(o, "rules"), 2);
    ck_assert_str_eq(blk_options_string(o, "rules.0.event"), "blue");
    ck_assert_uint_eq(blk_options_uint(o, "rules.0.at"), 7);
    ck_assert(!blk_options_is_given(o, "rules.0.at"));
    ck_assert_uint_eq(blk_options_uint(o, "rules.1.at"), 1);
    ck_assert_uint_eq(blk_options_uint(o, "colours"), 1);
    ck_assert_str_eq(blk_options_string(o, "colours.0"), "red");
    ck_assert_uint_eq(blk_options_uint(none, "rules"), 0);
    ck_assert(blk_options_is_set(none, "rules"));
    ck_assert(!blk_options_is_set(none, "colours"));
}
END_TEST

START_TEST(wrong_options_are_refused_as_qemu_does)
{
#define LIST(members) "{\"driver\":\"test\",\"path\":\"p\"," members "}"
    bad(LIST("\"rules\":{}"), "Invalid parameter type for 'rules', expected: array");
    bad(LIST("\"rules\":null"), "Invalid parameter type for 'rules', expected: array");
    bad(LIST("\"rules\":[1]"), "Invalid parameter type for 'rules.0', expected: object");
    bad(LIST("\"rules\":[{\"event\":\"red\"},{}]"), "Parameter 'rules.1.event' is missing");
    bad(LIST("\"rules\":[{\"event\":\"no\"}]"),
        "Parameter 'rules.0.event' does not accept value 'no'");
    bad(LIST("\"rules\":[{\"event\":\"red\",\"x\":1}]"), "Parameter 'rules.0.x' is unexpected");
    bad(LIST("\"colours\":[\"red\",\"no\"]"), "Parameter 'colours.1' does not accept value 'no'");
    bad(LIST("\"colours\":[null]"), "Invalid parameter type for 'colours.0', expected: string");
    bad(LIST("\"rules.0\":1"), "Parameter 'rules.0' is unexpected");
#undef LIST
    bad("{\"path\":\"p\"}", "Parameter 'driver' is missing");
    bad("{\"driver\":\"test\"}", "Parameter 'path' is missing");
    bad("{\"driver\":3,\"path\":\"p\"}", "Invalid parameter type for 'driver', expected: string");
    bad("{\"driver\":\"test\",\"path\":3}", "Invalid parameter type for 'path', expected: string");
    bad("{\"driver\":\"test\",\"path\":null}",
        "Invalid parameter type for 'path', expected: string");
    bad("{\"driver\":\"test\",\"path\":\"a\\u0000b\"}",
        "Parameter 'path' must not contain a zero byte");
    bad("{" TEST_NODE ",\"node-name\":5}",
        "Invalid parameter type for 'node-name', expected: string");
    bad("{" TEST_NODE ",\"read-only\":\"on\"}",
        "Invalid parameter type for 'read-only', expected: boolean");
    bad("{" TEST_NODE ",\"size\":\"1k\"}", "Invalid parameter type for 'size', expected: integer");
    bad("{" TEST_NODE ",\"size\":1.5}", "Invalid parameter type for 'size', expected: integer");
    bad("{" TEST_NODE ",\"size\":9223372036854775808}",
        "Invalid parameter type for 'size', expected: integer");
    bad("{" TEST_NODE ",\"size\":-1}", "Parameter 'size' expects a non-negative number below 2^64");
    bad("{" TEST_NODE ",\"count\":1}", "Parameter 'count' expects a value from 2 to 10, not 1");
    bad("{" TEST_NODE ",\"count\":11}", "Parameter 'count' expects a value from 2 to 10, not 11");
    bad("{" TEST_NODE ",\"least\":4}", "Parameter 'least' expects a value of at least 5, not 4");
    bad("{" TEST_NODE ",\"colour\":\"green\"}", "Parameter 'colour' does not accept value 'green'");
    bad("{" TEST_NODE ",\"discard\":null}",
        "Invalid parameter type for 'discard', expected: string");
    bad("{" TEST_NODE ",\"foo\":1}", "Parameter 'foo' is unexpected");
    bad("{" TEST_NODE ",\"cache\":true}", "Invalid parameter type for 'cache', expected: object");
    bad("{" TEST_NODE ",\"cache\":{\"direct\":\"x\"}}",
        "Invalid parameter type for 'cache.direct', expected: boolean");
    bad("{" TEST_NODE ",\"cache\":{\"foo\":true}}", "Parameter 'cache.foo' is unexpected");
    bad("{" TEST_NODE ",\"cache.direct\":true}", "Parameter 'cache.direct' is unexpected");
    bad("{" TEST_NODE ",\"server\":{\"port\":5}}",
        "Invalid parameter type for 'server.port', expected: object");
    bad("{" TEST_NODE ",\"file\":3}",
        "Invalid parameter type for 'file', expected: BlockdevRefOrNull");
    bad("{" TEST_NODE ",\"force-share\":true}",
        "force-share=on can only be used with read-only images");
    bad("{" TEST_NODE ",\"detect-zeroes\":\"unmap\"}",
        "setting detect-zeroes to unmap is not allowed without setting discard operation to unmap");
    bad("{" TEST_NODE ",\"detect-zeroes\":\"maybe\"}",
        "Parameter 'detect-zeroes' does not accept value 'maybe'");
}
END_TEST

START_TEST(errors_name_the_nested_option)
{
    json_object *object = json_tokener_parse("{" TEST_NODE ",\"foo\":1}");
    g_autoptr(GError) error = NULL;

    ck_assert_ptr_null(blk_options_parse_at(&driver, object, "file.", &error));
    ck_assert_str_eq(error->message, "Parameter 'file.foo' is unexpected");
    json_object_put(object);
}
END_TEST

START_TEST(a_missing_required_child_is_refused)
{
    struct tidemark_driver d = driver;
    g_autoptr(GError) missing = NULL;
    g_autoptr(GError) null = NULL;

    d.children = needed;
    ck_assert_ptr_null(parse_with(&d, "{" TEST_NODE "}", &missing));
    ck_assert_str_eq(missing->message, "Parameter 'file' is missing");
    ck_assert_ptr_null(parse_with(&d, "{" TEST_NODE ",\"file\":null}", &null));
    ck_assert_str_eq(null->message, "Invalid parameter type for 'file', expected: BlockdevRef");
}
END_TEST

START_TEST(what_is_not_an_object_is_refused)
{
    g_autoptr(GError) error = NULL;

    ck_assert_ptr_null(parse_with(&driver, "[1]", &error));
    ck_assert_ptr_nonnull(error);
}
END_TEST

/* ---- the registry's table and plug-ins */

START_TEST(builtin_drivers_are_sorted_and_found_by_name)
{
    BlkRegistry *registry = blk_registry_new(&tm_sys_kernel);
    g_autofree const struct tidemark_driver **list = blk_registry_list(registry);
    const char *last = "";
    size_t n = 0;

    for (; list[n]; n++) {
        ck_assert_str_lt(last, list[n]->name);
        last = list[n]->name;
        ck_assert_ptr_eq(blk_registry_find(registry, last), list[n]);
        for (const struct tidemark_option *o = list[n]->options; o && o->name; o++)
            ck_assert_msg(!o->default_value || blk_option_accepts(o, o->default_value), "%s %s",
                          last, o->name);
    }
    ck_assert_uint_ge(n, 4);
    ck_assert_ptr_nonnull(blk_registry_find(registry, "file"));
    ck_assert_ptr_nonnull(blk_registry_find(registry, "raw"));
    ck_assert_ptr_nonnull(blk_registry_find(registry, "null-co"));
    ck_assert_ptr_null(blk_registry_find(registry, "zzz"));
    blk_registry_free(registry);
}
END_TEST

/* The variants that meson builds from tests/plugin/refused.c, and what is said of each. */
static const struct {
    const char *module, *says;
} refused[] = {
    { "refused-abi.so", "is built for driver ABI 99, expected " G_STRINGIFY(TIDEMARK_ABI) },
    { "refused-size.so", "it was built with another tidemark/driver.h" },
    { "refused-name.so", "malformed driver name 'not a name'" },
    { "refused-taken.so", "a driver 'file' exists already" },
    { "refused-callback.so", "lacks the required callback 'get_info'" },
    { "refused-discard.so", "driver 'refused' has children and a callback 'pwrite', so it needs" },
    { "refused-option.so",
      "option 'read-only' of driver 'refused' has the name of an option that every" },
    { "refused-default.so", "does not accept its own default 'purple'" },
    { "refused-list.so", "option 'colour' of driver 'refused' is a list without fields" },
    { "refused-null.so", "refuses to be loaded" },
    { "refused-symbol.so", "has no function 'tidemark_driver_init'" },
};

START_TEST(invalid_plugins_are_refused_by_name)
{
    BlkRegistry *registry = blk_registry_new(&tm_sys_kernel);
    g_autofree char *path = g_build_filename(TEST_PLUGIN_DIR, refused[_i].module, NULL);
    g_autoptr(GError) error = NULL;

    ck_assert(!blk_registry_load(registry, path, &error));
    ck_assert_ptr_nonnull(error);
    ck_assert_ptr_nonnull(strstr(error->message, path));
    ck_assert_msg(strstr(error->message, refused[_i].says) != NULL, "%s", error->message);
    ck_assert_ptr_null(blk_registry_find(registry, "refused"));
    blk_registry_free(registry);
}
END_TEST

START_TEST(what_is_no_module_is_refused)
{
    BlkRegistry *registry = blk_registry_new(&tm_sys_kernel);
    g_autoptr(GError) missing = NULL;
    g_autoptr(GError) no_module = NULL;

    ck_assert(!blk_registry_load(registry, "/nonexistent/x.so", &missing));
    ck_assert_ptr_nonnull(strstr(missing->message, "Could not load module '/nonexistent/x.so'"));
    ck_assert(!blk_registry_load(registry, "/dev/null", &no_module));
    ck_assert_ptr_nonnull(strstr(no_module->message, "/dev/null"));
    blk_registry_free(registry);
}
END_TEST

START_TEST(a_directory_of_modules_is_loaded)
{
    BlkRegistry *registry = blk_registry_new(&tm_sys_kernel);
    g_autofree char *dir = g_build_filename(TEST_PLUGIN_DIR, "modules", NULL);
    g_autoptr(GPtrArray) refusals = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GError) error = NULL;

    ck_assert(blk_registry_load_dir(registry, "/nonexistent", refusals, &error));
    ck_assert_msg(blk_registry_load_dir(registry, dir, refusals, &error), "%s",
                  error ? error->message : "");
    ck_assert_uint_eq(refusals->len, 0);
    ck_assert_ptr_nonnull(blk_registry_find(registry, "invert"));
    ck_assert_ptr_nonnull(blk_registry_find(registry, "ramdisk"));
    ck_assert_ptr_nonnull(blk_registry_find(registry, "reverse"));
    /* twice is a name taken */
    ck_assert(blk_registry_load_dir(registry, dir, refusals, &error));
    ck_assert_uint_eq(refusals->len, 3);
    for (guint i = 0; i < refusals->len; i++)
        ck_assert_ptr_nonnull(strstr(refusals->pdata[i], "exists already"));
    blk_registry_free(registry);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("options");
    TCase *options = tcase_create("options");
    TCase *plugins = tcase_create("registry");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_add_test(options, values_and_defaults_are_read);
    tcase_add_test(options, dotted_groups_are_nested_objects);
    tcase_add_test(options, a_choice_may_be_an_object_instead);
    tcase_add_test(options, a_child_is_a_name_or_a_definition);
    tcase_add_test(options, elements_of_a_list_are_options);
    tcase_add_test(options, wrong_options_are_refused_as_qemu_does);
    tcase_add_test(options, errors_name_the_nested_option);
    tcase_add_test(options, a_missing_required_child_is_refused);
    tcase_add_test(options, what_is_not_an_object_is_refused);
    suite_add_tcase(suite, options);
    tcase_add_test(plugins, builtin_drivers_are_sorted_and_found_by_name);
    tcase_add_loop_test(plugins, invalid_plugins_are_refused_by_name, 0, G_N_ELEMENTS(refused));
    tcase_add_test(plugins, what_is_no_module_is_refused);
    tcase_add_test(plugins, a_directory_of_modules_is_loaded);
    suite_add_tcase(suite, plugins);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
