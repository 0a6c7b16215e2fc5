/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/last.h: which point was the last that a backup added, disk by disk.
 *
 * It stands outside of the points, so that it outlives them: where the newest point is not the one
 * that is named here, points have been removed, damaged or brought from elsewhere since. Threads:
 * main. */
#pragma once
#include "client/repository/repository.h"

/* The id of the point; NULL: it is not known. Returned. */
char *tc_repo_last(const TcRepository *repo, const char *disk);
/* Announces it for all disks of @point, durably, before the point is there. */
bool tc_repo_announce_last(TcRepository *repo, const TcManifest *point, GError **error);
/* What was announced is so if that point is there by now; else it is as before. Without an
 * outcome (a point is damaged, or it can't be written) nothing is known until the next time. */
void tc_repo_settle_last(TcRepository *repo);
