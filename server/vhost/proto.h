/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* server/vhost/proto.h: numbers of the vhost-user protocol (QEMU, docs/interop/vhost-user.rst). All
 * of it is in the byte order of the machine. */
#pragma once
#include <stdint.h>

/* Requests of the front-end. */
enum {
    VHOST_GET_FEATURES = 1,
    VHOST_SET_FEATURES = 2,
    VHOST_SET_OWNER = 3,
    VHOST_RESET_OWNER = 4,
    VHOST_SET_MEM_TABLE = 5,
    VHOST_SET_VRING_NUM = 8,
    VHOST_SET_VRING_ADDR = 9,
    VHOST_SET_VRING_BASE = 10,
    VHOST_GET_VRING_BASE = 11,
    VHOST_SET_VRING_KICK = 12,
    VHOST_SET_VRING_CALL = 13,
    VHOST_SET_VRING_ERR = 14,
    VHOST_GET_PROTOCOL_FEATURES = 15,
    VHOST_SET_PROTOCOL_FEATURES = 16,
    VHOST_GET_QUEUE_NUM = 17,
    VHOST_SET_VRING_ENABLE = 18,
    VHOST_SET_REQ_FD = 21,
    VHOST_GET_CONFIG = 24,
    VHOST_SET_CONFIG = 25,
    VHOST_GET_INFLIGHT_FD = 31,
    VHOST_SET_INFLIGHT_FD = 32,
    VHOST_RESET_DEVICE = 34,
    VHOST_GET_MAX_MEM_SLOTS = 36,
    VHOST_ADD_MEM_REG = 37,
    VHOST_REM_MEM_REG = 38,
};

#define VHOST_REQ_CONFIG_CHANGE 2 /* a request of ours */

#define VHOST_VERSION    1u /* of the flags of a message */
#define VHOST_VERSIONS   3u
#define VHOST_REPLY      4u
#define VHOST_NEED_REPLY 8u

#define VHOST_F_PROTOCOL_FEATURES 30 /* a bit of the features */

/* Bits of the protocol features. */
enum {
    VHOST_PROTOCOL_MQ = 0,
    VHOST_PROTOCOL_REPLY_ACK = 3,
    VHOST_PROTOCOL_REQ = 5,
    VHOST_PROTOCOL_CONFIG = 9,
    VHOST_PROTOCOL_INFLIGHT_SHMFD = 12,
    VHOST_PROTOCOL_RESET_DEVICE = 13,
    VHOST_PROTOCOL_CONFIGURE_MEM_SLOTS = 15,
};

#define VHOST_REGIONS       256u /* of guest memory */
#define VHOST_TABLE_REGIONS 8u   /* of one message */
#define VHOST_FDS           8u   /* of a message */
#define VHOST_CONFIG_SIZE   256u /* of a message, the most */
#define VHOST_NO_FD         256u /* a bit of what comes with a descriptor, or would */

typedef struct VhostHead {
    uint32_t request, flags, size;
} VhostHead;

typedef struct VhostRegionInfo {
    uint64_t guest, size, user, offset;
} VhostRegionInfo;

typedef struct VhostRingState {
    uint32_t index, num;
} VhostRingState;

typedef struct VhostRingAddresses {
    uint32_t index, flags;
    uint64_t desc, used, avail, log;
} VhostRingAddresses;

typedef struct VhostConfig {
    uint32_t offset, size, flags;
    uint8_t data[VHOST_CONFIG_SIZE];
} __attribute__((packed)) VhostConfig;

typedef struct VhostInflightInfo {
    uint64_t size, offset;
    uint16_t queues, queue_size;
    uint32_t padding; /* QEMU sends and expects it, the specification does not name it */
} VhostInflightInfo;
#define VHOST_INFLIGHT_SIZE 20u /* without */
#define VHOST_SLOT_SIZE     40u /* of a message about one region */

typedef union VhostPayload {
    uint64_t u64;
    VhostRingState state;
    VhostRingAddresses addresses;
    struct {
        uint32_t n, padding;
        VhostRegionInfo region[VHOST_TABLE_REGIONS];
    } memory;
    struct {
        uint64_t padding;
        VhostRegionInfo region;
    } slot;
    VhostConfig config;
    VhostInflightInfo inflight;
} VhostPayload;

/* What a queue keeps in the shared memory of requests in flight. */
typedef struct VhostDescState {
    uint8_t inflight, padding[5];
    uint16_t next;
    uint64_t counter;
} VhostDescState;

typedef struct VhostQueueState {
    uint64_t features;
    uint16_t version, desc_num, last_batch_head, used_idx;
    VhostDescState desc[];
} VhostQueueState;

/* Of a virtqueue. */
typedef struct VhostDesc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags, next;
} VhostDesc;

typedef struct VhostAvail {
    uint16_t flags, idx, ring[]; /* used_event follows */
} VhostAvail;

typedef struct VhostUsed {
    uint16_t flags, idx;
    struct {
        uint32_t id, len;
    } ring[]; /* avail_event follows */
} VhostUsed;
