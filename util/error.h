/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* util/error.h: how a control-path function says what went wrong.
 *
 * Control-path functions take a GError ** last and return false (or NULL). The message is one
 * line without a final full stop; it names the object and the cause. The code of an error in the
 * TM_ERROR domain is the QMP error class that the command answers with (QEMU docs/interop/qmp-spec,
 * "Error"), or an errno value, negative; that and any other domain is reported as GenericError.
 *
 * Threads: any. The GError is returned to the caller (g_error_free). */
#pragma once
#include <glib.h>
#include <stdbool.h>

typedef enum {
    TM_ERROR_GENERIC,
    TM_ERROR_COMMAND_NOT_FOUND,
    TM_ERROR_DEVICE_NOT_ACTIVE,
    TM_ERROR_DEVICE_NOT_FOUND,
} TmErrorClass;

#define TM_ERROR tm_error_quark()
GQuark tm_error_quark(void);

/* What a positive errno value means: constant text, in English. Unlike g_strerror() it takes no
 * lock and keeps nothing. */
const char *tm_strerror(int errnum);

/* "GenericError", "CommandNotFound", ...: borrowed, static. NULL counts as generic. */
const char *tm_error_class_name(const GError *error);

/* Sets *error, if @error is not NULL, to a GenericError. Always returns false, so that a function
 * can end with `return tm_error_set(error, ...)`. */
bool tm_error_set(GError **error, const char *format, ...) G_GNUC_PRINTF(2, 3);
bool tm_error_set_class(GError **error, TmErrorClass class, const char *format, ...)
    G_GNUC_PRINTF(3, 4);
/* The same with ": " and strerror(@errnum) appended; @errnum is a positive errno value. */
bool tm_error_set_errno(GError **error, int errnum, const char *format, ...) G_GNUC_PRINTF(3, 4);
/* The same where the text says it already. */
bool tm_error_set_cause(GError **error, int errnum, const char *format, ...) G_GNUC_PRINTF(3, 4);
/* The errno value of an error that was set with one, else 0. */
int tm_error_errno(const GError *error);
