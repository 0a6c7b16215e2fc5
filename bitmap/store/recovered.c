/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* bitmap/store/recovered.c: what a recovery has found: records, and what is to be reported of
 * them. */
#include "bitmap/store/store_internal.h"

#include <stdarg.h>

static void problem_free(void *opaque)
{
    BmpProblem *problem = opaque;

    g_free(problem->bitmap);
    g_free(problem->reason);
    g_free(problem);
}

void bmp_recovered_problem(BmpRecovered *out, const char *bitmap, uint64_t recovered,
                           bool inconsistent, const char *format, ...)
{
    BmpProblem *problem = g_new0(BmpProblem, 1);
    va_list arguments;

    va_start(arguments, format);
    problem->reason = g_strdup_vprintf(format, arguments);
    va_end(arguments);
    problem->bitmap = g_strdup(bitmap);
    problem->recovered = recovered;
    problem->inconsistent = inconsistent;
    g_ptr_array_add(out->reports, problem);
}

void bmp_recovered_init(BmpRecovered *out)
{
    *out = (BmpRecovered){ .verdict = BMP_FOUND_NOTHING };
    out->records = bmp_records_new();
    out->reports = g_ptr_array_new_with_free_func(problem_free);
    out->noted = g_ptr_array_new_with_free_func(g_free);
}

void bmp_recovered_clear(BmpRecovered *out)
{
    if (out->records)
        g_array_unref(out->records);
    if (out->reports)
        g_ptr_array_unref(out->reports);
    if (out->noted)
        g_ptr_array_unref(out->noted);
    *out = (BmpRecovered){ 0 };
}

/* false: @set has it. */
static bool report_unfinished(BmpRecovered *out, BmpSet *set, const char *name)
{
    g_autoptr(BmpBitmap) known = set ? bmp_set_find(set, name, NULL) : NULL;
    BmpProblem *problem;

    if (known)
        return false;
    bmp_recovered_problem(out, name, 0, false, "the backup that began this checkpoint did not end");
    problem = g_ptr_array_index(out->reports, out->reports->len - 1);
    problem->unfinished = true;
    out->as_stored = false; /* lest it is reported once more */
    return true;
}

void bmp_recovered_drop_unfinished(BmpRecovered *out, BmpSet *set)
{
    for (guint i = out->records->len; i-- > 0;) {
        const BmpRecord *record = &g_array_index(out->records, BmpRecord, i);

        if (record->unfinished && report_unfinished(out, set, record->name))
            g_array_remove_index(out->records, i); /* cleared by the array */
    }
    for (guint i = 0; i < out->noted->len; i++)
        report_unfinished(out, set, out->noted->pdata[i]);
}
