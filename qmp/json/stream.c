/* SPDX-FileCopyrightText: 2026 The Tidemark authors
 * SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp/json/stream.c: cuts a stream of bytes into JSON values.
 *
 * A lexer, one state a byte, collects tokens until brackets balance (or close too often, which the
 * parser then reports), and hands them to the parser. Tokens rather than bytes are balanced so that
 * a bracket within a string counts as text, and so that malformed input is confined: an impossible
 * byte ends the message at once, and reading resumes where a message may begin.
 *
 * Invariants: the memory held is bounded by the limits of json.h; a message over a limit is dropped
 * whole and reported once. */
#include "qmp/json/json.h"
#include "util/error.h"
#include <string.h>

/* How much of a stray token an error repeats. */
#define STRAY_SHOWN 256

typedef enum {
    AT_START,
    AT_SPACE,
    IN_DQ,
    IN_DQ_ESCAPE,
    IN_SQ,
    IN_SQ_ESCAPE,
    IN_WORD,
    AT_MINUS,
    AT_ZERO,
    IN_DIGITS,
    AT_POINT,
    IN_FRACTION,
    AT_E,
    AT_E_SIGN,
    IN_EXPONENT,
    IN_RECOVERY,
} State;

struct QmpStream {
    QmpStreamFn fn;
    void *opaque;
    State state;
    GString *text;             /* of the tokens so far, and of the one begun */
    size_t begun;              /* where in text the token begun starts */
    uint32_t line, begun_line; /* of the next byte, and of the token begun; from 1 on */
    QmpPlaces *places;         /* or NULL */
    GArray *tokens;            /* QmpToken */
    int braces, squares;       /* open ones */
};

/* What a byte does to a token: goes on in next; or the token is complete, with or without the byte;
 * or the byte is impossible. */
typedef enum { GO_ON, COMPLETE_WITH, COMPLETE_BEFORE, IMPOSSIBLE } Outcome;
typedef struct Step {
    Outcome outcome;
    State next;        /* GO_ON */
    QmpTokenType type; /* COMPLETE_* */
} Step;

static Step go(State next)
{
    return (Step){ GO_ON, next, 0 };
}

static Step before(QmpTokenType type)
{
    return (Step){ COMPLETE_BEFORE, AT_START, type };
}

static Step step_start(unsigned char c)
{
    if (c == '0')
        return go(AT_ZERO);
    if (g_ascii_isdigit(c))
        return go(IN_DIGITS);
    if (g_ascii_islower(c))
        return go(IN_WORD);
    switch (c) {
    case '{':
    case '}':
    case '[':
    case ']':
    case ':':
    case ',':
        return (Step){ COMPLETE_WITH, AT_START, QMP_TOKEN_PUNCT };
    case ' ':
    case '\t':
    case '\r':
    case '\n':
        return go(AT_SPACE);
    case '"':
        return go(IN_DQ);
    case '\'':
        return go(IN_SQ);
    case '-':
        return go(AT_MINUS);
    default:
        return (Step){ IMPOSSIBLE };
    }
}

static Step step_string(State state, unsigned char c)
{
    bool dq = state == IN_DQ || state == IN_DQ_ESCAPE;

    if (c < 0x20 || c > 0xfd)
        return (Step){ IMPOSSIBLE };
    if (state == IN_DQ_ESCAPE || state == IN_SQ_ESCAPE)
        return go(dq ? IN_DQ : IN_SQ);
    if (c == '\\')
        return go(dq ? IN_DQ_ESCAPE : IN_SQ_ESCAPE);
    if (c == (dq ? '"' : '\''))
        return (Step){ COMPLETE_WITH, AT_START, QMP_TOKEN_STRING };
    return go(state);
}

static Step step_number(State state, unsigned char c)
{
    bool digit = g_ascii_isdigit(c), e = c == 'e' || c == 'E';
    Step bad = { IMPOSSIBLE };

    switch (state) {
    case AT_MINUS:
        return digit ? go(c == '0' ? AT_ZERO : IN_DIGITS) : bad;
    case AT_ZERO:
        if (digit)
            return bad;
        return c == '.' ? go(AT_POINT) : e ? go(AT_E) : before(QMP_TOKEN_INT);
    case IN_DIGITS:
        if (digit)
            return go(IN_DIGITS);
        return c == '.' ? go(AT_POINT) : e ? go(AT_E) : before(QMP_TOKEN_INT);
    case AT_POINT:
        return digit ? go(IN_FRACTION) : bad;
    case IN_FRACTION:
        if (digit)
            return go(IN_FRACTION);
        return e ? go(AT_E) : before(QMP_TOKEN_FLOAT);
    case AT_E:
        if (c == '+' || c == '-')
            return go(AT_E_SIGN);
        return digit ? go(IN_EXPONENT) : bad;
    case AT_E_SIGN:
        return digit ? go(IN_EXPONENT) : bad;
    default:
        return digit ? go(IN_EXPONENT) : before(QMP_TOKEN_FLOAT);
    }
}

static Step step(State state, unsigned char c)
{
    switch (state) {
    case AT_START:
    case AT_SPACE:
        return step_start(c);
    case IN_DQ:
    case IN_DQ_ESCAPE:
    case IN_SQ:
    case IN_SQ_ESCAPE:
        return step_string(state, c);
    case IN_WORD:
        return g_ascii_islower(c) ? go(IN_WORD) : before(QMP_TOKEN_WORD);
    default:
        return step_number(state, c);
    }
}

