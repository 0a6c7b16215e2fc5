/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/daemon/export_view.c: see export_view.h. */
#include "client/daemon/export_view.h"
#include "client/daemon/daemon_view.h"
#include "client/text.h"
#include <string.h>
#include <sys/stat.h>

static size_t length(json_object *array)
{
    return json_object_is_type(array, json_type_array) ? json_object_array_length(array) : 0;
}

bool tc_export_offers(json_object *export_, const char *node, const char *bitmap)
{
    json_object *bitmaps = tc_json_get(export_, "bitmaps", NULL);

    for (size_t i = 0; i < length(bitmaps); i++) {
        json_object *offered = json_object_array_get_idx(bitmaps, i);

        if (!g_strcmp0(tc_json_string(offered, "name"), bitmap) &&
            (!node || !g_strcmp0(tc_json_string(offered, "node"), node)))
            return true;
    }
    return false;
}

json_object *tc_export_find(json_object *exports, const char *word, const char *bitmap)
{
    static const char *const keys[] = { "id", "name", "node-name" };
    json_object *found = NULL;

    for (unsigned k = 0; k < G_N_ELEMENTS(keys) && !found; k++) {
        for (size_t i = 0; i < length(exports); i++) {
            json_object *export_ = json_object_array_get_idx(exports, i);

            if (g_strcmp0(tc_json_string(export_, keys[k]), word) ||
                tc_json_true(export_, "shutting-down"))
                continue;
            if (!bitmap || tc_export_offers(export_, NULL, bitmap))
                return export_;
            found = found ? found : export_;
        }
    }
    return found;
}

/* There is no such export: perhaps there is a node, or a similar word. */
static bool fail_word(TcQmp *qmp, json_object *exports, const char *word, GError **error)
{
    g_autoptr(json_object) nodes = tc_view_nodes(qmp, NULL);
    g_autoptr(GPtrArray) known = g_ptr_array_new();

    for (size_t i = 0; i < length(nodes); i++) {
        const char *name = tc_json_string(json_object_array_get_idx(nodes, i), "node-name");

        if (!g_strcmp0(name, word))
            return tm_error_set(error,
                                "node '%s' has no export: 'tidemark qmp block-export-add type=nbd "
                                "id=%s node-name=%s' makes one",
                                word, word, word);
    }
    for (size_t i = 0; i < length(exports); i++) {
        json_object *export_ = json_object_array_get_idx(exports, i);

        g_ptr_array_add(known, (gpointer)tc_json_string(export_, "id"));
        g_ptr_array_add(known, (gpointer)tc_json_string(export_, "node-name"));
    }
    return tc_view_fail_name("export", word, known, error);
}

json_object *tc_export_query(TcQmp *qmp, const char *word, GError **error)
{
    g_autoptr(json_object) exports = tc_view_exports(qmp, error);
    json_object *found = exports ? tc_export_find(exports, word, NULL) : NULL;

    if (exports && !found)
        fail_word(qmp, exports, word, error);
    return json_object_get(found);
}

bool tc_is_file(const char *word)
{
    struct stat st;

    return !stat(word, &st) && !S_ISDIR(st.st_mode);
}

/* A unix socket needs no other credentials than to be there, so that one is taken first. */
static char *uri_of(json_object *export_, GError **error)
{
    json_object *uris = tc_json_get(export_, "uris", NULL);
    const char *first = NULL;

    for (size_t i = 0; i < length(uris); i++) {
        const char *uri = json_object_get_string(json_object_array_get_idx(uris, i));

        if (g_str_has_prefix(uri, "nbd+unix:"))
            return g_strdup(uri);
        first = first ? first : uri;
    }
    if (!first)
        tm_error_set(error, "the daemon does not say at which URI export '%s' is: use the NBD URI",
                     tc_json_string(export_, "id"));
    return g_strdup(first);
}

static char *ask_uri(const char *word, const char *socket, const char *bitmap, GError **error)
{
    g_autofree char *path = tc_qmp_socket(socket);
    g_autoptr(TcQmp) qmp = tc_qmp_open(path, error);
    g_autoptr(json_object) exports = qmp ? tc_view_exports(qmp, error) : NULL;
    json_object *export_ = exports ? tc_export_find(exports, word, bitmap) : NULL;

    if (!qmp)
        g_prefix_error(error, "'%s' is taken as an export, because it is no NBD URI: ", word);
    if (export_)
        return uri_of(export_, error);
    if (exports)
        fail_word(qmp, exports, word, error);
    return NULL;
}

/* "./disk.img" and "/srv/disk.img" are paths, which no export's name looks like. */
static bool is_path(const char *word)
{
    return g_path_is_absolute(word) || g_str_has_prefix(word, "./") ||
           g_str_has_prefix(word, "../");
}

char *tc_export_uri(const char *word, const char *socket, const char *bitmap, const char *instead,
                    GError **error)
{
    bool file = tc_is_file(word);
    char *uri;

    if (strstr(word, "://"))
        return g_strdup(word);
    if (is_path(word) && !file) {
        tm_error_set(error, "'%s' is no file, and neither an NBD URI nor an export", word);
        return NULL;
    }
    uri = is_path(word) ? NULL : ask_uri(word, socket, bitmap, file ? NULL : error);
    if (!uri && file)
        tm_error_set(error, "'%s' is a file, not an NBD URI or an export: %s", word, instead);
    return uri;
}

static bool has_bitmap(TcQmp *qmp, const char *node, const char *bitmap)
{
    g_autoptr(json_object) nodes = tc_view_nodes(qmp, NULL);
    g_autoptr(json_object) found = nodes ? tc_view_bitmaps(nodes, node, bitmap, NULL) : NULL;

    return found != NULL;
}

/* The daemon's export at @uri, if its node has the bitmap. A reference. */
static json_object *could_offer(const char *uri, const char *bitmap, const char *socket)
{
    g_autofree char *path = tc_qmp_socket(socket), *plain = g_uri_unescape_string(uri, NULL);
    g_autoptr(TcQmp) qmp = tc_qmp_open(path, NULL);
    g_autoptr(json_object) exports = qmp ? tc_view_exports(qmp, NULL) : NULL;

    for (size_t i = 0; i < length(exports); i++) {
        json_object *export_ = json_object_array_get_idx(exports, i);
        json_object *uris = tc_json_get(export_, "uris", NULL);

        for (size_t j = 0; j < length(uris); j++) {
            const char *its = json_object_get_string(json_object_array_get_idx(uris, j));
            g_autofree char *its_plain = g_uri_unescape_string(its, NULL);

            if (!g_strcmp0(its_plain, plain) &&
                has_bitmap(qmp, tc_json_string(export_, "node-name"), bitmap))
                return json_object_get(export_);
        }
    }
    return NULL;
}

bool tc_export_require(TcSource *source, unsigned i, const char *context, const char *socket,
                       GError **error)
{
    const char *bitmap = context + strlen(TC_CONTEXT_BITMAP_PREFIX);
    g_autoptr(json_object) export_ = NULL;
    const char *id, *name;

    if (tc_source_has(source, i))
        return true;
    if (g_str_has_prefix(context, TC_CONTEXT_BITMAP_PREFIX))
        export_ = could_offer(tc_source_uri(source), bitmap, socket);
    id = tc_json_string(export_, "id");
    name = tc_json_string(export_, "name");
    if (export_)
        return tm_error_set(error,
                            "export '%s' does not offer bitmap '%s': 'tidemark bitmap offer %s %s' "
                            "changes that",
                            name ? name : id, bitmap, id, bitmap);
    return tc_source_require(source, i, context, error);
}
