/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* s3/module.c: the driver as a plug-in of the daemon. */
#include "s3/s3.h"

const struct tidemark_driver *tidemark_driver_init(const struct tidemark_host *host);
__attribute__((visibility("default"))) const struct tidemark_driver *
tidemark_driver_init(const struct tidemark_host *host)
{
    return s3_driver_init(host);
}
