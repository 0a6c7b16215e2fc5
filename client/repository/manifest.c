/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/manifest.c: manifests of points, written and read. */
#include "client/repository/manifest.h"
#include "client/json.h"
#include "client/repository/hashes.h"
#include "util/json.h"
#include "util/range.h"
#include <string.h>
#include <tidemark-version.h>

#define FORMAT    "tidemark-point"
#define VERSION   1u
#define NAME_MAX_ 100u
#define DEPTH     16

enum {
    TEXT_FLAGS = JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED | JSON_C_TO_STRING_NOSLASHESCAPE
};

/* ---- values */

TcManifest *tc_manifest_new(const char *point)
{
    TcManifest *m = g_new0(TcManifest, 1);

    m->point = g_strdup(point);
    m->id = g_uuid_string_random();
    m->tool = g_strdup("tidemark " TM_VERSION);
    m->disks = g_ptr_array_new_with_free_func((GDestroyNotify)tc_point_disk_free);
    return m;
}

void tc_manifest_free(TcManifest *m)
{
    if (!m)
        return;
    g_free(m->point);
    g_free(m->id);
    g_free(m->tool);
    g_ptr_array_unref(m->disks);
    g_free(m);
}

TcPointDisk *tc_point_disk_new(const char *name, uint64_t size)
{
    TcPointDisk *d = g_new0(TcPointDisk, 1);

    d->name = g_strdup(name);
    d->size = size;
    return d;
}

void tc_point_disk_free(TcPointDisk *d)
{
    if (!d)
        return;
    g_free(d->name);
    g_free(d->parent);
    g_free(d->parent_id);
    g_free(d->why);
    g_free(d->compression);
    json_object_put(d->source);
    g_free(d);
}

bool tc_point_disk_stands_on(const TcPointDisk *d, const TcManifest *point)
{
    return d->parent && !strcmp(d->parent, point->point) &&
           (!d->parent_id || !strcmp(d->parent_id, point->id));
}

TcPointDisk *tc_manifest_disk(const TcManifest *m, const char *name)
{
    for (guint i = 0; i < m->disks->len; i++) {
        TcPointDisk *d = m->disks->pdata[i];

        if (!strcmp(d->name, name))
            return d;
    }
    return NULL;
}

bool tc_point_check_name(const char *what, const char *name, GError **error)
{
    if (*name && *name != '.' && *name != '-' && strlen(name) <= NAME_MAX_ &&
        !name[strspn(name, G_CSET_A_2_Z G_CSET_a_2_z G_CSET_DIGITS "._-")])
        return true;
    return tm_error_set(error,
                        "'%s' can't be the name of a %s: names have 1 to %u letters, digits, '.', "
                        "'_' and '-', and don't begin with '.' or '-'",
                        name, what, NAME_MAX_);
}

/* ---- writing */

static char *time_text(uint64_t instant)
{
    g_autoptr(GDateTime) time = g_date_time_new_from_unix_utc((gint64)(instant / 1000000000));
    g_autofree char *seconds = time ? g_date_time_format(time, "%Y-%m-%dT%H:%M:%S") : NULL;

    return seconds ? g_strdup_printf("%s.%09uZ", seconds, (unsigned)(instant % 1000000000)) : NULL;
}

static json_object *disk_json(const TcPointDisk *d)
{
    json_object *o = json_object_new_object();
    g_autofree char *file = g_strconcat(d->name, ".qcow2", NULL);
    g_autofree char *hashes = g_strconcat(d->name, ".hashes", NULL);

    tm_json_add_string(o, "name", d->name);
    tm_json_add_uint(o, "size", d->size);
    tm_json_add_string(o, "kind", d->parent ? "incremental" : "full");
    tm_json_add_string(o, "file", file);
    tm_json_add_string(o, "hashes", hashes);
    if (d->parent)
        tm_json_add_string(o, "parent", d->parent);
    if (d->parent_id)
        tm_json_add_string(o, "parent-id", d->parent_id);
    if (d->why)
        tm_json_add_string(o, "reason", d->why);
    if (d->compression)
        tm_json_add_string(o, "compression", d->compression);
    tm_json_add_uint(o, "stored", d->stored);
    tm_json_add_uint(o, "zero", d->zero);
    tm_json_add_string(o, "tree", d->tree);
    if (d->source)
        json_object_object_add(o, "source", json_object_get(d->source));
    return o;
}

