/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/copy/origin.c: see origin.h. */
#include "client/copy/origin.h"
#include "client/json.h"
#include "util/file.h"
#include "util/json.h"
#include <errno.h>
#include <string.h>

#define ATTRIBUTE "user.tidemark.copy"
#define BESIDE    ".tidemark-copy"
enum { VERSION = 1, RECORD_MAX = 65536, NBD_PORT = 10809 };

static const char *const states[] = {
    [TC_ORIGIN_COMPLETE] = "complete",
    [TC_ORIGIN_COPYING] = "copying",
    [TC_ORIGIN_UPDATING] = "updating",
};

void tc_origin_clear(TcOrigin *origin)
{
    g_clear_pointer(&origin->source, g_free);
    g_clear_pointer(&origin->bitmap, g_free);
    origin->state = TC_ORIGIN_NONE;
    origin->moved = false;
}

/* ---- the name of a disk */

static char *source_of_socket(const char *scheme, const char *query, const char *name)
{
    g_autoptr(GHashTable) parameters =
        g_uri_parse_params(query ? query : "", -1, "&;", G_URI_PARAMS_NONE, NULL);
    const char *socket = parameters ? g_hash_table_lookup(parameters, "socket") : NULL;
    g_autofree char *path = socket ? g_canonicalize_filename(socket, NULL) : g_strdup("");

    return g_strdup_printf("%s:///%s?socket=%s", scheme, name, path);
}

char *tc_origin_source(const char *uri)
{
    g_autoptr(GUri) parsed = g_uri_parse(uri, G_URI_FLAGS_ENCODED_QUERY, NULL);
    const char *scheme = parsed ? g_uri_get_scheme(parsed) : "", *rest, *name, *host;
    g_autofree char *plain = NULL;
    int port;

    if (!g_str_has_prefix(scheme, "nbd"))
        return g_strdup(uri);
    rest = scheme + strlen(g_str_has_prefix(scheme, "nbds") ? "nbds" : "nbd");
    plain = g_strconcat("nbd", rest, NULL);
    name = g_uri_get_path(parsed);
    name += *name == '/';
    if (!strcmp(rest, "+unix"))
        return source_of_socket(plain, g_uri_get_query(parsed), name);
    host = g_uri_get_host(parsed);
    port = g_uri_get_port(parsed);
    return g_strdup_printf("%s://%s:%d/%s", plain, host ? host : "", port < 0 ? NBD_PORT : port,
                           name);
}

/* ---- the record */

/* Distinguishes a file from another one that has its path later. Returned. */
static char *identity(const TmSys *sys, int fd)
{
    struct timespec born = { 0 };
    struct stat st;

    if (sys->fstat(fd, &st))
        return g_strdup("");
    if (!sys->birth || sys->birth(fd, &born))
        born = (struct timespec){ 0 };
    return g_strdup_printf("%ju-%jd.%09ld", (uintmax_t)st.st_ino, (intmax_t)born.tv_sec,
                           born.tv_nsec);
}

/* @file: the identity of the file that the record is found with. */
static void parse(const char *text, const char *file, TcOrigin *origin)
{
    g_autoptr(json_object) record = json_tokener_parse(text);
    const char *state = tc_json_string(record, "state"), *its = tc_json_string(record, "file");

    if (tc_json_number(record, "version") != VERSION || !tc_json_string(record, "source"))
        return;
    for (unsigned i = TC_ORIGIN_COMPLETE; i < G_N_ELEMENTS(states); i++) {
        if (g_strcmp0(states[i], state))
            continue;
        origin->state = (TcOriginState)i;
        origin->source = g_strdup(tc_json_string(record, "source"));
        origin->bitmap = g_strdup(tc_json_string(record, "bitmap"));
        origin->moved = g_strcmp0(file, its) != 0;
    }
}

/* Returned. */
static char *format(const TcOrigin *origin, const char *file)
{
    g_autoptr(json_object) record = json_object_new_object();

    tm_json_add_uint(record, "version", VERSION);
    tm_json_add_string(record, "state", states[origin->state]);
    tm_json_add_string(record, "source", origin->source);
    json_object_object_add(record, "bitmap",
                           origin->bitmap ? json_object_new_string(origin->bitmap) : NULL);
    tm_json_add_string(record, "file", file);
    return g_strdup(json_object_to_json_string_ext(record, JSON_C_TO_STRING_PLAIN |
                                                               JSON_C_TO_STRING_NOSLASHESCAPE));
}

static char *beside(const char *path)
{
    return g_strconcat(path, BESIDE, NULL);
}

/* ---- where it is kept */

/* A path may be that of another file by now. */
static void read_beside(const char *path, const char *file, TcOrigin *origin)
{
    g_autofree char *name = beside(path), *text = NULL;

    if (tm_file_read(name, RECORD_MAX, &text, NULL, NULL))
        parse(text, file, origin);
    if (origin->moved)
        tc_origin_clear(origin);
}

bool tc_origin_read(const TmSys *sys, const char *path, TcOrigin *origin, GError **error)
{
    g_autofree char *text = g_malloc0(RECORD_MAX + 1), *file = NULL;
    int fd = sys->open(path, O_RDONLY | O_CLOEXEC, 0);
    ssize_t length;

    *origin = (TcOrigin){ 0 };
    if (fd < 0)
        return tm_error_set_errno(error, errno, "target '%s'", path);
    file = identity(sys, fd);
    length = sys->fgetxattr(fd, ATTRIBUTE, text, RECORD_MAX);
    if (length >= 0)
        parse(text, file, origin);
    else
        read_beside(path, file, origin);
    sys->close(fd);
    return true;
}

static bool fail(const char *path, int errnum, GError **error)
{
    return tm_error_set_errno(error, errnum, "Could not record in '%s' what it is a copy of", path);
}

static bool write_beside(const TmSys *sys, const char *path, const char *text, GError **error)
{
    g_autofree char *name = beside(path);

    if (tm_file_replace(sys, name, text, 0666, error))
        return true;
    g_prefix_error(error, "Could not record what '%s' is a copy of: ", path);
    return false;
}

static bool remove_beside(const TmSys *sys, const char *path, GError **error)
{
    g_autofree char *name = beside(path);
    int ret;

    if (sys->unlink(name))
        return errno == ENOENT || fail(path, errno, error);
    ret = tm_file_sync_name(sys, name);
    return !ret || fail(path, -ret, error);
}

static bool remove_attribute(const TmSys *sys, int fd, const char *path, GError **error)
{
    int ret;

    if (sys->fremovexattr(fd, ATTRIBUTE))
        return errno == ENODATA || errno == ENOTSUP || fail(path, errno, error);
    ret = tm_fsync(sys, fd);
    return !ret || fail(path, -ret, error);
}

bool tc_origin_write(const TmSys *sys, int fd, const char *path, const TcOrigin *origin,
                     GError **error)
{
    g_autofree char *file = identity(sys, fd), *text = origin ? format(origin, file) : NULL;
    int ret;

    if (text && !sys->fsetxattr(fd, ATTRIBUTE, text, strlen(text))) {
        ret = tm_fsync(sys, fd);
        return ret ? fail(path, -ret, error) : remove_beside(sys, path, error);
    }
    /* an older one would count for more than what is beside it */
    if (!remove_attribute(sys, fd, path, error))
        return false;
    return text ? write_beside(sys, path, text, error) : remove_beside(sys, path, error);
}
