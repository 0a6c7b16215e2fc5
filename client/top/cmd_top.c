/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/top/cmd_top.c: "tidemark top": what a daemon does at the moment, again and again.
 *
 * One thread: whatever waits, for the next interval or for the daemon's answer, waits in watch(),
 * which serves keys and signals meanwhile. So a daemon that hangs doesn't hang the screen. */
#include "client/commands.h"
#include "client/text.h"
#include "client/top/figures.h"
#include "client/top/screen.h"
#include "client/top/view.h"
#include "util/json.h"
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

enum { SECOND_US = 1000000, SILENCE_US = 3 * SECOND_US, PLAIN_COLUMNS = 80 };

/* The first interval on a screen: something is shown soon. */
static const double first_interval = 0.3;
static const double intervals[] = { 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300, 3600 };
static const int handled[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP, SIGWINCH };

static const TcOption options[] = {
    TC_SOCKET_OPTION,
    { "interval", "SECONDS", "time between two measurements (default: 1)" },
    { "once", NULL, "measure for one interval, print that and end" },
    { "json", NULL, "print a line of JSON for each interval, for programs" },
    { "no-color", NULL, "draw without colours" },
    { 0 },
};

typedef struct Top {
    char *socket;
    const char *const *only;
    TcTopView view;
    char *problem;    /* what view.problem is */
    TcScreen *screen; /* NULL: lines are printed */
    int signals;      /* a signalfd; -1 without a screen */
    bool colors, once, json, quit;
    int signo;  /* the signal that asked to quit, or 0 */
    TcQmp *qmp; /* NULL: not connected */
    json_object *before;
    gint64 measured; /* when 'before' was, monotonic us */
    gint64 asked;    /* when the daemon was asked what it has not answered yet, or 0 */
} Top;

static void set_problem(Top *top, const char *problem)
{
    g_free(top->problem);
    top->problem = g_strdup(problem);
    top->view.problem = top->problem;
}

static void draw(Top *top)
{
    unsigned columns = PLAIN_COLUMNS, rows = 0;
    g_autoptr(TcFrame) frame = NULL;

    tc_terminal_size(stdout, &columns, &rows);
    frame = tc_frame_new(columns, top->colors, tc_terminal_utf8());
    tc_top_draw(&top->view, frame, top->screen ? rows : 0);
    if (top->screen) {
        top->quit |= !tc_screen_draw(top->screen, frame->lines, rows);
        return;
    }
    for (unsigned i = 0; i < frame->lines->len; i++)
        puts(frame->lines->pdata[i]);
    fputs(top->once ? "" : "\n", stdout);
    fflush(stdout);
}

/* ---- keys and signals */

static void move_selection(Top *top, int by)
{
    g_autoptr(GPtrArray) disks = tc_top_disks(&top->view);
    int at = 0;

    if (!disks->len)
        return;
    for (unsigned i = 0; i < disks->len; i++)
        if (!g_strcmp0(tc_json_string(disks->pdata[i], "node"), top->view.selected))
            at = (int)i;
    at = CLAMP(at + by, 0, (int)disks->len - 1);
    g_free(top->view.selected);
    top->view.selected = g_strdup(tc_json_string(disks->pdata[at], "node"));
}

static void change_interval(Top *top, bool longer)
{
    double next = top->view.interval;

    for (unsigned i = 0; i < G_N_ELEMENTS(intervals); i++) {
        double other = intervals[longer ? i : G_N_ELEMENTS(intervals) - 1 - i];

        if (longer ? other > next : other < next) {
            top->view.interval = other;
            return;
        }
    }
}

static void key_pressed(Top *top, unsigned key)
{
    TcTopView *view = &top->view;
    bool helped = view->help;

    view->help = false;
    switch (key) {
    case 'q':
    case 'Q':
    case TC_KEY_GONE:
        top->quit = true;
        break;
    case 'p':
    case ' ':
        view->paused = !view->paused;
        break;
    case 's':
        view->sort = (view->sort + 1) % tc_top_sorts();
        break;
    case 'S':
        view->sort = (view->sort + tc_top_sorts() - 1) % tc_top_sorts();
        break;
    case 'j':
    case TC_KEY_DOWN:
        move_selection(top, 1);
        break;
    case 'k':
    case TC_KEY_UP:
        move_selection(top, -1);
        break;
    case TC_KEY_PAGE_DOWN:
    case TC_KEY_PAGE_UP:
        move_selection(top, key == TC_KEY_PAGE_UP ? -10 : 10);
        break;
    case TC_KEY_HOME:
    case TC_KEY_END:
        move_selection(top, key == TC_KEY_HOME ? -INT16_MAX : INT16_MAX);
        break;
    case '\r':
    case '\n':
    case 'd':
        view->detail = !view->detail;
        break;
    case TC_KEY_ESCAPE:
        view->detail = view->detail && helped;
        break;
    case '+':
    case '=':
    case '-':
        change_interval(top, key != '-');
        break;
    case 'h':
    case '?':
        view->help = !helped;
        break;
    default:
        break;
    }
}