static int by_name(gconstpointer a, gconstpointer b)
{
    const TcPointDisk *const *x = a, *const *y = b;

    return strcmp((*x)->name, (*y)->name);
}

static json_object *manifest_json(const TcManifest *m)
{
    json_object *o = json_object_new_object(), *disks = json_object_new_array();
    g_autoptr(GPtrArray) sorted = g_ptr_array_copy(m->disks, NULL, NULL);
    g_autofree char *time = time_text(m->instant);

    g_ptr_array_set_free_func(sorted, NULL);
    g_ptr_array_sort(sorted, by_name);
    tm_json_add_string(o, "format", FORMAT);
    tm_json_add_uint(o, "version", VERSION);
    tm_json_add_string(o, "point", m->point);
    tm_json_add_string(o, "id", m->id);
    tm_json_add_uint(o, "instant", m->instant);
    tm_json_add_string(o, "time", time ? time : "");
    if (m->order != m->instant)
        tm_json_add_uint(o, "order", m->order);
    tm_json_add_string(o, "tool", m->tool);
    for (guint i = 0; i < sorted->len; i++)
        json_object_array_add(disks, disk_json(sorted->pdata[i]));
    json_object_object_add(o, "disks", disks);
    return o;
}

/* Of the file that has @object and nothing else. */
static void digest(json_object *object, char hex[65])
{
    g_autofree char *text =
        g_strconcat(json_object_to_json_string_ext(object, TEXT_FLAGS), "\n", NULL);
    uint8_t hash[TC_HASH_SIZE];

    tc_hash(text, strlen(text), hash);
    tc_hash_text(hash, hex);
}

char *tc_manifest_text(const TcManifest *m)
{
    g_autoptr(json_object) o = manifest_json(m);
    char hex[65];

    digest(o, hex);
    tm_json_add_string(o, "sha256", hex);
    return g_strconcat(json_object_to_json_string_ext(o, TEXT_FLAGS), "\n", NULL);
}

/* ---- reading */

typedef struct Reading {
    const char *path;
    GError **error;
} Reading;

static bool bad(const Reading *r, const char *member, const char *expected)
{
    return tc_repo_error_set(r->error, TC_REPO_ERROR_DAMAGED, "'%s' is damaged: '%s' is not %s",
                             r->path, member, expected);
}

/* Borrowed; NULL: it is missing, or has another type, which is an error unless @optional is set
 * and it is missing. */
static json_object *member(const Reading *r, json_object *o, const char *name, json_type type,
                           bool optional, bool *ok)
{
    json_object *value = NULL;

    if (!json_object_object_get_ex(o, name, &value) && optional)
        return NULL;
    if (json_object_is_type(value, type))
        return value;
    *ok = bad(r, name,
              type == json_type_string   ? "a string"
              : type == json_type_int    ? "a number"
              : type == json_type_object ? "an object"
                                         : "an array");
    return NULL;
}

/* Text without a NUL; NULL as above. */
static const char *text(const Reading *r, json_object *o, const char *name, bool optional, bool *ok)
{
    json_object *value = *ok ? member(r, o, name, json_type_string, optional, ok) : NULL;

    if (!value)
        return NULL;
    if ((size_t)json_object_get_string_len(value) == strlen(json_object_get_string(value)))
        return json_object_get_string(value);
    *ok = bad(r, name, "text");
    return NULL;
}

