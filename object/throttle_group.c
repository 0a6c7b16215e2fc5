/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* object/throttle_group.c: limits of I/O that several nodes share (block/io/throttle.h).
 *
 * Properties and messages are QEMU's (qapi/qom.json, ThrottleGroupProperties;
 * block/throttle-groups.c): the limits one by one, which are given at first only, and "limits",
 * which can be set at any time: what it leaves out stays. */
#include "object/leaky_bucket.h"
#include "object/objects_internal.h"

#include "util/error.h"
#include "util/sync.h"

#include <limits.h>
#include <string.h>

typedef struct Group {
    TmObject object;
    void *shared;         /* its users' */
    pthread_mutex_t lock; /* guards the rest; a leaf */
    TmBuckets buckets;
} Group;

/* ---- the limits by name; "x-" before it: those of one by one */

typedef enum { AVG, MAX_, LENGTH, OP_SIZE } Part;

typedef struct Limit {
    const char *name; /* with x- */
    TmBucketKind kind;
    Part part;
} Limit;

#define LIMITS(name, kind)                                                                         \
    { "x-" name, kind, AVG }, { "x-" name "-max", kind, MAX_ },                                    \
    {                                                                                              \
        "x-" name "-max-length", kind, LENGTH                                                      \
    }

static const Limit limits[] = {
    LIMITS("iops-total", TM_IOPS_TOTAL), LIMITS("iops-read", TM_IOPS_READ),
    LIMITS("iops-write", TM_IOPS_WRITE), LIMITS("bps-total", TM_BPS_TOTAL),
    LIMITS("bps-read", TM_BPS_READ),     LIMITS("bps-write", TM_BPS_WRITE),
    { "x-iops-size", 0, OP_SIZE },
};

static const Limit *find(const char *name)
{
    for (size_t i = 0; i < G_N_ELEMENTS(limits); i++) {
        if (g_str_equal(limits[i].name, name))
            return &limits[i];
    }
    return NULL;
}

static uint64_t *value_of(TmBuckets *b, const Limit *limit)
{
    TmBucket *bucket = &b->bucket[limit->kind];

    switch (limit->part) {
    case AVG:
        return &bucket->avg;
    case MAX_:
        return &bucket->max;
    case LENGTH:
        return &bucket->burst_length;
    default:
        return &b->op_size;
    }
}

/* @name: as it was given. */
static bool set_limit(TmBuckets *b, const Limit *limit, const char *name, json_object *value,
                      GError **error)
{
    int64_t number = json_object_get_int64(value);

    if (limit->part == LENGTH && (number < 0 || number > UINT_MAX))
        return tm_error_set(error, "%s value must be in the range [0, %u]", name, UINT_MAX);
    *value_of(b, limit) = (uint64_t)number; /* a negative one is too large, then */
    return true;
}

/* ---- setting */

static bool set_one_by_one(TmBuckets *b, json_object *props, GError **error)
{
    json_object_object_foreach(props, name, value)
    {
        const Limit *limit = find(name);

        if (limit && json_object_get_int64(value) < 0)
            return tm_error_set(error, "Property values cannot be negative");
        if (limit && !set_limit(b, limit, name, value, error))
            return false;
    }
    return true;
}

static bool set_together(TmBuckets *b, json_object *members, GError **error)
{
    json_object_object_foreach(members, name, value)
    {
        g_autofree char *full = g_strconcat("x-", name, NULL);
        const Limit *limit = find(full);

        if (limit && !set_limit(b, limit, name, value, error))
            return false;
    }
    return tm_buckets_check(b, error);
}

static int64_t now_ns(void)
{
    return g_get_monotonic_time() * 1000;
}

static bool set_limits(TmObject *object, const char *name, json_object *value, GError **error)
{
    Group *group = (Group *)object;
    TM_GUARD(&group->lock);
    TmBuckets next = group->buckets;

    if (!set_together(&next, value, error))
        return false;
    tm_buckets_empty(&next, now_ns());
    group->buckets = next;
    return true;
}

static bool init(TmObject *object, TmObjects *objects, json_object *props, GError **error)
{
    Group *group = (Group *)object;
    json_object *together;

    pthread_mutex_init(&group->lock, NULL);
    tm_buckets_init(&group->buckets);
    if (!set_one_by_one(&group->buckets, props, error))
        return false;
    if (json_object_object_get_ex(props, "limits", &together) &&
        !set_together(&group->buckets, together, error))
        return false;
    tm_buckets_empty(&group->buckets, now_ns());
    return tm_buckets_check(&group->buckets, error);
}

static void clear(TmObject *object)
{
    pthread_mutex_destroy(&((Group *)object)->lock);
}

/* ---- getting */

static json_object *get_one(TmObject *object, const char *name)
{
    Group *group = (Group *)object;
    TM_GUARD(&group->lock);

    return json_object_new_int64((int64_t)*value_of(&group->buckets, find(name)));
}

static json_object *get_limits(TmObject *object, const char *name)
{
    json_object *all = json_object_new_object();

    for (size_t i = 0; i < G_N_ELEMENTS(limits); i++)
        json_object_object_add(all, limits[i].name + strlen("x-"), get_one(object, limits[i].name));
    return all;
}

static bool set_late(TmObject *object, const char *name, json_object *value, GError **error)
{
    return tm_error_set(error, "Property cannot be set after initialization");
}

#define ONE(name)                                                                                  \
    {                                                                                              \
        "x-" name, "int", get_one, set_late                                                        \
    }
#define PROPERTIES(name) ONE(name), ONE(name "-max"), ONE(name "-max-length")

static const TmProperty properties[] = {
    PROPERTIES("iops-total"),
    PROPERTIES("iops-read"),
    PROPERTIES("iops-write"),
    PROPERTIES("bps-total"),
    PROPERTIES("bps-read"),
    PROPERTIES("bps-write"),
    ONE("iops-size"),
    { "limits", "ThrottleLimits", get_limits, set_limits },
    { NULL },
};

/* ---- requests */

int64_t tm_throttle_wait(TmObject *object, bool write, int64_t now)
{
    Group *group = (Group *)object;
    TM_GUARD(&group->lock);

    return tm_buckets_wait(&group->buckets, write, now);
}

void tm_throttle_account(TmObject *object, bool write, uint64_t bytes)
{
    Group *group = (Group *)object;
    TM_GUARD(&group->lock);

    tm_buckets_account(&group->buckets, write, bytes);
}

void **tm_throttle_shared(TmObject *object)
{
    return &((Group *)object)->shared;
}

const TmObjectClass tm_throttle_group_class = {
    .type = "throttle-group",
    .kind = TM_OBJECT_THROTTLE_GROUP,
    .size = sizeof(Group),
    .init = init,
    .clear = clear,
    .properties = properties,
};
