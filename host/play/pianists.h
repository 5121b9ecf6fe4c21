// pianists.h: the range of each feature in pianists' playing, and how far a take is from them and from its primer.
#ifndef PA_PIANISTS_H
#define PA_PIANISTS_H

#include "host/play/features.h"

typedef struct {
    const char *label;        // "notes/s"
    double low, middle, high; // 5 %, 50 % and 95 % of minutes of playing
    int decimals;             // of a printed value
    int side;                 // 1, -1: only more, only less than expected counts; 0: both
    bool follows_primer;      // neighbouring minutes are alike: a take is expected to be as its primer is
} pa_feature_range;

const pa_feature_range *pa_pianists_range(pa_feature f);

// How far outside the range a value is, in widths of the range; 0 inside, on the side that does not count, and for NaN.
double pa_pianists_excess(pa_feature f, double value);

// What a take is expected to have: the primer's value or the nearest to it in the range; the range's middle without a
// primer (NULL), where its value is NaN, and for features that do not follow it.
double pa_pianists_expected(pa_feature f, const pa_features *primer);

// distance: (PA_FEATURES) between a take's values and the expected ones, in widths of the range, at most 1; 1 for NaN,
// but 0 without a primer where only a comparison with it is meant. Returns their mean.
double pa_pianists_distance(const pa_features *take, const pa_features *primer, double *distance);

#endif
