/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/run_list.c: see the header. Numbers are converted here: printf would take most of the
 * time that a million runs take. */
#include "client/run_list.h"

#include "util/range.h"

enum { TEXT_MAX = 64 << 10, RUN_MAX = 2 * 20 + sizeof(",[,]") };

static void print(TcRunList *list)
{
    fwrite(list->text->str, 1, list->text->len, stdout);
    g_string_truncate(list->text, 0);
}

/* Writes @number so that it ends before @end; returns where it begins. */
static char *digits_before(char *end, uint64_t number)
{
    do
        *--end = (char)('0' + number % 10);
    while (number /= 10);
    return end;
}

static void flush_run(TcRunList *list)
{
    char run[RUN_MAX], *end = run + sizeof(run), *at = end;

    if (list->offset == list->end)
        return;
    *--at = ']';
    at = digits_before(at, list->end - list->offset);
    *--at = ',';
    at = digits_before(at, list->offset);
    *--at = '[';
    if (list->any)
        *--at = ',';
    g_string_append_len(list->text, at, end - at);
    list->any = true;
    list->offset = list->end;
    list->left--;
    if (list->text->len > TEXT_MAX - RUN_MAX)
        print(list);
}

bool tc_run_list_begin(TcRunList *list, const TcInvocation *inv, uint64_t size, GError **error)
{
    uint64_t from = 0, limit = UINT64_MAX;

    if (!tc_option_number(inv, "offset", 0, size, &from, error) ||
        !tc_option_number(inv, "limit", 1, UINT32_MAX, &limit, error))
        return false;
    *list = (TcRunList){
        .size = size, .from = from, .left = limit, .text = g_string_sized_new(TEXT_MAX)
    };
    g_string_append_printf(list->text, "{\"size\":%" G_GUINT64_FORMAT ",\"runs\":[", size);
    return true;
}

bool tc_run_list_add(TcRunList *list, uint64_t offset, uint64_t length)
{
    uint64_t end = offset + length;

    offset = tm_max(offset, list->from);
    if (offset >= end)
        return true;
    if (list->offset < list->end && offset == list->end) {
        list->end = end;
        return true;
    }
    flush_run(list);
    if (!list->left) {
        list->full = true;
        list->next = offset;
        return false;
    }
    list->offset = offset;
    list->end = end;
    return true;
}

void tc_run_list_end(TcRunList *list, bool whole)
{
    if (whole) {
        flush_run(list);
        g_string_append_c(list->text, ']');
        if (list->full)
            g_string_append_printf(list->text, ",\"next\":%" G_GUINT64_FORMAT, list->next);
        g_string_append(list->text, "}\n");
    }
    print(list);
    g_string_free(list->text, TRUE);
}
