/* block/inflight.c: see the header.
 *
 * A stripe's word counts its shared holders; the top bit says that an exclusive holder has it or
 * waits for the count to reach zero. Whoever adds itself and finds the bit takes itself back. */
#include "block/inflight.h"

#include "util/sync.h"

#define EXCLUSIVE    0x80000000u
#define REGION_SHIFT 20

/* The stripes of a range: @first and then @count - 1 more, in ring order; below, visited ascending.
 */
typedef struct Span {
    unsigned first, count;
} Span;

static Span span_of(uint64_t offset, uint64_t length)
{
    uint64_t first = offset >> REGION_SHIFT;
    uint64_t last = (offset + (length ? length - 1 : 0)) >> REGION_SHIFT;

    if (last - first >= BLK_STRIPES - 1)
        return (Span){ 0, BLK_STRIPES };
    return (Span){ first % BLK_STRIPES, (unsigned)(last - first) + 1 };
}

/* Whether ascending index @i is in the span. */
static bool in_span(Span span, unsigned i)
{
    return (i - span.first) % BLK_STRIPES < span.count;
}

static void wake(BlkInflight *x)
{
    TM_GUARD(&x->lock);

    pthread_cond_broadcast(&x->changed);
}

static void leave(BlkInflight *x, unsigned i)
{
    if (__atomic_sub_fetch(&x->stripe[i].state, 1, __ATOMIC_ACQ_REL) == EXCLUSIVE)
        wake(x);
}

static bool try_enter(BlkInflight *x, unsigned i)
{
    if (!(__atomic_add_fetch(&x->stripe[i].state, 1, __ATOMIC_ACQ_REL) & EXCLUSIVE))
        return true;
    leave(x, i);
    return false;
}

bool blk_inflight_try_shared(BlkInflight *x, uint64_t offset, uint64_t length)
{
    Span span = span_of(offset, length);

    if (span.count == 1)
        return try_enter(x, span.first);
    for (unsigned i = 0; i < BLK_STRIPES; i++) {
        if (in_span(span, i) && !try_enter(x, i)) {
            while (i--) {
                if (in_span(span, i))
                    leave(x, i);
            }
            return false;
        }
    }
    return true;
}

static void waited_enough(BlkInflight *x)
{
    TM_GUARD(&x->lock);

    x->waiting--;
    if (x->first && --x->first == 0)
        pthread_cond_broadcast(&x->changed);
}

void blk_inflight_shared(BlkInflight *x, uint64_t offset, uint64_t length)
{
    Span span = span_of(offset, length);
    bool waited = false;

    for (unsigned i = 0; i < BLK_STRIPES; i++) {
        if (!in_span(span, i))
            continue;
        while (!try_enter(x, i)) {
            TM_GUARD(&x->lock);

            x->waiting += !waited;
            waited = true;
            while (__atomic_load_n(&x->stripe[i].state, __ATOMIC_ACQUIRE) & EXCLUSIVE)
                pthread_cond_wait(&x->changed, &x->lock);
        }
    }
    if (waited)
        waited_enough(x);
}

void blk_inflight_shared_end(BlkInflight *x, uint64_t offset, uint64_t length)
{
    Span span = span_of(offset, length);

    if (span.count == 1) {
        leave(x, span.first);
        return;
    }
    for (unsigned i = 0; i < BLK_STRIPES; i++) {
        if (in_span(span, i))
            leave(x, i);
    }
}

static void span_exclusive(BlkInflight *x, Span span)
{
    TM_GUARD(&x->lock);

    while (x->first)
        pthread_cond_wait(&x->changed, &x->lock);
    for (unsigned i = 0; i < BLK_STRIPES; i++) {
        uint32_t *state = &x->stripe[i].state;

        if (!in_span(span, i))
            continue;
        while (__atomic_fetch_or(state, EXCLUSIVE, __ATOMIC_ACQ_REL) & EXCLUSIVE)
            pthread_cond_wait(&x->changed, &x->lock);
        while (__atomic_load_n(state, __ATOMIC_ACQUIRE) != EXCLUSIVE)
            pthread_cond_wait(&x->changed, &x->lock);
    }
}

static void span_exclusive_end(BlkInflight *x, Span span)
{
    TM_GUARD(&x->lock);

    for (unsigned i = 0; i < BLK_STRIPES; i++) {
        if (in_span(span, i))
            __atomic_fetch_and(&x->stripe[i].state, ~EXCLUSIVE, __ATOMIC_RELEASE);
    }
    x->first = x->waiting;
    pthread_cond_broadcast(&x->changed);
}

void blk_inflight_exclusive(BlkInflight *x, uint64_t offset, uint64_t length)
{
    span_exclusive(x, span_of(offset, length));
}

void blk_inflight_exclusive_end(BlkInflight *x, uint64_t offset, uint64_t length)
{
    span_exclusive_end(x, span_of(offset, length));
}

void blk_inflight_drain(BlkInflight *x)
{
    span_exclusive(x, (Span){ 0, BLK_STRIPES });
}

void blk_inflight_drain_end(BlkInflight *x)
{
    span_exclusive_end(x, (Span){ 0, BLK_STRIPES });
}

void blk_inflight_init(BlkInflight *x)
{
    for (unsigned i = 0; i < BLK_STRIPES; i++)
        x->stripe[i].state = 0;
    x->waiting = x->first = 0;
    pthread_mutex_init(&x->lock, NULL);
    pthread_cond_init(&x->changed, NULL);
}

void blk_inflight_destroy(BlkInflight *x)
{
    pthread_cond_destroy(&x->changed);
    pthread_mutex_destroy(&x->lock);
}
