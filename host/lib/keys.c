// keys.c: see keys.h.
#include "host/lib/keys.h"

#include <math.h>

#include "host/base/philox.h"
#include "host/lib/release.h"

static const float never = -1e30f; // a logit must be finite

void pa_keys_start(pa_keys *k) {
    *k = (pa_keys){.begun = -1};
    for (int key = 0; key < PA_KEYS; key++) k->struck[key] = -1;
}

void pa_keys_follow(pa_keys *k, uint16_t token) {
    int key = pa_pitch_of(token);
    if (pa_is_time_shift(token)) {
        k->moment = k->clock;
        k->clock += pa_shift_steps(token);
    } else if (pa_is_note_on(token)) {
        k->clock += PA_RELEASE_STROKE;
        k->down[key]++;
        k->sounds[key] = true;
        k->struck[key] = k->clock;
        k->stroke[key] = k->tokens;
        k->kept[key] = 1;
    } else if (pa_is_note_off(token)) {
        if (k->down[key]) k->down[key]--;
        k->sounds[key] = false;
    }
    k->tokens++;
}

void pa_keys_hold(const pa_keys *k, float *logits) {
    for (int key = 0; key < PA_KEYS; key++) {
        float *on = &logits[PA_NOTE_ON + key], *off = &logits[PA_NOTE_OFF + key];
        if (!k->down[key]) {
            *off = never;
            continue;
        }
        float most = fmaxf(*on, *off);
        *off = most + logf(expf(*on - most) + expf(*off - most));
        *on = never;
    }
}

static bool is_long(const pa_keys *k, int key, int64_t clock) {
    return k->struck[key] >= 0 && clock - k->struck[key] >= pa_release_least(key);
}

// Whether the latest note of a key had sounded, or would have if it were released, to the age that it may when the
// previous moment ended. At the present one the model has not had its turn.
static bool is_due(const pa_keys *k, int key, uint64_t seed, uint64_t stream) {
    if (!is_long(k, key, k->moment)) return false;
    // The primer's player held the note until the first draw: it reaches a greater age.
    double held = k->begun > k->struck[key] ? (double)(k->begun - k->struck[key]) : 0;
    double u = pa_uniform(pa_random(seed, PA_RANDOM_RELEASE, stream, k->stroke[key]));
    return (double)(k->moment - k->struck[key]) >= pa_release_age(key, held, 1 - (1 - u) * k->kept[key]);
}

void pa_keys_spare(pa_keys *k, const double *chance) {
    for (int key = 0; key < PA_KEYS; key++)
        if (k->sounds[key] && is_long(k, key, k->clock)) k->kept[key] *= 1 - chance[PA_NOTE_OFF + key];
}

bool pa_keys_release(const pa_keys *k, bool paired, uint64_t seed, uint64_t stream, float *logits) {
    bool release[PA_KEYS];
    int releases = 0;
    for (int key = 0; key < PA_KEYS; key++) {
        bool due = is_due(k, key, seed, stream), sounds = paired ? k->down[key] > 0 : k->sounds[key];
        release[key] = due && sounds;
        releases += release[key];
        if (due && !sounds) logits[PA_NOTE_OFF + key] = never;
    }
    for (int t = 0; t < PA_VOCAB && releases; t++)
        if (!pa_is_note_off(t) || !release[pa_pitch_of(t)]) logits[t] = never;
    return releases > 0;
}
