/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* object/iothread.c: what QEMU runs exports in. Here the engine's threads share all work between
 * them (block/engine/engine.h), so an iothread has no thread of its own: it is there for those who
 * name one, and keeps its properties.
 *
 * Properties, defaults and messages are QEMU's (qapi/qom.json, iothread.c, event-loop-base.c). */
#include "object/objects_internal.h"

#include "util/error.h"

#include <limits.h>

typedef enum {
    POLL_MAX_NS,
    POLL_GROW,
    POLL_SHRINK,
    AIO_MAX_BATCH,
    POOL_MIN,
    POOL_MAX,
    VALUES,
} Value;

typedef struct Iothread {
    TmObject object;
    int64_t values[VALUES]; /* main thread */
} Iothread;

static const struct {
    const char *name;
    int64_t otherwise;
} table[VALUES] = {
    [POLL_MAX_NS] = { "poll-max-ns", 32768 }, [POLL_GROW] = { "poll-grow", 0 },
    [POLL_SHRINK] = { "poll-shrink", 0 },     [AIO_MAX_BATCH] = { "aio-max-batch", 0 },
    [POOL_MIN] = { "thread-pool-min", 0 },    [POOL_MAX] = { "thread-pool-max", 64 },
};

static Value index_of(const char *name)
{
    Value i = 0;

    while (i < VALUES && !g_str_equal(table[i].name, name))
        i++;
    return i;
}

static bool check_pool(const int64_t *values, GError **error)
{
    return (values[POOL_MAX] && values[POOL_MIN] <= values[POOL_MAX] &&
            values[POOL_MAX] <= INT_MAX) ||
           tm_error_set(error, "bad thread-pool-min/thread-pool-max values");
}

static bool assign(int64_t *values, const char *name, json_object *value, GError **error)
{
    int64_t number = json_object_get_int64(value);

    if (number < 0)
        return tm_error_set(error, "%s value must be in range [0, %lld]", name, LLONG_MAX);
    values[index_of(name)] = number;
    return true;
}

static bool set(TmObject *object, const char *name, json_object *value, GError **error)
{
    Iothread *iothread = (Iothread *)object;
    Iothread next = *iothread;

    if (!assign(next.values, name, value, error) || !check_pool(next.values, error))
        return false;
    *iothread = next;
    return true;
}

static json_object *get(TmObject *object, const char *name)
{
    return json_object_new_int64(((Iothread *)object)->values[index_of(name)]);
}

static bool init(TmObject *object, TmObjects *objects, json_object *props, GError **error)
{
    int64_t *values = ((Iothread *)object)->values;

    for (Value i = 0; i < VALUES; i++) {
        json_object *given;

        values[i] = table[i].otherwise;
        if (json_object_object_get_ex(props, table[i].name, &given) &&
            !assign(values, table[i].name, given, error))
            return false;
    }
    return check_pool(values, error);
}

static void clear(TmObject *object)
{
}

static const TmProperty properties[] = {
    { "poll-max-ns", "int", get, set },
    { "poll-grow", "int", get, set },
    { "poll-shrink", "int", get, set },
    { "aio-max-batch", "int", get, set },
    { "thread-pool-min", "int", get, set },
    { "thread-pool-max", "int", get, set },
    { NULL },
};

const TmObjectClass tm_iothread_class = {
    .type = "iothread",
    .kind = TM_OBJECT_IOTHREAD,
    .size = sizeof(Iothread),
    .init = init,
    .clear = clear,
    .properties = properties,
};
