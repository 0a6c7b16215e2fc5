/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/repository/bucket_lock.c: the lock of a bucket: an object that is only ever written with a
 * condition.
 *
 * Who finds none writes it if there is still none. Who finds it free, or left behind, writes it if
 * it still has the ETag that was read. So of two who try only one gets it. Every text differs from
 * all others, and so do the ETags. Clocks are compared nowhere: who waits sees by its own clock how
 * long the object has stayed the same. */
#include "client/json.h"
#include "client/repository/bucket.h"
#include "util/boot.h"
#include "util/json.h"
#include "util/log.h"
#include "util/range.h"
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#define FORMAT    "tidemark-lock"
#define VERSION   1u
#define TEXT_MAX  4096u
#define RENEW_S   15 /* after so long it is written anew */
#define TRUST_S   45 /* after so long without that, nothing more is written */
#define LEASE_MAX UINT64_C(3600)
#define POLL_US   (G_USEC_PER_SEC / 2)
#define NO_ETAG   "\"00000000000000000000000000000000\""

/* ---- processes of this machine */

/* The boot and the namespace that a process number belongs to. Returned. */
static char *machine(void)
{
    g_autofree char *space = g_file_read_link("/proc/self/ns/pid", NULL);
    GString *text = g_string_new(NULL);
    uint8_t id[16];

    tm_boot_id(id);
    for (unsigned i = 0; i < sizeof(id); i++)
        g_string_append_printf(text, "%02x", id[i]);
    g_string_append_printf(text, " %s", space ? space : "");
    return g_string_free(text, FALSE);
}

/* When process @pid began, in ticks since the boot; 0: there is no such process. */
static uint64_t start_of(uint64_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%" PRIu64 "/stat", pid), *text = NULL;
    g_auto(GStrv) fields = NULL;
    const char *rest;

    if (!g_file_get_contents(path, &text, NULL, NULL) || !(rest = strrchr(text, ')')))
        return 0;
    fields = g_strsplit(rest, " ", -1); /* ")", the state is the third of all fields, ... */
    return g_strv_length(fields) > 20 ? g_ascii_strtoull(fields[20], NULL, 10) : 0;
}

/* /proc may hide the processes of other users (hidepid). */
static bool is_gone(uint64_t pid)
{
    return pid == 0 || pid > INT_MAX || (kill((pid_t)pid, 0) < 0 && errno == ESRCH);
}

static bool is_dead(json_object *o)
{
    g_autofree char *here = machine();
    uint64_t pid = tc_json_number(o, "pid"), start = start_of(pid);

    return !g_strcmp0(tc_json_string(o, "machine"), here) &&
           (start ? start != tc_json_number(o, "start") : is_gone(pid));
}

/* ---- the text */

/* Locked, or alone. Returned. */
static char *text_of(TcBucketLock *l, bool held)
{
    g_autoptr(json_object) o = json_object_new_object();
    g_autoptr(GDateTime) now = g_date_time_new_now_utc();
    g_autofree char *time = g_date_time_format(now, "%Y-%m-%dT%H:%M:%SZ");
    g_autofree char *here = machine();
    g_autofree char *by = g_strdup_printf("%s (process %d on %s)", l->what ? l->what : "tidemark",
                                          getpid(), g_get_host_name());

    tm_json_add_string(o, "format", FORMAT);
    tm_json_add_uint(o, "version", VERSION);
    tm_json_add_bool(o, "held", held);
    tm_json_add_string(o, "by", by);
    tm_json_add_string(o, "written", time);
    tm_json_add_string(o, "machine", here);
    tm_json_add_uint(o, "pid", (uint64_t)getpid());
    tm_json_add_uint(o, "start", start_of((uint64_t)getpid()));
    tm_json_add_uint(o, "lease", TC_LEASE_S);
    tm_json_add_string(o, "token", l->token);
    tm_json_add_uint(o, "count", ++l->count);
    return g_strconcat(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY |
                                                             JSON_C_TO_STRING_SPACED |
                                                             JSON_C_TO_STRING_NOSLASHESCAPE),
                       "\n", NULL);
}

/* @etag NULL: if there is none. *new_etag is returned. */
static bool write_lock(TcBucketLock *l, bool held, const char *etag, char **new_etag,
                       GError **error)
{
    gint64 asked = g_get_monotonic_time();
    g_autofree char *text = text_of(l, held);

    if (!s3_put(l->s3, l->key, text, strlen(text), etag ? S3_IF_MATCH : S3_IF_ABSENT, etag,
                new_etag, error))
        return false;
    l->confirmed = asked;
    return true;
}

/* ---- renewing it */

