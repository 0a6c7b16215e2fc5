/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/json.h: reading and printing JSON objects.
 *
 * Threads: an object belongs to one. */
#pragma once
#include <glib.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stdbool.h>
#include <stdio.h>

G_DEFINE_AUTOPTR_CLEANUP_FUNC(json_object, json_object_put)

/* Steps down through objects: NULL as soon as a key is missing. Borrowed. The keys end with
 * NULL. */
json_object *tc_json_get(json_object *object, ...) G_GNUC_NULL_TERMINATED;
const char *tc_json_string(json_object *object, const char *key); /* NULL if missing; borrowed */
uint64_t tc_json_number(json_object *object, const char *key);    /* 0 if missing */
/* 0 of what is no array */
size_t tc_json_length(json_object *array);
bool tc_json_true(json_object *object, const char *key);
/* An object of strings: keys and values in turn, ended by NULL. A new reference. */
json_object *tc_json_new(const char *key, ...) G_GNUC_NULL_TERMINATED;
void tc_json_print(json_object *object, FILE *out); /* pretty, with a newline */