QmpStream *qmp_stream_new(QmpStreamFn fn, void *opaque)
{
    QmpStream *s = g_new0(QmpStream, 1);

    s->fn = fn;
    s->opaque = opaque;
    s->line = 1;
    s->text = g_string_new(NULL);
    s->tokens = g_array_new(FALSE, FALSE, sizeof(QmpToken));
    return s;
}

void qmp_stream_free(QmpStream *s)
{
    if (!s)
        return;
    g_string_free(s->text, TRUE);
    g_array_free(s->tokens, TRUE);
    g_free(s);
}

static void reset(QmpStream *s)
{
    /* A message of megabytes must not keep its memory for the life of the session. */
    if (s->text->allocated_len > 1 << 20) {
        g_string_free(s->text, TRUE);
        s->text = g_string_new(NULL);
        g_array_free(s->tokens, TRUE);
        s->tokens = g_array_new(FALSE, FALSE, sizeof(QmpToken));
    }
    g_string_truncate(s->text, 0);
    g_array_set_size(s->tokens, 0);
    s->begun = 0;
    s->braces = s->squares = 0;
}

static void fail(QmpStream *s, const char *format, ...) G_GNUC_PRINTF(2, 3);

static void fail(QmpStream *s, const char *format, ...)
{
    va_list ap;
    g_autofree char *message = NULL;
    g_autoptr(GError) error = NULL;

    va_start(ap, format);
    message = g_strdup_vprintf(format, ap);
    va_end(ap);
    if (s->places)
        s->places->failed = s->line;
    reset(s);
    tm_error_set(&error, "%s", message);
    s->fn(s->opaque, NULL, error);
}

static void emit(QmpStream *s)
{
    json_object *value = NULL;
    g_autoptr(GError) error = NULL;

    if (s->places) /* unless the error is further down */
        s->places->failed = g_array_index(s->tokens, QmpToken, 0).line;
    qmp_json_parse_tokens(s->text->str, (const QmpToken *)(void *)s->tokens->data, s->tokens->len,
                          &value, s->places, &error);
    reset(s);
    s->fn(s->opaque, value, error);
    json_object_put(value);
}

static void count_brackets(QmpStream *s, char c)
{
    s->braces += (c == '{') - (c == '}');
    s->squares += (c == '[') - (c == ']');
}

/* The token begun, up to the end of text, is complete. */
static void token(QmpStream *s, QmpTokenType type)
{
    QmpToken t = { type, (uint32_t)s->begun, (uint32_t)(s->text->len - s->begun), s->begun_line };

    if (type == QMP_TOKEN_PUNCT)
        count_brackets(s, s->text->str[s->begun]);
    g_array_append_val(s->tokens, t);
    s->begun = s->text->len;
    if (s->tokens->len > QMP_JSON_MAX_TOKENS)
        fail(s, "JSON token count limit exceeded");
    else if (s->braces + s->squares > QMP_JSON_MAX_DEPTH)
        fail(s, "JSON nesting depth limit exceeded");
    else if (s->braces < 0 || s->squares < 0 || (!s->braces && !s->squares))
        emit(s);
}

static void stray(QmpStream *s)
{
    fail(s, "JSON parse error, stray '%.*s'", (int)MIN(s->text->len - s->begun, STRAY_SHOWN),
         s->text->str + s->begun);
    s->state = IN_RECOVERY;
}

static bool resumes(unsigned char c)
{
    return (c < 0x20 && c != '\t') || c >= 0xfe || (c && strchr("{}[]:,", c));
}

static void feed(QmpStream *s, char c)
{
    Step st;

    if (s->state == IN_RECOVERY) {
        if (!resumes((unsigned char)c))
            return;
        s->state = AT_START;
    }
    st = step(s->state, (unsigned char)c);
    if (st.outcome == COMPLETE_BEFORE) {
        token(s, st.type);
        s->state = AT_START;
        st = step(AT_START, (unsigned char)c);
    }
    if (st.outcome == GO_ON && st.next == AT_SPACE) {
        s->state = AT_START;
        return;
    }
    if (s->text->len >= QMP_JSON_MAX_BYTES) {
        fail(s, "JSON token size limit exceeded");
        s->state = IN_RECOVERY;
        return;
    }
    if (s->text->len == s->begun)
        s->begun_line = s->line;
    g_string_append_c(s->text, c);
    switch (st.outcome) {
    case GO_ON:
        s->state = st.next;
        break;
    case IMPOSSIBLE:
        stray(s);
        break;
    default:
        s->state = AT_START;
        token(s, st.type);
    }
}

void qmp_stream_feed(QmpStream *s, const char *bytes, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        feed(s, bytes[i]);
        s->line += bytes[i] == '\n';
    }
}

void qmp_stream_set_places(QmpStream *s, QmpPlaces *places)
{
    s->places = places;
}

void qmp_stream_end(QmpStream *s)
{
    Step st = s->state == IN_RECOVERY ? go(AT_START) : step(s->state, '\n');

    if (st.outcome == COMPLETE_BEFORE)
        token(s, st.type);
    else if (st.outcome == IMPOSSIBLE)
        stray(s);
    s->state = AT_START;
    if (s->tokens->len)
        emit(s);
}
