// density.h: how many notes a second a token sequence has: what it was given, and all of it of late. Knows nothing of
// models.
#ifndef PA_DENSITY_H
#define PA_DENSITY_H

#include "tokenizer/tokens.h"

// Notes and seconds, both weighted less the longer ago they are.
typedef struct {
    double notes, seconds;
} pa_recent;

typedef struct {
    pa_recent given, all; // of the last 20 s or so; of the last 6
} pa_density;

// drawn: the token was not given. Starts from zeros.
void pa_density_follow(pa_density *d, uint16_t token, bool drawn);
// `density` (pa_sampling_options) times the square of (density x notes a second given / of late), at least 0.4 and at
// most 2.5. Unchanged where less than two seconds were given.
double pa_density_wanted(const pa_density *d, double density);

#endif
