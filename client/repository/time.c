/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/time.c: times as people write them. */
#include "client/repository/repository_internal.h"
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { DAY, MINUTE, SECOND };

/* What @text begins with: how much of it that is, or 0. */
static size_t read_fields(const char *text, struct tm *tm, int *unit)
{
    const char *at = text;
    int n = 0, more = 0;

    *unit = DAY;
    if (sscanf(at, "%4d-%2d-%2d%n", &tm->tm_year, &tm->tm_mon, &tm->tm_mday, &n) != 3)
        return 0;
    at += n;
    tm->tm_year -= 1900;
    tm->tm_mon -= 1;
    if ((*at != ' ' && *at != 'T' && *at != 't') || !g_ascii_isdigit(at[1]))
        return (size_t)(at - text);
    if (sscanf(at + 1, "%2d:%2d%n", &tm->tm_hour, &tm->tm_min, &n) != 2)
        return 0;
    at += 1 + n;
    *unit = MINUTE;
    if (sscanf(at, ":%2d%n", &tm->tm_sec, &more) == 1) {
        at += more;
        *unit = SECOND;
        if (*at == '.' && g_ascii_isdigit(at[1]))
            at += 1 + strspn(at + 1, G_CSET_DIGITS);
    }
    return (size_t)(at - text);
}

/* "Z", "+01:00": seconds before UTC. */
static bool read_offset(const char *text, long *offset)
{
    unsigned hours = 0, minutes = 0;
    int n = 0;

    if (!strcmp(text, "Z") || !strcmp(text, "z")) {
        *offset = 0;
        return true;
    }
    if ((*text != '+' && *text != '-') || !g_ascii_isdigit(text[1]) ||
        sscanf(text + 1, "%2u:%2u%n", &hours, &minutes, &n) != 2 || text[1 + n] || hours > 23 ||
        minutes > 59)
        return false;
    *offset = (long)(hours * 3600 + minutes * 60) * (*text == '-' ? -1 : 1);
    return true;
}

static bool is_possible(const struct tm *tm)
{
    struct tm same = *tm;

    return timegm(&same) != (time_t)-1 && same.tm_year == tm->tm_year &&
           same.tm_mon == tm->tm_mon && same.tm_mday == tm->tm_mday &&
           same.tm_hour == tm->tm_hour && same.tm_min == tm->tm_min && same.tm_sec == tm->tm_sec;
}

bool tc_repo_parse_time(const char *text, uint64_t *end)
{
    struct tm tm = { .tm_isdst = -1 };
    long offset = 0;
    int unit;
    size_t n = read_fields(text, &tm, &unit);
    time_t time;

    if (!n || !is_possible(&tm) || (text[n] && !read_offset(text + n, &offset)))
        return false;
    /* A day has 23 to 25 hours. */
    *(unit == DAY ? &tm.tm_mday : unit == MINUTE ? &tm.tm_min : &tm.tm_sec) += 1;
    time = text[n] ? timegm(&tm) : mktime(&tm);
    if (time == (time_t)-1 || time - offset < 0)
        return false;
    *end = (uint64_t)(time - offset) * 1000000000;
    return true;
}
