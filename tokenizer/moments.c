// moments.c: see moments.h. Runs of 16 by insertion, then merged.
#include "tokenizer/moments.h"

#include <stdlib.h>
#include <string.h>

static bool is_after(const pa_moment *a, const pa_moment *b) {
    return a->time > b->time || (a->time == b->time && a->order > b->order);
}

// Merges from[low .. middle) and from[middle .. high) into `to`.
static void merge(const pa_moment *from, pa_moment *to, size_t low, size_t middle, size_t high) {
    // In order already, as most of a performance is.
    if (middle >= high || !is_after(&from[middle - 1], &from[middle])) {
        memcpy(to + low, from + low, (high - low) * sizeof *to);
        return;
    }
    size_t a = low, b = middle;
    for (size_t i = low; i < high; i++)
        to[i] = a < middle && (b == high || !is_after(&from[a], &from[b])) ? from[a++] : from[b++];
}

bool pa_moment_sort(pa_moment *moment, size_t count) {
    enum { RUN = 16 };
    for (size_t i = 1; i < count; i++) { // runs by insertion
        pa_moment m = moment[i];
        size_t k = i;
        for (; k % RUN && is_after(&moment[k - 1], &m); k--) moment[k] = moment[k - 1];
        moment[k] = m;
    }
    if (count <= RUN) return true;
    pa_moment *other = malloc(count * sizeof *other), *from = moment, *to = other;
    if (!other) return false;
    for (size_t run = RUN; run < count; run *= 2) {
        for (size_t low = 0; low < count; low += 2 * run) {
            size_t middle = low + run < count ? low + run : count, high = low + 2 * run < count ? low + 2 * run : count;
            merge(from, to, low, middle, high);
        }
        pa_moment *t = from;
        from = to;
        to = t;
    }
    if (from != moment) memcpy(moment, from, count * sizeof *moment);
    free(other);
    return true;
}
