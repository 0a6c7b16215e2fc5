/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/view.h: points as people and programs see them.
 *
 * Threads: main. */
#pragma once
#include "client/repository/repository.h"
#include <stdio.h>

/* "2026-11-28 15:04:05", local. Returned. */
char *tc_repo_time_text(uint64_t instant);
/* What the image of @disk occupies in the file system, or UINT64_MAX: it is not there. */
uint64_t tc_repo_occupied(const TcRepository *repo, const char *point, const TcPointDisk *disk);
/* Why @point is damaged, as far as that is known without reading images: a file that is not there,
 * what it stands on, what `tidemark verify` found. Returned; NULL: nothing is known. */
char *tc_repo_damage(const TcRepository *repo, const TcManifest *point);
/* The same without what `tidemark verify` found. */
char *tc_repo_damage_seen(const TcRepository *repo, const TcManifest *point);
/* When it was verified, for a table: "never", "2026-11-28 15:04:05", "DAMAGED". Returned. */
char *tc_repo_verified_text(const TcRepository *repo, const TcManifest *point);

/* The manifest, with what of it is known from elsewhere. A new reference. */
json_object *tc_repo_point_json(const TcRepository *repo, const TcManifest *point);
/* What is not as it should be: "damaged", "incomplete", "foreign", "written". Adds to @object. */
void tc_repo_state_json(const TcRepository *repo, json_object *object);
/* The same for people: nothing if all is well. */
void tc_repo_print_state(const TcRepository *repo, FILE *out);
/* Whether any point is, as above. */
bool tc_repo_has_damage(const TcRepository *repo);
