// rendition.h: a take as pictures and sound show it: notes, pedal, and where the continuation begins.
// Knows nothing of models and tokens.
#ifndef PA_RENDITION_H
#define PA_RENDITION_H

#include "host/play/features.h"

typedef struct {
    const char *name;            // its label; NULL: none
    const char *remark;          // a sentence about it; NULL or empty: none
    const pa_features *features; // NULL: none
    int rank;                    // among the takes, from 1
    const pa_note *note;         // in order of start
    size_t notes;
    const pa_pedal_span *pedal; // when the sustain pedal is down, in order of time; the notes include it
    size_t pedals;
    double begins;  // second where the continuation begins; 0: no primer
    double seconds; // at least this long; notes may end later
} pa_rendition;

// Seconds until the last note ends, `seconds` at least.
static inline double pa_rendition_seconds(const pa_rendition *r) {
    double end = r->seconds > 0 ? r->seconds : 0;
    for (size_t i = 0; i < r->notes; i++)
        if (r->note[i].end > end) end = r->note[i].end;
    return end;
}

#endif
