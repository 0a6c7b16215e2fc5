/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* s3/credentials.c: where the server is and who asks it, as other tools for S3 have it: variables
 * of the environment, else a file of credentials. Never an argument, which others could see. */
#include "s3/internal.h"
#include "util/file.h"
#include <string.h>

#define FILE_MAX  (UINT64_C(64) << 10)
#define TIMEOUT_S 30u

static const char *variable(const char *name)
{
    const char *value = g_getenv(name);

    return value && *value ? value : NULL;
}

static char *file_name(void)
{
    const char *name = variable("AWS_SHARED_CREDENTIALS_FILE");

    return name ? g_strdup(name) : g_build_filename(g_get_home_dir(), ".aws", "credentials", NULL);
}

static char *entry(GKeyFile *file, const char *profile, const char *name)
{
    char *value = g_key_file_get_string(file, profile, name, NULL);

    return value ? g_strstrip(value) : NULL;
}

static bool read_credentials(S3Config *c, GError **error)
{
    const char *profile = variable("AWS_PROFILE");
    g_autofree char *path = file_name(), *text = NULL;
    g_autoptr(GKeyFile) file = g_key_file_new();
    g_autoptr(GError) why = NULL;
    size_t length;

    if (!profile)
        profile = "default";
    if (tm_file_read(path, FILE_MAX, &text, &length, &why) &&
        g_key_file_load_from_data(file, text, length, G_KEY_FILE_NONE, &why)) {
        c->id = entry(file, profile, "aws_access_key_id");
        c->secret = entry(file, profile, "aws_secret_access_key");
        c->token = entry(file, profile, "aws_session_token");
    }
    if (c->id && c->secret)
        return true;
    return tm_error_set(error,
                        "there are no credentials for S3: set AWS_ACCESS_KEY_ID and "
                        "AWS_SECRET_ACCESS_KEY, or give profile '%s' of '%s' aws_access_key_id and "
                        "aws_secret_access_key%s%s",
                        profile, path, why ? ": " : "", why ? why->message : "");
}

static bool find_credentials(S3Config *c, GError **error)
{
    const char *id = variable("AWS_ACCESS_KEY_ID"), *secret = variable("AWS_SECRET_ACCESS_KEY");

    if (!id && !secret)
        return read_credentials(c, error);
    if (!id || !secret)
        return tm_error_set(error,
                            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY go together: %s "
                            "is not set",
                            id ? "AWS_SECRET_ACCESS_KEY" : "AWS_ACCESS_KEY_ID");
    c->id = g_strdup(id);
    c->secret = g_strdup(secret);
    c->token = g_strdup(variable("AWS_SESSION_TOKEN"));
    return true;
}

static bool check_endpoint(const S3Config *c, GError **error)
{
    g_autoptr(GUri) uri = g_uri_parse(c->endpoint, G_URI_FLAGS_NONE, NULL);
    const char *scheme = uri ? g_uri_get_scheme(uri) : "", *path = uri ? g_uri_get_path(uri) : "";

    if (uri && g_uri_get_userinfo(uri)) /* which may be a secret: not in a message */
        return tm_error_set(error,
                            "the endpoint of S3 at '%s' has a user before its host: credentials "
                            "come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a file",
                            g_uri_get_host(uri));
    return (uri && (!strcmp(scheme, "http") || !strcmp(scheme, "https")) && g_uri_get_host(uri) &&
            *g_uri_get_host(uri) && !*path && !g_uri_get_query(uri)) ||
           tm_error_set(error,
                        "endpoint '%s' of S3 is no URL such as 'https://s3.example.com:9000'",
                        c->endpoint);
}

/* It becomes part of a signature's scope, and of a host's name. */
static bool check_region(const S3Config *c, GError **error)
{
    const char *letters = "abcdefghijklmnopqrstuvwxyz0123456789-";

    return strspn(c->region, letters) == strlen(c->region) ||
           tm_error_set(error, "region '%s' of S3 is no name such as 'eu-central-1'", c->region);
}

static bool find_timeout(S3Config *c, GError **error)
{
    const char *text = variable("TIDEMARK_S3_TIMEOUT");
    guint64 value = TIMEOUT_S;

    if (text && !g_ascii_string_to_unsigned(text, 10, 1, 3600, &value, NULL))
        return tm_error_set(error,
                            "TIDEMARK_S3_TIMEOUT: '%s' is no number of seconds from 1 to "
                            "3600",
                            text);
    c->timeout_s = (unsigned)value;
    return true;
}

bool s3_config_read(S3Config *c, const char *endpoint, const char *region, GError **error)
{
    const char *set = variable("AWS_REGION");

    *c = (S3Config){ 0 };
    if (!set)
        set = variable("AWS_DEFAULT_REGION");
    c->region = g_strdup(region ? region : set ? set : "us-east-1");
    if (!endpoint)
        endpoint = variable("AWS_ENDPOINT_URL_S3");
    if (!endpoint)
        endpoint = variable("AWS_ENDPOINT_URL");
    c->endpoint =
        endpoint ? g_strdup(endpoint) : g_strdup_printf("https://s3.%s.amazonaws.com", c->region);
    while (g_str_has_suffix(c->endpoint, "/"))
        c->endpoint[strlen(c->endpoint) - 1] = '\0';
    if (check_region(c, error) && check_endpoint(c, error) && find_timeout(c, error) &&
        find_credentials(c, error))
        return true;
    s3_config_clear(c);
    return false;
}

static void wipe(char **secret)
{
    if (*secret)
        explicit_bzero(*secret, strlen(*secret));
    g_clear_pointer(secret, g_free);
}

void s3_config_clear(S3Config *c)
{
    g_clear_pointer(&c->endpoint, g_free);
    g_clear_pointer(&c->region, g_free);
    g_clear_pointer(&c->id, g_free);
    wipe(&c->secret);
    wipe(&c->token);
}
