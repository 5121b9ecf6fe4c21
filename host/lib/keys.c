// keys.c: see keys.h.
#include "host/lib/keys.h"

#include <math.h>

static const float never = -1e30f; // a logit must be finite

void pa_keys_follow(int down[PA_KEYS], uint16_t token) {
    if (pa_is_note_on(token))
        down[pa_pitch_of(token)]++;
    else if (pa_is_note_off(token) && down[pa_pitch_of(token)])
        down[pa_pitch_of(token)]--;
}

void pa_keys_hold(const int down[PA_KEYS], float *logits) {
    for (int key = 0; key < PA_KEYS; key++) {
        float *on = &logits[PA_NOTE_ON + key], *off = &logits[PA_NOTE_OFF + key];
        if (!down[key]) {
            *off = never;
            continue;
        }
        float most = fmaxf(*on, *off);
        *off = most + logf(expf(*on - most) + expf(*off - most));
        *on = never;
    }
}