/* Locked. */
static bool renew(TcBucketLock *l, GError **error)
{
    char *etag = NULL;
    g_autoptr(GError) why = NULL;

    if (write_lock(l, true, l->etag, &etag, &why) && etag) {
        g_free(l->etag);
        l->etag = etag;
        return true;
    }
    l->lost = l->lost || !why || g_error_matches(why, S3_ERROR, S3_ERROR_CONDITION);
    if (why)
        g_propagate_error(error, g_steal_pointer(&why));
    return false;
}

static void *keep_renewing(void *opaque)
{
    TcBucketLock *l = opaque;

    pthread_mutex_lock(&l->lock);
    while (!l->stop && !l->lost) {
        gint64 next = l->confirmed + RENEW_S * G_USEC_PER_SEC;
        struct timespec until = { .tv_sec = next / G_USEC_PER_SEC,
                                  .tv_nsec = next % G_USEC_PER_SEC * 1000 };

        if (g_get_monotonic_time() >= next) {
            if (!renew(l, NULL) && !l->lost) { /* the server does not answer: soon again */
                struct timespec soon;

                clock_gettime(CLOCK_MONOTONIC, &soon);
                soon.tv_sec++;
                pthread_cond_timedwait(&l->wake, &l->lock, &soon);
            }
            continue;
        }
        pthread_cond_timedwait(&l->wake, &l->lock, &until);
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

bool tc_bucket_lock_check(TcBucketLock *l, const TcRepository *repo, bool now, GError **error)
{
    g_autoptr(GError) why = NULL;
    bool ok;

    if (!l->running)
        return tm_error_set(error, "repository '%s' is not locked", repo->path);
    pthread_mutex_lock(&l->lock);
    ok = !l->lost && (!now || renew(l, &why)) &&
         g_get_monotonic_time() - l->confirmed < TRUST_S * G_USEC_PER_SEC;
    pthread_mutex_unlock(&l->lock);
    return ok || tc_repo_error_set(error, TC_REPO_ERROR_LOCKED,
                                   "the lock of repository '%s' could not be kept, and another "
                                   "process may have taken it over, so nothing more is written: %s",
                                   repo->path,
                                   why ? why->message : "the server did not confirm it in time");
}

/* ---- taking it */

/* Why it can't be ours; NULL: it is free. Returned. *lease: the seconds after which one that has
 * not been renewed is left behind. */
static char *state_of(json_object *o, uint64_t *lease)
{
    const char *by = tc_json_string(o, "by");

    *lease = tc_json_number(o, "lease");
    *lease = *lease ? tm_min(*lease, LEASE_MAX) : TC_LEASE_S;
    if (!tc_json_true(o, "held") || is_dead(o))
        return NULL;
    return g_strdup_printf("is locked by %s", by ? by : "another process");
}

/* Whether the server heeds conditions, which is asked each time that the lock becomes ours: none of
 * these requests may succeed. */
static bool probe(TcBucketLock *l, GError **error)
{
    static const S3Condition conditions[] = { S3_IF_ABSENT, S3_IF_MATCH };
    static const char *const names[] = { "If-None-Match", "If-Match" };

    for (unsigned i = 0; i < G_N_ELEMENTS(conditions); i++) {
        g_autofree char *text = text_of(l, false);
        g_autoptr(GError) why = NULL;

        if (s3_put(l->s3, l->key, text, strlen(text), conditions[i], NO_ETAG, NULL, &why))
            return tm_error_set(error,
                                "the server at %s does not heed %s, by which two writers are kept "
                                "apart: use a server that supports conditional writes",
                                s3_endpoint(l->s3), names[i]);
        if (!g_error_matches(why, S3_ERROR, S3_ERROR_CONDITION)) {
            g_propagate_error(error, g_steal_pointer(&why));
            return false;
        }
    }
    return true;
}

/* What a try to take it found. */
typedef struct Look {
    char *etag; /* that was read last; NULL: there was none */
    char *state;
    gint64 since;   /* when that ETag was seen first */
    uint64_t lease; /* of it */
} Look;

/* false: an error. */
static bool look(TcBucketLock *l, Look *seen, GError **error)
{
    g_autofree char *text = NULL, *etag = NULL;
    g_autoptr(json_object) o = NULL;
    g_autoptr(GError) why = NULL;
    size_t length;

    g_clear_pointer(&seen->state, g_free);
    if (!s3_get(l->s3, l->key, TEXT_MAX, &text, &length, &etag, &why)) {
        g_clear_pointer(&seen->etag, g_free);
        if (g_error_matches(why, S3_ERROR, S3_ERROR_NOT_FOUND))
            return true;
        g_propagate_error(error, g_steal_pointer(&why));
        return false;
    }
    if (!etag)
        return tm_error_set(error, "the server at %s sends no ETags", s3_endpoint(l->s3));
    if (g_strcmp0(etag, seen->etag)) {
        g_free(seen->etag);
        seen->etag = g_steal_pointer(&etag);
        seen->since = g_get_monotonic_time();
    }
    o = tc_repo_parse(text, length, "lock", NULL);
    if (!o || g_strcmp0(tc_json_string(o, "format"), FORMAT))
        return tm_error_set(error,
                            "object '%s' at %s is no lock of a repository, which has the format "
                            "'" FORMAT "': remove it if no other program needs it",
                            l->key, s3_endpoint(l->s3));
    seen->state = state_of(o, &seen->lease);
    if (seen->state &&
        g_get_monotonic_time() - seen->since > (gint64)seen->lease * G_USEC_PER_SEC) {
        tm_log(TM_LOG_WARNING,
               "the repository %s, which has not renewed that for %" PRIu64 " s: taking it over",
               seen->state, seen->lease);
        g_clear_pointer(&seen->state, g_free);
    }
    return true;
}

/* Tries once: *taken, or it is another's. false: an error. */
static bool try_to_take(TcBucketLock *l, Look *seen, bool *taken, GError **error)
{
    g_autoptr(GError) why = NULL;

    *taken = false;
    if (!look(l, seen, error))
        return false;
    if (seen->state)
        return true;
    *taken = write_lock(l, true, seen->etag, &l->etag, &why) && l->etag;
    if (*taken || !why || g_error_matches(why, S3_ERROR, S3_ERROR_CONDITION)) {
        if (!*taken)
            seen->state = g_strdup("is locked by another process");
        return true;
    }
    g_propagate_error(error, g_steal_pointer(&why));
    return false;
}

static bool wait_for(TcBucketLock *l, const TcRepository *repo, int wait_s, Look *seen,
                     GError **error)
{
    gint64 until = g_get_monotonic_time() + (gint64)wait_s * G_USEC_PER_SEC;

    for (bool taken, again = false;; again = true) {
        if (!try_to_take(l, seen, &taken, error))
            return false;
        if (taken)
            return true;
        if (wait_s >= 0 && g_get_monotonic_time() >= until)
            return tc_repo_error_set(error, TC_REPO_ERROR_LOCKED,
                                     "repository '%s' %s: try again when that has ended, or use "
                                     "--wait; one that was cut off is passed over after %" PRIu64
                                     " s",
                                     repo->path, seen->state, seen->lease);
        if (!again)
            tm_log(TM_LOG_INFO, "repository '%s' %s: waiting", repo->path, seen->state);
        g_usleep(POLL_US);
    }
}

static void drop(TcBucketLock *l)
{
    if (l->etag && !l->lost)
        write_lock(l, false, l->etag, NULL, NULL); /* else it is passed over after a while */
    g_clear_pointer(&l->etag, g_free);
}

bool tc_bucket_lock_take(TcBucketLock *l, const TcRepository *repo, const TcRepoOptions *options,
                         GError **error)
{
    Look seen = { .since = g_get_monotonic_time(), .lease = TC_LEASE_S };
    bool ok;

    l->what = g_strdup(options->what);
    l->token = g_uuid_string_random();
    ok = wait_for(l, repo, options->wait_s, &seen, error);
    g_free(seen.etag);
    g_free(seen.state);
    if (!ok)
        return false;
    if (!probe(l, error)) {
        drop(l);
        return false;
    }
    l->running = !pthread_create(&l->thread, NULL, keep_renewing, l);
    if (l->running)
        return true;
    drop(l);
    return tm_error_set(error, "there is no thread for the lock of repository '%s'", repo->path);
}

bool tc_bucket_lock_is_held(TcBucketLock *l)
{
    Look seen = { .since = g_get_monotonic_time(), .lease = TC_LEASE_S };
    bool held = look(l, &seen, NULL) && seen.state;

    g_free(seen.etag);
    g_free(seen.state);
    return held;
}

/* ---- its life */

void tc_bucket_lock_init(TcBucketLock *l, S3 *s3, const char *key)
{
    pthread_condattr_t attr;

    *l = (TcBucketLock){ .s3 = s3, .key = g_strdup(key) };
    pthread_mutex_init(&l->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&l->wake, &attr);
    pthread_condattr_destroy(&attr);
}

void tc_bucket_lock_clear(TcBucketLock *l)
{
    if (l->running) {
        pthread_mutex_lock(&l->lock);
        l->stop = true;
        pthread_cond_signal(&l->wake);
        pthread_mutex_unlock(&l->lock);
        pthread_join(l->thread, NULL);
        l->running = false;
    }
    drop(l);
    pthread_cond_destroy(&l->wake);
    pthread_mutex_destroy(&l->lock);
    g_free(l->key);
    g_free(l->what);
    g_free(l->token);
    *l = (TcBucketLock){ 0 };
}
