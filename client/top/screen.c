/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* client/top/screen.c: see screen.h. The escape sequences are those that xterm, the Linux console,
 * tmux and their like share. */
#include "client/top/screen.h"
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

/* The alternate screen, no cursor, no wrapping at the right edge; and back. */
#define TAKE "\033[?1049h\033[?25l\033[?7l\033[2J"
#define GIVE "\033[?7h\033[?25h\033[?1049l"

enum { ESCAPE = 27, ESCAPE_MS = 50 };

struct TcScreen {
    bool input, gone, taken;
    struct termios before; /* of the input */
    char keys[64];
    unsigned at, length;
};

static bool write_all(const char *text, size_t length)
{
    while (length) {
        ssize_t put = write(STDOUT_FILENO, text, length);
        struct pollfd room = { .fd = STDOUT_FILENO, .events = POLLOUT };

        if (put < 0 && errno == EAGAIN)
            poll(&room, 1, -1);
        else if (put < 0 && errno != EINTR)
            return false;
        text += MAX(put, 0);
        length -= (size_t)MAX(put, 0);
    }
    return true;
}

bool tc_screen_possible(void)
{
    const char *term = g_getenv("TERM");

    return isatty(STDOUT_FILENO) && term && *term && strcmp(term, "dumb");
}

void tc_screen_resume(TcScreen *screen)
{
    struct termios raw = screen->before;

    if (screen->taken)
        return;
    screen->taken = true;
    if (screen->input) {
        raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
        raw.c_cc[VMIN] = 0;
        raw.c_cc[VTIME] = 0;
        tcsetattr(STDIN_FILENO, TCSADRAIN, &raw);
    }
    write_all(TAKE, strlen(TAKE));
}

void tc_screen_suspend(TcScreen *screen)
{
    if (!screen->taken)
        return;
    screen->taken = false;
    write_all(GIVE, strlen(GIVE));
    if (screen->input)
        tcsetattr(STDIN_FILENO, TCSADRAIN, &screen->before);
}

TcScreen *tc_screen_open(GError **error)
{
    g_autoptr(TcScreen) screen = g_new0(TcScreen, 1);

    screen->input = isatty(STDIN_FILENO);
    if (screen->input && tcgetattr(STDIN_FILENO, &screen->before)) {
        tm_error_set_errno(error, errno, "standard input: the terminal's modes can't be read");
        return NULL;
    }
    tc_screen_resume(screen);
    return g_steal_pointer(&screen);
}

void tc_screen_close(TcScreen *screen)
{
    if (screen)
        tc_screen_suspend(screen);
    g_free(screen);
}

bool tc_screen_draw(TcScreen *screen, GPtrArray *lines, unsigned rows)
{
    g_autoptr(GString) out = g_string_new("\033[H");

    /* A line is erased before it is drawn: after one that reaches the edge, the cursor still stands
     * on its last character. */
    for (unsigned i = 0; i < rows; i++)
        g_string_append_printf(out, "%s\033[2K%s", i ? "\r\n" : "",
                               i < lines->len ? (char *)lines->pdata[i] : "");
    return write_all(out->str, out->len);
}

int tc_screen_fd(const TcScreen *screen)
{
    return screen->input ? STDIN_FILENO : -1;
}

/* More bytes into the buffer, waiting up to @ms; false if none came. */
static bool fill(TcScreen *screen, int ms)
{
    struct pollfd keys = { .fd = STDIN_FILENO, .events = POLLIN };
    ssize_t got;

    if (screen->at == screen->length)
        screen->at = screen->length = 0;
    if (!screen->input || screen->gone || screen->length == sizeof(screen->keys) ||
        poll(&keys, 1, ms) <= 0)
        return false;
    got = read(STDIN_FILENO, screen->keys + screen->length, sizeof(screen->keys) - screen->length);
    if (!got || (got < 0 && errno != EINTR && errno != EAGAIN))
        screen->gone = true;
    screen->length += (unsigned)MAX(got, 0);
    return got > 0;
}

static int next_byte(TcScreen *screen, int ms)
{
    return screen->at < screen->length || fill(screen, ms)
               ? (unsigned char)screen->keys[screen->at++]
               : -1;
}

/* What follows ESC [ or ESC O: a final letter, or digits and one. */
static unsigned sequence(TcScreen *screen)
{
    static const struct {
        char final;
        int number;
        unsigned key;
    } sequences[] = {
        { 'A', 0, TC_KEY_UP },      { 'B', 0, TC_KEY_DOWN },      { 'H', 0, TC_KEY_HOME },
        { 'F', 0, TC_KEY_END },     { '~', 1, TC_KEY_HOME },      { '~', 4, TC_KEY_END },
        { '~', 5, TC_KEY_PAGE_UP }, { '~', 6, TC_KEY_PAGE_DOWN }, { '~', 7, TC_KEY_HOME },
        { '~', 8, TC_KEY_END },
    };
    int number = 0, byte;

    while ((byte = next_byte(screen, ESCAPE_MS)) >= 0x20 && byte < 0x40)
        number = byte >= '0' && byte <= '9' && number < 1000 ? number * 10 + byte - '0' : number;
    for (unsigned i = 0; i < G_N_ELEMENTS(sequences); i++)
        if (sequences[i].final == byte && (byte != '~' || sequences[i].number == number))
            return sequences[i].key;
    return TC_KEY_OTHER;
}

unsigned tc_screen_key(TcScreen *screen)
{
    int byte = next_byte(screen, 0), next;

    if (byte < 0)
        return screen->gone ? TC_KEY_GONE : TC_KEY_NONE;
    if (byte != ESCAPE)
        return (unsigned)byte;
    next = next_byte(screen, ESCAPE_MS);
    if (next == '[' || next == 'O')
        return sequence(screen);
    if (next >= 0)
        screen->at--;
    return TC_KEY_ESCAPE;
}
