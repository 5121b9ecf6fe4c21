// density.c: see density.h.
#include "host/lib/density.h"

#include <math.h>

static const double GIVEN = 20, LATE = 6, LEAST = 2; // seconds
static const double MOST = 2.5;

static void follow(pa_recent *r, uint16_t token, double span) {
    if (pa_is_time_shift(token)) {
        const double passed = (double)pa_shift_steps(token) / PA_STEPS_A_SECOND, left = exp(-passed / span);
        r->notes *= left;
        r->seconds = r->seconds * left + span * (1 - left);
    } else if (pa_is_note_on(token)) {
        r->notes++;
    }
}

void pa_density_follow(pa_density *d, uint16_t token, bool drawn) {
    if (!drawn) follow(&d->given, token, GIVEN);
    follow(&d->all, token, LATE);
}

// Half a note more, so that silence has a density too.
static double density_of(const pa_recent *r) {
    return (r->notes + 0.5) / r->seconds;
}

double pa_density_wanted(const pa_density *d, double density) {
    if (d->given.seconds < LEAST) return density;
    const double wanted = density * density_of(&d->given) / density_of(&d->all);
    return density * fmin(fmax(wanted * wanted, 1 / MOST), MOST);
}
