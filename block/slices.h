/* block/slices.h: requests that span more of a disk than can be done at once.
 *
 * A discard, zeroing or caching may span the whole disk, however large. It is done in slices of
 * about as much as takes a few milliseconds. The requests of a node that are in slices take turns,
 * a slice each, so that they keep no more than one worker busy, and other requests of the disk wait
 * for one slice, not for all of it. */
#pragma once
#include <pthread.h>
#include <stdbool.h>

typedef struct BlkRequest BlkRequest;

/* Of a node. */
typedef struct BlkSlices {
    pthread_mutex_t lock;      /* guards the rest; a leaf */
    BlkRequest *first, **last; /* who wait for their turn */
    bool busy;                 /* somebody has it */
} BlkSlices;

void blk_slices_init(BlkSlices *slices);
void blk_slices_destroy(BlkSlices *slices);

bool blk_slices_wanted(const BlkRequest *request);
/* Starts @request, whose node and members are set: done() is called. Any thread. */
void blk_slices_add(BlkRequest *request);
