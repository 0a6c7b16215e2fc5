/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* s3/none.c: a build without libcurl has no driver. */
#include "s3/s3.h"

const struct tidemark_driver *s3_driver_init(const struct tidemark_host *host)
{
    return NULL;
}
