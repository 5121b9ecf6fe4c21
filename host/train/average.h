// average.h: an exponential moving average of a run's weights (train.ema), in the host's memory. Every rank has all of
// it, with the same bits, since all have the same weights.
#ifndef PA_AVERAGE_H
#define PA_AVERAGE_H

#include "host/train/checkpoint.h"

enum { PA_AVERAGE_EVERY = 10 }; // steps between updates

size_t pa_average_bytes(const pa_params *p);
// Takes memory for run->average, to be freed.
pa_status pa_average_open(pa_run *run, pa_err *err);
// Sets the average to the weights.
pa_status pa_average_begin(const pa_run *run, pa_err *err);
// After each step; acts every PA_AVERAGE_EVERY steps. A step counts 1 - decay, early on more, so that the first weights
// don't last: decay = min(train.ema, (1 + step) / (10 + step)).
pa_status pa_average_add(const pa_run *run, int64_t step, pa_err *err);
// Exchanges weights and average on this rank's device. A second call restores both to the bit.
pa_status pa_average_swap(const pa_run *run, pa_err *err);

#endif
