// load.c: see load.h.
#include "host/serve/load.h"

#include <math.h>

static const double LOW = 1, HIGH = 3;  // seconds of margin
static const double GAIN = 0.3;         // seconds of margin that a second must add until it is LOW
static const double UP = 0.5, DOWN = 2; // least seconds between two changes: what the last one takes to show
static const double SPARSE = 0.5, SPARSEST = 0.25;

int pa_load_update(pa_load *l, double now, double played, double margin) {
    double low = fmin(LOW, GAIN * played);
    if (margin < low && l->level < PA_LOAD_SPARSE && (l->level == PA_LOAD_NORMAL || now - l->since >= UP)) {
        l->level++;
    } else if (margin >= HIGH && l->level > PA_LOAD_NORMAL && now - l->since >= DOWN) {
        l->level--;
    } else {
        return 0;
    }
    l->since = now;
    return 1;
}

double pa_load_density(const pa_load *l, double wanted) {
    return l->level < PA_LOAD_SPARSE ? wanted : fmax(SPARSEST, SPARSE * wanted);
}
