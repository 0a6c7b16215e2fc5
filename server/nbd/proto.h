/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/nbd/proto.h: the numbers of the NBD protocol, newstyle. All fields are big-endian.
 *
 * Source: the NBD specification, doc/proto.md with the EXTENDED_HEADERS extension (branch
 * extension-ext-header), "Values" and the message layouts. */
#pragma once

#define NBD_MAGIC_INIT             0x4e42444d41474943ULL /* NBDMAGIC */
#define NBD_MAGIC_OPTION           0x49484156454f5054ULL /* IHAVEOPT */
#define NBD_MAGIC_REPLY            0x0003e889045565a9ULL /* option reply */
#define NBD_MAGIC_REQUEST          0x25609513u
#define NBD_MAGIC_SIMPLE           0x67446698u
#define NBD_MAGIC_STRUCTURED       0x668e33efu
#define NBD_MAGIC_EXTENDED_REQUEST 0x21e41c71u
#define NBD_MAGIC_EXTENDED_REPLY   0x6e8a278cu

/* "Handshake flags", "Client flags": the same bits */
#define NBD_FIXED_NEWSTYLE 1u
#define NBD_NO_ZEROES      2u

/* "Transmission flags" */
#define NBD_FLAG_HAS_FLAGS            (1u << 0)
#define NBD_FLAG_READ_ONLY            (1u << 1)
#define NBD_FLAG_SEND_FLUSH           (1u << 2)
#define NBD_FLAG_SEND_FUA             (1u << 3)
#define NBD_FLAG_SEND_TRIM            (1u << 5)
#define NBD_FLAG_SEND_WRITE_ZEROES    (1u << 6)
#define NBD_FLAG_SEND_DF              (1u << 7)
#define NBD_FLAG_CAN_MULTI_CONN       (1u << 8)
#define NBD_FLAG_SEND_CACHE           (1u << 10)
#define NBD_FLAG_SEND_FAST_ZERO       (1u << 11)
#define NBD_FLAG_BLOCK_STATUS_PAYLOAD (1u << 12)

/* The draft of 2016, block-status-2016: of its BLOCK_STATUS extension */
#define NBD_2016_FLAG_SEND_BLOCK_STATUS (1u << 9)
#define NBD_2016_STATE_CLEAN            (1u << 2)

/* "Option types" */
#define NBD_OPT_EXPORT_NAME       1u
#define NBD_OPT_ABORT             2u
#define NBD_OPT_LIST              3u
#define NBD_OPT_STARTTLS          5u
#define NBD_OPT_INFO              6u
#define NBD_OPT_GO                7u
#define NBD_OPT_STRUCTURED_REPLY  8u
#define NBD_OPT_LIST_META_CONTEXT 9u
#define NBD_OPT_SET_META_CONTEXT  10u
#define NBD_OPT_EXTENDED_HEADERS  11u

/* "Option reply types" */
#define NBD_REP_ACK                 1u
#define NBD_REP_SERVER              2u
#define NBD_REP_INFO                3u
#define NBD_REP_META_CONTEXT        4u
#define NBD_REP_ERR_UNSUP           0x80000001u
#define NBD_REP_ERR_POLICY          0x80000002u
#define NBD_REP_ERR_INVALID         0x80000003u
#define NBD_REP_ERR_PLATFORM        0x80000004u
#define NBD_REP_ERR_TLS_REQD        0x80000005u
#define NBD_REP_ERR_UNKNOWN         0x80000006u
#define NBD_REP_ERR_SHUTDOWN        0x80000007u
#define NBD_REP_ERR_TOO_BIG         0x80000009u
#define NBD_REP_ERR_EXT_HEADER_REQD 0x8000000au

#define NBD_INFO_EXPORT      0u
#define NBD_INFO_NAME        1u
#define NBD_INFO_DESCRIPTION 2u
#define NBD_INFO_BLOCK_SIZE  3u

/* "Request types" */
#define NBD_CMD_READ         0u
#define NBD_CMD_WRITE        1u
#define NBD_CMD_DISC         2u
#define NBD_CMD_FLUSH        3u
#define NBD_CMD_TRIM         4u
#define NBD_CMD_CACHE        5u
#define NBD_CMD_WRITE_ZEROES 6u
#define NBD_CMD_BLOCK_STATUS 7u

/* "Command flags" */
#define NBD_CMD_FLAG_FUA         (1u << 0)
#define NBD_CMD_FLAG_NO_HOLE     (1u << 1)
#define NBD_CMD_FLAG_DF          (1u << 2)
#define NBD_CMD_FLAG_REQ_ONE     (1u << 3)
#define NBD_CMD_FLAG_FAST_ZERO   (1u << 4)
#define NBD_CMD_FLAG_PAYLOAD_LEN (1u << 5)

/* "Structured and extended header reply flags", "Structured reply types" */
#define NBD_REPLY_FLAG_DONE             1u
#define NBD_REPLY_TYPE_NONE             0u
#define NBD_REPLY_TYPE_OFFSET_DATA      1u
#define NBD_REPLY_TYPE_OFFSET_HOLE      2u
#define NBD_REPLY_TYPE_BLOCK_STATUS     5u
#define NBD_REPLY_TYPE_BLOCK_STATUS_EXT 6u
#define NBD_REPLY_TYPE_ERROR            0x8001u
#define NBD_REPLY_TYPE_ERROR_OFFSET     0x8002u

/* "Error values" */
#define NBD_EPERM     1u
#define NBD_EIO       5u
#define NBD_ENOMEM    12u
#define NBD_EINVAL    22u
#define NBD_ENOSPC    28u
#define NBD_EOVERFLOW 75u
#define NBD_ENOTSUP   95u
#define NBD_ESHUTDOWN 108u

/* Sizes of what is on the wire */
#define NBD_OPTION_HEAD      16u
#define NBD_OPTION_REPLY     20u
#define NBD_REQUEST_HEAD     28u
#define NBD_EXTENDED_REQUEST 32u
#define NBD_SIMPLE_HEAD      16u
#define NBD_STRUCTURED_HEAD  20u
#define NBD_EXTENDED_HEAD    32u /* of a reply */
#define NBD_HEAD_MAX         NBD_EXTENDED_HEAD
#define NBD_HOLE_MAX         (NBD_HEAD_MAX + 12u) /* a whole OFFSET_HOLE chunk */

#define NBD_STRING_MAX  4096u       /* "Conventions": the longest string */
#define NBD_PAYLOAD_MAX (32u << 20) /* the maximum payload that we advertise */
