/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/builtin.c: the table of the built-in drivers. A new one is entered here and in
 * drivers.h. */
#include "block/drivers/copy_before_write/cbw.h"
#include "block/drivers/drivers.h"
#include "block/drivers/nbd/nbd.h"

#include "block/registry.h"

const BlkBuiltin blk_builtins[] = {
    { &blk_driver_blkdebug, BLK_ROLE_FILTER, .fails = true, .permit = blk_blkdebug_permit },
    { &blk_driver_compress, BLK_ROLE_FILTER },
    { &blk_driver_copy_before_write, BLK_ROLE_FILTER, .others = BLK_ROLE_TARGET, .guards = true,
      .grows = true, .stateful = true, .before_write = blk_cbw_before_write },
    { &blk_driver_copy_on_read, BLK_ROLE_FILTER, .permit = blk_copy_on_read_permit },
    { &blk_driver_file, .locks = &blk_locks_file },
    { &blk_driver_host_device, .locks = &blk_locks_file },
    { &blk_driver_nbd, .hurry = blk_nbd_hurry, .filename = blk_nbd_filename },
    { &blk_driver_null_aio },
    { &blk_driver_null_co },
    { &blk_driver_preallocate, BLK_ROLE_FILTER, .grow = blk_preallocate_grow },
    { &blk_driver_qcow2, .format = &blk_format_qcow2 },
    { &blk_driver_raw, BLK_ROLE_WINDOW },
    { &blk_driver_scratch },
    { &blk_driver_snapshot_access, BLK_ROLE_INSTANT, .background = true },
    { &blk_driver_throttle, BLK_ROLE_FILTER, .throttle = blk_throttle_of },
    { NULL },
};
