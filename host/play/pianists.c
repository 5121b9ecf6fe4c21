// pianists.c: see pianists.h.
#include "host/play/pianists.h"

#include <math.h>

// MAESTRO v3.0.0's validation split, 1,096 minutes: bench/quality/pianists.py data/validation.safetensors
static const pa_feature_range range[PA_FEATURES] = {
    // label, 5 %, 50 %, 95 %, decimals, side, follows the primer
    [PA_NOTES_PER_SECOND] = {"notes/s", 3.467, 8.25, 17.85, 1, 0, true},
    [PA_POLYPHONY] = {"notes at once", 2.079, 4.677, 8.495, 1, 0, true},
    [PA_NOTE_SECONDS] = {"median note (s)", 0.08, 0.37, 1.27, 2, 0, true},
    [PA_LONGEST_NOTE] = {"longest note (s)", 1.498, 4.1, 12.02, 1, 1, false},
    [PA_SILENCE] = {"silent half-seconds", 0, 0, 0.075, 2, 1, false},
    [PA_RESTS] = {"half-seconds without a stroke", 0, 0.08333, 0.3833, 2, 0, true},
    [PA_LOWEST_PITCH] = {"lowest pitch", 23.75, 31, 40, 0, 0, true},
    [PA_PITCH] = {"mean pitch", 56.64, 63.5, 71.5, 0, 0, true},
    [PA_HIGHEST_PITCH] = {"highest pitch", 79, 89, 102, 0, 0, true},
    [PA_VELOCITY_MEAN] = {"velocity", 44.03, 60.52, 73.86, 0, 0, true},
    [PA_VELOCITY_SPREAD] = {"velocity spread", 11.75, 15.96, 20.9, 0, 0, true},
    [PA_VELOCITY_CORRELATION] = {"velocity correlation", 0.1411, 0.4475, 0.6982, 2, 0, true},
    [PA_PITCH_CLASS_ENTROPY] = {"pitch classes (bits)", 2.848, 3.234, 3.47, 2, 0, true},
    [PA_PITCH_CLASS_CHANGE] = {"pitch class change", 0.2358, 0.3564, 0.4892, 2, 0, true},
    [PA_RHYTHM_ENTROPY] = {"rhythm (bits)", 1.446, 1.938, 2.401, 2, 0, true},
    [PA_LOOP] = {"longest loop (notes)", 3, 7, 15, 0, 1, false},
    [PA_RETURNS] = {"returning intervals", 0.002876, 0.05365, 0.2146, 3, 0, false},
    [PA_OVERLAP] = {"overlap with the primer", 0.5639, 0.781, 0.89, 2, -1, false},
    [PA_DIVERGENCE] = {"divergence from the primer (nats)", 0.04748, 0.1838, 0.7106, 2, 1, false},
};

const pa_feature_range *pa_pianists_range(pa_feature f) {
    return &range[f];
}

static double width(pa_feature f) {
    return range[f].high - range[f].low;
}

double pa_pianists_excess(pa_feature f, double value) {
    double above = (value - range[f].high) / width(f), below = (range[f].low - value) / width(f);
    if (above > 0 && range[f].side >= 0) return above;
    return below > 0 && range[f].side <= 0 ? below : 0;
}

double pa_pianists_expected(pa_feature f, const pa_features *primer) {
    const pa_feature_range *r = &range[f];
    if (!primer || !r->follows_primer || isnan(primer->value[f])) return r->middle;
    return fmin(fmax(primer->value[f], r->low), r->high);
}

static double distance_of(pa_feature f, double value, const pa_features *primer) {
    double more = (value - pa_pianists_expected(f, primer)) / width(f);
    bool compared = f == PA_OVERLAP || f == PA_DIVERGENCE;
    if (isnan(value)) return compared && !primer ? 0 : 1;
    if (range[f].side * more < 0) return 0;
    return fmin(fabs(more), 1);
}

double pa_pianists_distance(const pa_features *take, const pa_features *primer, double *distance) {
    double sum = 0;
    for (int f = 0; f < PA_FEATURES; f++) sum += distance[f] = distance_of((pa_feature)f, take->value[f], primer);
    return sum / PA_FEATURES;
}
