/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/backup/qemu_names.h: what is set up in a QEMU process for a backup, by name.
 *
 * Everything is recognised by its name, in this run and after a kill. %u is the number of the disk
 * in the backup. */
#pragma once

#define TC_QEMU_PREFIX "tidemark-backup-"

/* bitmap, on the node of the disk: which one that is, and what is dirty; the same for its export
 * and its job */
#define TC_QEMU_DISK TC_QEMU_PREFIX "%u"
/* node: the user's disk has been copied there before it was overwritten */
#define TC_QEMU_SCRATCH TC_QEMU_PREFIX "scratch-%u"
/* node: what copies it */
#define TC_QEMU_COPY TC_QEMU_PREFIX "copy-%u"
/* node: what the device writes to meanwhile */
#define TC_QEMU_FILTER TC_QEMU_PREFIX "filter-%u"
/* node: the disk as it was at the instant */
#define TC_QEMU_POINT TC_QEMU_PREFIX "point-%u"
/* node: shows that the NBD server was started for the backup */
#define TC_QEMU_SERVER TC_QEMU_PREFIX "server"
