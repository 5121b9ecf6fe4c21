// samples.c: see samples.h.
#include "host/serve/samples.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "host/play/sound.h"

enum {
    LOWEST = 21,
    APART = 4, // semitones between samples: each is played at most two higher or lower
    PITCHES = 22,
    LAYERS = 2,
    RATE = PA_SOUND_RATE / 2,
    LENGTH = 3 * RATE,         // frames of a sample
    EVERY = LENGTH + RATE / 2, // from one to the next, for the sound before it to end
    FADE = RATE / 4,           // at a sample's end
    BEFORE = RATE / 100,       // frames before a stroke that belong to its sample
};
static const uint8_t layer[LAYERS] = {56, 104}; // velocities
const char *const pa_samples_json =
    "{\"rate\":22050,\"length\":66150,\"lowest\":21,\"apart\":4,\"pitches\":22,\"layers\":[56,104]}";
static_assert(RATE == 22050 && LENGTH == 66150 && LOWEST == 21 && APART == 4 && PITCHES == 22, "as the pages learn");

// Halves the rate and mixes the channels.
static void cut(const pa_sound *sound, size_t first, int16_t *out) {
    for (size_t i = 0; i < LENGTH; i++) {
        double sum = 0, left = (double)(LENGTH - i) / FADE;
        for (size_t k = 0; k < 2; k++) {
            size_t at = 2 * (first + i) + k;
            if (at < sound->frames) sum += (double)(sound->sample[2 * at] + sound->sample[2 * at + 1]) / 4;
        }
        out[i] = (int16_t)lrint(32767 * fmax(-1, fmin(1, sum * fmin(1, left))));
    }
}

static pa_status render(pa_samples *s, pa_piano *piano, pa_err *err) {
    pa_note note[PITCHES * LAYERS];
    pa_sound sound;
    for (int i = 0; i < PITCHES * LAYERS; i++) {
        double at = (double)(BEFORE + (size_t)i * EVERY) / RATE;
        note[i] =
            (pa_note){at, at + (double)LENGTH / RATE, (uint8_t)(LOWEST + i % PITCHES * APART), layer[i / PITCHES], 0};
    }
    const pa_rendition all = {.note = note, .notes = PITCHES * LAYERS};
    pa_status e = pa_piano_play(piano, &all, &sound, err);
    if (e) return e;
    s->frames = (size_t)PITCHES * LAYERS * LENGTH;
    s->frame = malloc(s->frames * sizeof *s->frame);
    if (!s->frame) e = pa_error(err, PA_FAIL, "no memory for the piano's sound");
    for (size_t i = 0; i < PITCHES * LAYERS && !e; i++) cut(&sound, BEFORE + i * EVERY, s->frame + i * LENGTH);
    pa_sound_clear(&sound);
    return e;
}

static void *render_all(void *arg) {
    pa_samples *s = arg;
    pa_piano *piano;
    pa_err why;
    pa_status e = pa_piano_open(&piano, s->font, &why);
    if (!e) e = render(s, piano, &why);
    pa_piano_close(piano);
    if (e) fprintf(stderr, "paserve: the page plays plain tones: %s\n", why.text);
    s->ready(s->arg, s);
    s->ended = true;
    return NULL;
}

pa_status pa_samples_begin(pa_samples *s, const char *font, void (*ready)(void *arg, const pa_samples *s), void *arg,
                           pa_err *err) {
    *s = (pa_samples){.font = font, .ready = ready, .arg = arg};
    int e = pthread_create(&s->thread, NULL, render_all, s);
    s->begun = !e;
    return e ? pa_error(err, PA_FAIL, "cannot start a thread: %s", strerror(e)) : PA_OK;
}

bool pa_samples_end(pa_samples *s) {
    if (s->begun && !s->ended) return false;
    if (s->begun) pthread_join(s->thread, NULL);
    free(s->frame);
    *s = (pa_samples){0};
    return true;
}
