/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* util/error.c: errors with a QMP class; see the header. */
#include "util/error.h"

#include <string.h>

/* The first error of a process makes a lock in GLib, in a way that thread sanitizers don't see. So
 * there is one before there are threads. */
static __attribute__((constructor)) void make_first_error(void)
{
    g_error_free(g_error_new_literal(TM_ERROR, TM_ERROR_GENERIC, ""));
}

GQuark tm_error_quark(void)
{
    return g_quark_from_static_string("tidemark");
}

const char *tm_error_class_name(const GError *error)
{
    if (error && error->domain == TM_ERROR) {
        switch ((TmErrorClass)error->code) {
        case TM_ERROR_GENERIC:
            break;
        case TM_ERROR_COMMAND_NOT_FOUND:
            return "CommandNotFound";
        case TM_ERROR_DEVICE_NOT_ACTIVE:
            return "DeviceNotActive";
        case TM_ERROR_DEVICE_NOT_FOUND:
            return "DeviceNotFound";
        }
    }
    return "GenericError";
}

static bool set_va(GError **error, int code, const char *format, va_list ap) G_GNUC_PRINTF(3, 0);

static bool set_va(GError **error, int code, const char *format, va_list ap)
{
    if (error)
        g_propagate_error(error, g_error_new_valist(TM_ERROR, code, format, ap));
    return false;
}

int tm_error_errno(const GError *error)
{
    return error && error->domain == TM_ERROR && error->code < 0 ? -error->code : 0;
}

const char *tm_strerror(int errnum)
{
    const char *text = strerrordesc_np(errnum);

    return text ? text : "Unknown error";
}

bool tm_error_set(GError **error, const char *format, ...)
{
    va_list ap;

    va_start(ap, format);
    set_va(error, TM_ERROR_GENERIC, format, ap);
    va_end(ap);
    return false;
}

bool tm_error_set_class(GError **error, TmErrorClass class, const char *format, ...)
{
    va_list ap;

    va_start(ap, format);
    set_va(error, (int)class, format, ap);
    va_end(ap);
    return false;
}

bool tm_error_set_cause(GError **error, int errnum, const char *format, ...)
{
    va_list ap;

    va_start(ap, format);
    set_va(error, -errnum, format, ap);
    va_end(ap);
    return false;
}

bool tm_error_set_errno(GError **error, int errnum, const char *format, ...)
{
    g_autofree char *text = NULL;
    va_list ap;

    va_start(ap, format);
    text = g_strdup_vprintf(format, ap);
    va_end(ap);
    return tm_error_set_cause(error, errnum, "%s: %s", text, tm_strerror(errnum));
}