static bool is(const Reading *r, json_object *o, const char *name, const char *expected)
{
    bool ok = true;
    const char *value = text(r, o, name, false, &ok);
    g_autofree char *quoted = g_strdup_printf("'%s'", expected);

    return ok && (!strcmp(value, expected) || bad(r, name, quoted));
}

static bool number(const Reading *r, json_object *o, const char *name, uint64_t max,
                   uint64_t *value)
{
    bool ok = true;
    json_object *n = member(r, o, name, json_type_int, false, &ok);
    g_autofree char *range = g_strdup_printf("a number from 0 to %" PRIu64, max);

    if (!ok)
        return false;
    *value = json_object_get_uint64(n); /* 0 if it is negative */
    return (json_object_get_int64(n) >= 0 && *value <= max) || bad(r, name, range);
}

static bool is_hash(const char *hex)
{
    return strlen(hex) == 64 && !hex[strspn(hex, "0123456789abcdef")];
}

/* A name that can be one; @kind for the message. */
static bool name_of(const Reading *r, json_object *o, const char *member, const char *expected,
                    bool optional, char **name)
{
    bool ok = true;
    const char *value = text(r, o, member, optional, &ok);

    if (value && !tc_point_check_name("", value, NULL))
        return bad(r, member, expected);
    *name = g_strdup(value);
    return ok;
}

static bool read_kind(const Reading *r, json_object *o, const char *point, TcPointDisk *d)
{
    bool ok = true;
    const char *id = text(r, o, "parent-id", true, &ok);

    if (!ok || !name_of(r, o, "parent", "the name of a point", true, &d->parent) ||
        !is(r, o, "kind", d->parent ? "incremental" : "full"))
        return false;
    if (id && (!d->parent || !g_uuid_string_is_valid(id)))
        return bad(r, "parent-id", "the UUID of a parent");
    d->parent_id = g_strdup(id);
    return !d->parent || strcmp(d->parent, point) || bad(r, "parent", "another point");
}

static bool read_files(const Reading *r, json_object *o, TcPointDisk *d)
{
    g_autofree char *file = g_strconcat(d->name, ".qcow2", NULL);
    g_autofree char *hashes = g_strconcat(d->name, ".hashes", NULL);
    bool ok = is(r, o, "file", file) && is(r, o, "hashes", hashes);
    const char *tree = text(r, o, "tree", false, &ok);

    if (!ok)
        return false;
    if (!is_hash(tree))
        return bad(r, "tree", "a SHA-256");
    g_strlcpy(d->tree, tree, sizeof(d->tree));
    return true;
}

static bool read_compression(const Reading *r, json_object *o, TcPointDisk *d)
{
    bool ok = true;
    const char *name = text(r, o, "compression", true, &ok);

    if (name && strcmp(name, "zlib") && strcmp(name, "zstd"))
        return bad(r, "compression", "'zlib' or 'zstd'");
    d->compression = g_strdup(name);
    return ok;
}

static bool read_disk(const Reading *r, json_object *o, const char *point, TcPointDisk *d)
{
    bool ok = true;
    json_object *source;

    if (!json_object_is_type(o, json_type_object))
        return bad(r, "disks", "an array of objects");
    if (!name_of(r, o, "name", "the name of a disk", false, &d->name) ||
        !number(r, o, "size", TM_SIZE_MAX, &d->size) || !read_kind(r, o, point, d) ||
        !read_files(r, o, d) || !read_compression(r, o, d) ||
        !number(r, o, "stored", d->size, &d->stored) ||
        !number(r, o, "zero", d->size - d->stored, &d->zero))
        return false;
    d->why = g_strdup(text(r, o, "reason", true, &ok));
    source = ok ? member(r, o, "source", json_type_object, true, &ok) : NULL;
    d->source = json_object_get(source);
    return ok;
}

