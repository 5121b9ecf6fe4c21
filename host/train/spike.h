// spike.h: a running bound that a loss or gradient norm rarely exceeds in a healthy run.
#ifndef PA_SPIKE_H
#define PA_SPIKE_H

#include "host/base/base.h"

typedef struct {
    double mean, variance; // of about the last PA_SPIKE_STEPS values
    int64_t count;
} pa_running;

enum { PA_SPIKE_STEPS = 64, PA_SPIKE_DEVIATIONS = 6 };

// Mean plus PA_SPIKE_DEVIATIONS standard deviations, each at least 2 % of the mean; INFINITY before PA_SPIKE_STEPS
// values.
double pa_running_bound(const pa_running *r);
// Adds a value, clamped to the bound, so that one spike does not hide the next and a lasting new level becomes the
// mean.
void pa_running_add(pa_running *r, double x);

#endif
