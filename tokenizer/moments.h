// moments.h: a stable sort of events by time, fast on those that are nearly in order.
#ifndef PA_MOMENTS_H
#define PA_MOMENTS_H

#include "host/base/base.h"

// By (time, order); index is carried along.
typedef struct {
    double time;
    uint32_t order, index;
} pa_moment;
bool pa_moment_sort(pa_moment *moment, size_t count); // false without memory

#endif
