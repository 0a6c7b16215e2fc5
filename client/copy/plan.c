/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/copy/plan.c: see plan.h. */
#include "client/copy/plan.h"
#include "util/extent.h"
#include "util/range.h"

/* 24 bytes each */
enum { RANGES_MAX = 16 << 20 };

struct TcPlan {
    bool bitmap, fresh;
    TcStep *steps;
    size_t count, capacity, limit;
    uint64_t bytes;
    size_t next;    /* the step being cut up */
    uint64_t taken; /* bytes of it */
};

TcPlan *tc_plan_new(bool bitmap, bool fresh)
{
    TcPlan *plan = g_new0(TcPlan, 1);

    plan->bitmap = bitmap;
    plan->fresh = fresh;
    plan->limit = RANGES_MAX;
    return plan;
}

void tc_plan_set_limit(TcPlan *plan, size_t ranges)
{
    plan->limit = ranges;
}

static bool reserve(TcPlan *plan, GError **error)
{
    size_t capacity = plan->capacity ? 2 * plan->capacity : 1024;
    TcStep *steps;

    if (plan->count < plan->capacity)
        return true;
    steps = g_try_renew(TcStep, plan->steps, capacity);
    if (!steps)
        return tm_error_set(error, "out of memory for a list of %zu extents", capacity);
    plan->steps = steps;
    plan->capacity = capacity;
    return true;
}

bool tc_plan_add(TcPlan *plan, uint64_t offset, uint64_t length, uint32_t allocation,
                 uint32_t dirty, GError **error)
{
    TcStep *last = plan->count ? &plan->steps[plan->count - 1] : NULL;
    TcAction action = TC_DO_READ;

    if (plan->bitmap && !(dirty & TM_STATE_DIRTY))
        return true;
    if (allocation & TM_STATE_ZERO)
        action = allocation & TM_STATE_HOLE ? TC_DO_HOLE : TC_DO_ZERO;
    if (plan->fresh && action != TC_DO_READ)
        return true;
    if (last && last->offset + last->length == offset && last->action == action) {
        last->length += length;
        plan->bytes += length;
        return true;
    }
    if (last && plan->count >= plan->limit) {
        /* reading is right for any range, only slower */
        plan->bytes += offset + length - (last->offset + last->length);
        last->length = offset + length - last->offset;
        last->action = TC_DO_READ;
        return true;
    }
    if (!reserve(plan, error))
        return false;
    plan->steps[plan->count++] = (TcStep){ offset, length, action };
    plan->bytes += length;
    return true;
}

void tc_plan_free(TcPlan *plan)
{
    if (!plan)
        return;
    g_free(plan->steps);
    g_free(plan);
}

uint64_t tc_plan_bytes(const TcPlan *plan)
{
    return plan->bytes;
}

size_t tc_plan_ranges(const TcPlan *plan)
{
    return plan->count;
}

bool tc_plan_next(TcPlan *plan, uint64_t read_size, uint64_t zero_size, TcStep *step)
{
    const TcStep *whole;
    TcStep piece;

    if (plan->next == plan->count)
        return false;
    whole = &plan->steps[plan->next];
    piece = (TcStep){ whole->offset + plan->taken, whole->length - plan->taken, whole->action };
    if (piece.action == TC_DO_READ)
        piece.length = tm_min(piece.length, read_size - (piece.offset & (read_size - 1)));
    else
        piece.length = tm_min(piece.length, zero_size);
    plan->taken += piece.length;
    if (plan->taken == whole->length) {
        plan->next++;
        plan->taken = 0;
    }
    *step = piece;
    return true;
}
