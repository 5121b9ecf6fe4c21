// latency.h: how long answers took to begin: the latest ones.
#ifndef PA_LATENCY_H
#define PA_LATENCY_H

#include "host/base/base.h"

enum { PA_MOST_LATENCIES = 4096 };

typedef struct {
    double seconds[PA_MOST_LATENCIES];
    size_t count; // of all
} pa_latency;

void pa_latency_add(pa_latency *l, double seconds);
double pa_latency_quantile(pa_latency *l, double share); // sorts them
void pa_latency_print(pa_latency *l);                    // nothing where there are none

#endif