static void signal_came(Top *top)
{
    struct signalfd_siginfo info;

    if (read(top->signals, &info, sizeof(info)) != sizeof(info) || info.ssi_signo == SIGWINCH)
        return;
    if (info.ssi_signo != SIGTSTP) {
        top->signo = (int)info.ssi_signo;
        top->quit = true;
        return;
    }
    tc_screen_suspend(top->screen);
    kill(getpid(), SIGSTOP); /* as the signal does where nobody handles it */
    tc_screen_resume(top->screen);
}

/* ---- waiting */

/* When the next measurement is due; -1: not before a key is pressed. */
static gint64 due(const Top *top)
{
    bool first = top->screen && !top->view.figures && top->view.interval > first_interval;

    if (top->view.paused)
        return -1;
    return top->measured + (gint64)((first ? first_interval : top->view.interval) * SECOND_US);
}

static int poll_ms(const Top *top, int fd)
{
    gint64 now = g_get_monotonic_time(), at = due(top);

    if (fd >= 0)
        return top->screen ? 1000 : -1;
    return at < 0 ? -1 : (int)((MAX(at - now, 0) + 999) / 1000);
}

/* Says so if the daemon takes long to answer. */
static void note_silence(Top *top)
{
    gint64 waited = top->asked ? g_get_monotonic_time() - top->asked : 0;
    g_autofree char *text = g_strdup_printf(
        "the daemon has not answered for %" G_GINT64_FORMAT " s", waited / SECOND_US);

    if (waited >= SILENCE_US)
        set_problem(top, text);
}

/* Until @fd is readable or, if it is -1, until the next measurement is due. False: it is over. */
static bool watch(Top *top, int fd)
{
    while (!top->quit) {
        struct pollfd fds[] = {
            { .fd = fd, .events = POLLIN },
            { .fd = top->signals, .events = POLLIN },
            { .fd = top->screen ? tc_screen_fd(top->screen) : -1, .events = POLLIN },
        };
        unsigned key;
        int ready = poll(fds, G_N_ELEMENTS(fds), poll_ms(top, fd));

        if (ready > 0 && fds[0].revents)
            return true;
        if (ready > 0 && fds[1].revents)
            signal_came(top);
        while (ready > 0 && fds[2].revents && !top->quit && (key = tc_screen_key(top->screen)))
            key_pressed(top, key);
        note_silence(top);
        if (top->screen && !top->quit && (ready || fd >= 0))
            draw(top);
        if (fd < 0 && due(top) >= 0 && due(top) <= g_get_monotonic_time())
            return !top->quit;
    }
    return false;
}

static bool wait_for_daemon(int fd, void *opaque, GError **error)
{
    return watch(opaque, fd) || tm_error_set(error, "interrupted");
}

/* ---- measuring */

/* Asks the daemon, and makes figures if it was asked before on this connection. */
static bool measure(Top *top, GError **error)
{
    g_autoptr(json_object) answers = NULL;
    gint64 now;

    top->asked = g_get_monotonic_time();
    if (!top->qmp)
        top->qmp = tc_qmp_open_waiting(top->socket, wait_for_daemon, top, error);
    answers = top->qmp ? tc_top_ask(top->qmp, error) : NULL;
    now = g_get_monotonic_time();
    top->asked = 0;
    if (answers && top->before) {
        json_object_put(top->view.figures);
        top->view.figures = tc_top_figures(
            top->before, answers, MAX((double)(now - top->measured) / 1e6, 1e-6), top->only);
        tc_top_remember(&top->view);
        if (!top->view.selected)
            move_selection(top, 0);
    }
    json_object_put(top->before);
    top->before = answers ? json_object_get(answers) : NULL;
    top->measured = now;
    return answers;
}

