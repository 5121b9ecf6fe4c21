// clean.h: checks MIDI bytes and rewrites them so that libsmf 1.3 reads them right. Private to tokenizer/.
#ifndef PA_CLEAN_H
#define PA_CLEAN_H

#include "tokenizer/encode.h"

typedef struct {
    uint8_t *bytes; // malloc'ed
    size_t count;
    int ppqn;                // ticks a quarter note; 0 with SMPTE time
    double ticks_per_second; // with SMPTE time
    int64_t last_tick;       // of the file's last event
    int64_t last_idle;       // of the last sustain message that is left out; 0 without one
} pa_clean;

// `performance`: all tracks merged into one, in order of (tick, track, place), with a port message wherever the port
// changes. `midi-neural`: track by track, the tempo of the first. Both without the sustain messages that change
// nothing.
pa_status pa_midi_clean(pa_clean *clean, const uint8_t *bytes, size_t count, const pa_encode_options *o,
                        pa_report *report, pa_err *err);

#endif
