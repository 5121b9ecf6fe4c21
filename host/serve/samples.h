// samples.h: a piano for the pages: notes that FluidSynth plays once, which the page plays at other pitches too.
#ifndef PA_SAMPLES_H
#define PA_SAMPLES_H

#include <pthread.h>
#include <stdatomic.h>

#include "host/base/base.h"

typedef struct pa_samples {
    const char *font;
    void (*ready)(void *arg, const struct pa_samples *s); // called by the thread that renders
    void *arg;
    int16_t *frame; // of one channel, all samples one after the other, layer by layer; NULL: rendering failed
    size_t frames;
    pthread_t thread;
    bool begun;
    atomic_bool ended;
} pa_samples;

extern const char *const pa_samples_json; // what they are, for the pages

// Renders for seconds, in a thread of its own. font: as for pa_piano_open.
pa_status pa_samples_begin(pa_samples *s, const char *font, void (*ready)(void *arg, const pa_samples *s), void *arg,
                           pa_err *err);
bool pa_samples_end(pa_samples *s); // false: it still renders, which nothing can stop; *s must stay

#endif
