/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* util/json.h: members of JSON objects by their types.
 *
 * Threads: an object belongs to one. */
#pragma once
#include <inttypes.h>
#include <json-c/json.h>
#include <stdbool.h>

static inline void tm_json_add_string(json_object *object, const char *key, const char *value)
{
    json_object_object_add(object, key, json_object_new_string(value));
}

static inline void tm_json_add_uint(json_object *object, const char *key, uint64_t value)
{
    json_object_object_add(object, key, json_object_new_uint64(value));
}

static inline void tm_json_add_bool(json_object *object, const char *key, bool value)
{
    json_object_object_add(object, key, json_object_new_boolean(value));
}
