/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* util/address_internal.h: what address.c uses of inherited.c. */
#pragma once
#include "util/address.h"

/* Appends a descriptor of the listening socket @which to @sockets (of TmSocket). */
bool tm_inherited_listen(TmInherited *inherited, const char *which, GArray *sockets,
                         GError **error);
/* The connected socket @which, the caller's from now on; or -1. */
int tm_inherited_take(TmInherited *inherited, const char *which, GError **error);
