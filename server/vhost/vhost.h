/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/vhost/vhost.h: exports of the type "vhost-user-blk": a disk as the virtio block device of
 * a virtual machine, whose queues are in memory that the machine shares.
 *
 * Each export listens on a socket of its own and serves one client at a time. Main thread. */
#pragma once
#include "block/export/export.h"

/* Registers the type with @exports. @inherited: the sockets that addresses of type fd mean; or
 * NULL. Both are borrowed, and outlive the exports. */
void vhost_register(BlkExports *exports, TmInherited *inherited);
