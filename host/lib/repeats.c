// repeats.c: see repeats.h.
#include "host/lib/repeats.h"

#include <math.h>

static const double FADE = 10 * PA_STEPS_A_SECOND;

void pa_repeats_penalise(const uint16_t *recent, int count, double penalty, float *logits) {
    int64_t age = 0, next_age = 0; // of a token; of the stroke behind it
    int latest = -1, next = -1;    // pitches
    for (int i = count - 1; i >= 0; i--) {
        age += pa_shift_steps(recent[i]);
        if (!pa_is_note_on(recent[i])) continue;
        int pitch = pa_pitch_of(recent[i]);
        if (latest < 0)
            latest = pitch;
        else if (pitch == latest)
            logits[PA_NOTE_ON + next] -= (float)(log(penalty) * exp(-(double)next_age / FADE));
        next = pitch;
        next_age = age;
    }
}