static void print_json(json_object *object)
{
    puts(json_object_to_json_string_ext(object,
                                        JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
    fflush(stdout);
}

static void lost(Top *top, const char *message)
{
    g_autoptr(json_object) line = json_object_new_object();
    g_autofree char *text = g_strdup_printf("%s: connecting again", message);

    g_clear_pointer(&top->qmp, tc_qmp_free);
    if (top->json) {
        json_object_object_add(line, "time",
                               json_object_new_double((double)g_get_real_time() / 1e6));
        tm_json_add_string(line, "error", message);
        print_json(line);
        return;
    }
    /* lines say it once */
    if (top->screen || !top->problem) {
        set_problem(top, text);
        draw(top);
    }
}

/* One interval. False: it is over. */
static bool next(Top *top, GError **error)
{
    g_autoptr(GError) problem = NULL;
    bool again = top->before;

    if (!watch(top, -1))
        return false;
    if (!measure(top, &problem)) {
        if (!top->quit && top->once)
            g_propagate_error(error, g_steal_pointer(&problem));
        else if (!top->quit)
            lost(top, problem->message);
        return !top->quit && !top->once;
    }
    if (!again)
        return true; /* from here on there is something to compare with */
    set_problem(top, NULL);
    if (top->json)
        print_json(top->view.figures);
    else
        draw(top);
    return !top->once;
}

/* ---- the command */

static void take_signals(Top *top, sigset_t *before)
{
    sigset_t set;

    sigemptyset(&set);
    for (unsigned i = 0; i < G_N_ELEMENTS(handled); i++)
        sigaddset(&set, handled[i]);
    sigprocmask(SIG_BLOCK, &set, before);
    top->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* Ends as the signal that came would have ended the program. */
static void give_signals_back(Top *top, const sigset_t *before)
{
    close(top->signals);
    if (top->signo)
        signal(top->signo, SIG_DFL);
    sigprocmask(SIG_SETMASK, before, NULL);
    if (top->signo)
        raise(top->signo);
}

/* On a screen until the user quits. */
static bool run_screen(Top *top, GError **error)
{
    sigset_t before;

    take_signals(top, &before);
    top->screen = tc_screen_open(error);
    if (top->screen) {
        draw(top);
        while (next(top, error))
            ;
    }
    g_clear_pointer(&top->screen, tc_screen_close);
    give_signals_back(top, &before);
    return top->quit;
}

static bool run_all(Top *top, GError **error)
{
    GError *problem = NULL;

    if (!measure(top, error) || !tc_top_check_names(top->before, top->only, error))
        return false;
    if (!top->once && !top->json && tc_screen_possible())
        return run_screen(top, error);
    while (next(top, &problem))
        ;
    if (problem)
        g_propagate_error(error, problem);
    return !problem;
}

static bool parse_interval(const TcInvocation *inv, double *interval, GError **error)
{
    const char *text = tc_option(inv, "interval");
    char *end = NULL;
    double value = text ? g_ascii_strtod(text, &end) : 1;

    if (text && (end == text || *end || !(value >= 0.1 && value <= 3600)))
        return tm_error_set(
            error, "option --interval: '%s' is not a number of seconds from 0.1 to 3600", text);
    *interval = value;
    return true;
}

static void history_free(gpointer history)
{
    g_array_free(history, TRUE);
}

static int run(const TcInvocation *inv)
{
    g_autoptr(GError) error = NULL;
    Top top = {
        .only = (const char *const *)inv->args->pdata,
        .once = tc_flag(inv, "once"),
        .json = tc_flag(inv, "json"),
        .colors = !tc_flag(inv, "no-color") && tc_terminal_colors(stdout),
        .signals = -1,
    };

    if (!parse_interval(inv, &top.view.interval, &error))
        return tc_fail_usage(inv, g_steal_pointer(&error));
    top.view.socket = top.socket = tc_qmp_socket(tc_option(inv, "socket"));
    top.view.history = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, history_free);
    run_all(&top, &error);
    tc_qmp_free(top.qmp);
    json_object_put(top.before);
    json_object_put(top.view.figures);
    g_hash_table_unref(top.view.history);
    g_free(top.view.selected);
    g_free(top.problem);
    g_free(top.socket);
    return error ? tc_fail(g_steal_pointer(&error)) : TC_EXIT_OK;
}

const TcCommand tc_command_top = {
    .name = "top",
    .args = "[DISK...]",
    .summary = "Shows live what a daemon does: requests, latencies, clients, dirt, jobs",
    .details =
        "DISK is a node, or the id or name of an export; without one, all disks are shown. On a\n"
        "terminal, q quits and ? shows the other keys. Elsewhere, the figures of each interval\n"
        "are printed as text.\n",
    .max_args = -1,
    .options = options,
    .run = run,
};
