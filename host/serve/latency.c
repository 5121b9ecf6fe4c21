// latency.c: see latency.h.
#include "host/serve/latency.h"

#include <math.h>
#include <stdlib.h>

void pa_latency_add(pa_latency *l, double seconds) {
    l->seconds[l->count++ % PA_MOST_LATENCIES] = seconds;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double pa_latency_quantile(pa_latency *l, double share) {
    size_t n = l->count < PA_MOST_LATENCIES ? l->count : PA_MOST_LATENCIES;
    if (!n) return (double)NAN;
    qsort(l->seconds, n, sizeof *l->seconds, ascending);
    return l->seconds[(size_t)ceil(share * (double)n) - 1];
}

void pa_latency_print(pa_latency *l) {
    if (!l->count) return;
    printf("answers: %zu; first note sent after the trigger: median %.1f ms, 99 %% %.1f ms\n", l->count,
           1000 * pa_latency_quantile(l, 0.5), 1000 * pa_latency_quantile(l, 0.99));
}
