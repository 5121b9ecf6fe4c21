// spike.h: a running bound that a loss or a gradient norm seldom passes while a run goes well.
#ifndef PA_SPIKE_H
#define PA_SPIKE_H

#include "host/base/base.h"

typedef struct {
    double mean, variance; // of about the last PA_SPIKE_STEPS values
    int64_t count;
} pa_running;

enum { PA_SPIKE_STEPS = 64, PA_SPIKE_DEVIATIONS = 6 };

// Mean and PA_SPIKE_DEVIATIONS standard deviations, one of at least 2 % of the mean; infinite before there are PA_SPIKE_STEPS values.
double pa_running_bound(const pa_running *r);
// Takes a value in, as the bound where it is beyond: one spike does not hide the next, and a level that stays becomes the mean.
void pa_running_add(pa_running *r, double x);

#endif
