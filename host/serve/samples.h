// samples.h: a piano for the pages: notes that FluidSynth plays once, which the page plays at other pitches too.
#ifndef PA_SAMPLES_H
#define PA_SAMPLES_H

#include "host/base/base.h"

typedef struct {
    int16_t *frame; // of one channel, all samples one after the other, layer by layer
    size_t frames;
    char json[256]; // what they are, for the pages; "null": there are none
} pa_samples;

// PA_USAGE where there is no SoundFont, or no FluidSynth in this build: then there are no samples, as after
// pa_samples_clear.
pa_status pa_samples_render(pa_samples *s, const char *font, pa_err *err);
void pa_samples_clear(pa_samples *s);

#endif
