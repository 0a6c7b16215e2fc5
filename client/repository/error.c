/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/error.c: see the header. */
#include "client/repository/error.h"

/* Any thread: G_DEFINE_QUARK() would keep it in a variable that has no lock. */
GQuark tc_repo_error_quark(void)
{
    return g_quark_from_static_string("tidemark-repository");
}

bool tc_repo_error_set(GError **error, TcRepoError code, const char *format, ...)
{
    va_list ap;

    if (!error)
        return false;
    va_start(ap, format);
    *error = g_error_new_valist(TC_REPO_ERROR, code, format, ap);
    va_end(ap);
    return false;
}