static bool read_disks(const Reading *r, json_object *o, TcManifest *m)
{
    bool ok = true;
    json_object *disks = member(r, o, "disks", json_type_array, false, &ok);
    size_t n = disks ? json_object_array_length(disks) : 0;

    if (!ok || !n)
        return ok ? bad(r, "disks", "an array of one disk or more") : false;
    for (size_t i = 0; i < n; i++) {
        TcPointDisk *d = g_new0(TcPointDisk, 1), *before = i ? m->disks->pdata[i - 1] : NULL;

        g_ptr_array_add(m->disks, d);
        if (!read_disk(r, json_object_array_get_idx(disks, i), m->point, d))
            return false;
        if (before && strcmp(before->name, d->name) >= 0)
            return bad(r, "disks", "in the order of names");
    }
    return true;
}

static bool read_point(const Reading *r, json_object *o, const char *point, TcManifest *m)
{
    bool ok = true;
    const char *id;
    g_autofree char *time = NULL;

    if (!is(r, o, "format", FORMAT) || !is(r, o, "point", point))
        return false;
    id = text(r, o, "id", false, &ok);
    if (!ok || !g_uuid_string_is_valid(id))
        return ok ? bad(r, "id", "a UUID") : false;
    m->id = g_strdup(id);
    if (!number(r, o, "instant", TM_SIZE_MAX, &m->instant))
        return false;
    m->order = m->instant;
    if (json_object_object_get_ex(o, "order", NULL) &&
        !number(r, o, "order", TM_SIZE_MAX, &m->order))
        return false;
    time = time_text(m->instant);
    if (!time || !is(r, o, "time", time))
        return false;
    m->point = g_strdup(point);
    m->tool = g_strdup(text(r, o, "tool", false, &ok));
    return ok && read_disks(r, o, m);
}

static bool check_version(const Reading *r, json_object *o)
{
    uint64_t version;

    if (!number(r, o, "version", TM_SIZE_MAX, &version))
        return false;
    return version == VERSION ||
           tm_error_set(r->error,
                        "'%s' has version %" PRIu64 ", and this program knows version %u only: use "
                        "a newer one",
                        r->path, version, VERSION);
}

/* Takes the member away. */
static bool check_digest(const Reading *r, json_object *o)
{
    bool ok = true;
    const char *value = text(r, o, "sha256", false, &ok);
    g_autofree char *expected = g_strdup(value);
    char hex[65];

    if (!ok)
        return false;
    json_object_object_del(o, "sha256");
    digest(o, hex);
    return !strcmp(hex, expected) || bad(r, "sha256", "the SHA-256 of the rest");
}

json_object *tc_repo_parse(const char *text, gsize length, const char *path, GError **error)
{
    struct json_tokener *tokener = json_tokener_new_ex(DEPTH);
    json_object *o = NULL;
    size_t end = 0;

    json_tokener_set_flags(tokener, JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8);
    if (length <= INT_MAX) {
        o = json_tokener_parse_ex(tokener, text, (int)length);
        end = json_tokener_get_parse_end(tokener);
    }
    json_tokener_free(tokener);
    while (end < length && g_ascii_isspace(text[end]))
        end++;
    if (json_object_is_type(o, json_type_object) && end == length)
        return o;
    json_object_put(o);
    tc_repo_error_set(error, TC_REPO_ERROR_DAMAGED, "'%s' is damaged: it is not a JSON object",
                      path);
    return NULL;
}

TcManifest *tc_manifest_parse(const char *text, gsize length, const char *path, const char *point,
                              GError **error)
{
    Reading r = { path, error };
    g_autoptr(json_object) o = tc_repo_parse(text, length, path, error);
    g_autoptr(TcManifest) m = g_new0(TcManifest, 1);

    m->disks = g_ptr_array_new_with_free_func((GDestroyNotify)tc_point_disk_free);
    if (!o || !check_digest(&r, o) || !check_version(&r, o) || !read_point(&r, o, point, m))
        return NULL;
    return g_steal_pointer(&m);
}
