/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* s3/xml.c: what servers answer in XML, of which the names and texts of elements count. Depth and
 * rows are bounded here, and the length where it is received. */
#include "s3/internal.h"
#include <string.h>

#define DEPTH 8u /* of elements in each other */

char *s3_encode(const char *text)
{
    return g_uri_escape_string(text, NULL, FALSE);
}

void s3_object_free(void *data)
{
    S3Object *object = data;

    g_free(object->key);
    g_free(object->upload);
    g_free(object);
}

static void start(GMarkupParseContext *context, const char *name, const char **attributes,
                  const char **values, void *opaque, GError **error)
{
    S3Reading *r = opaque;

    if (++r->depth > DEPTH)
        tm_error_set(error, "elements are in each other %u times", r->depth);
    g_string_truncate(r->text, 0);
    if (r->row && !r->open && !strcmp(name, r->row))
        r->open = g_new0(S3Object, 1);
}

static void text(GMarkupParseContext *context, const char *data, gsize length, void *opaque,
                 GError **error)
{
    g_string_append_len(((S3Reading *)opaque)->text, data, (gssize)length);
}

/* As encoding-type=url has it; what is not is no key. Returned. */
static char *decode(const S3Reading *r)
{
    g_autofree char *plain = g_strdup(r->text->str);

    if (!r->encoded)
        return g_steal_pointer(&plain);
    g_strdelimit(plain, "+", ' ');
    return g_uri_unescape_string(plain, NULL);
}

static void end_of_row(S3Reading *r, const char *name, GError **error)
{
    S3Object *o = r->open;

    if (!strcmp(name, "Key") && !o->key)
        o->key = decode(r);
    else if (!strcmp(name, "UploadId") && !o->upload)
        o->upload = g_strdup(r->text->str);
    else if (!strcmp(name, "Size") &&
             !g_ascii_string_to_unsigned(r->text->str, 10, 0, INT64_MAX, &o->size, NULL))
        tm_error_set(error, "an object has the size '%.20s'", r->text->str);
    if (strcmp(name, r->row))
        return;
    r->open = NULL;
    if (o->key && r->rows->len < S3_NAME_MAX)
        g_ptr_array_add(r->rows, o);
    else
        s3_object_free(o);
}

static void end_of_answer(S3Reading *r, const char *name)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(r->names); i++)
        if (!g_strcmp0(name, r->names[i]) && !r->markers[i])
            r->markers[i] = g_strdup(r->text->str);
    if (!strcmp(name, "IsTruncated")) {
        r->has_more = true;
        r->more = !strcmp(r->text->str, "true");
    }
    if (r->wanted && !r->found && !strcmp(name, r->wanted))
        r->found = g_strdup(r->text->str);
}

static void end(GMarkupParseContext *context, const char *name, void *opaque, GError **error)
{
    S3Reading *r = opaque;

    r->depth--;
    if (r->open)
        end_of_row(r, name, error);
    else
        end_of_answer(r, name);
    g_string_truncate(r->text, 0);
}

bool s3_xml_read(S3Reading *r, const void *xml, size_t length, GError **error)
{
    static const GMarkupParser parser = { .start_element = start,
                                          .end_element = end,
                                          .text = text };
    GMarkupParseContext *context = g_markup_parse_context_new(&parser, 0, r, NULL);
    bool ok = length > 0 || tm_error_set(error, "it is empty");

    r->text = g_string_new(NULL);
    ok = ok && g_markup_parse_context_parse(context, xml, (gssize)length, error) &&
         g_markup_parse_context_end_parse(context, error);
    g_markup_parse_context_free(context);
    g_string_free(r->text, TRUE);
    r->text = NULL;
    g_clear_pointer(&r->open, s3_object_free);
    return ok;
}

char *s3_xml_text(const void *xml, size_t length, const char *name)
{
    S3Reading r = { .wanted = name };

    s3_xml_read(&r, xml, length, NULL);
    return r.found;
}
