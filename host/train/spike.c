// spike.c: see spike.h.
#include "host/train/spike.h"

#include <math.h>

double pa_running_bound(const pa_running *r) {
    if (r->count < PA_SPIKE_STEPS) return INFINITY;
    double deviation = sqrt(r->variance), least = 0.02 * fabs(r->mean);
    return r->mean + PA_SPIKE_DEVIATIONS * (deviation > least ? deviation : least);
}

void pa_running_add(pa_running *r, double x) {
    double bound = pa_running_bound(r),
           weight = 1.0 / (double)(r->count < PA_SPIKE_STEPS ? r->count + 1 : PA_SPIKE_STEPS);
    x = x < bound ? x : bound;
    double off = x - r->mean;
    r->mean += weight * off;
    r->variance = (1 - weight) * (r->variance + weight * off * off);
    r->count++;
}
