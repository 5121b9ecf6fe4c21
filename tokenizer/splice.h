// splice.h: continues a MIDI file. Its own events stay as they are up to a cut; the continuation follows on a track of
// its own. Knows nothing of tokens.
#ifndef PA_SPLICE_H
#define PA_SPLICE_H

#include "tokenizer/tokens.h"

typedef struct {
    const uint8_t *bytes; // of the file
    size_t count;
    bool lenient; // as in pa_midi_open
    double keep;  // events before this time stay, in seconds of the file; INFINITY: all of them
    double cut;   // where the continuation begins; about `keep`
    const pa_note *note;
    size_t notes;     // of the continuation, in seconds of the file; none starts before `cut`
    double held[128]; // the end of each pitch that sounds over the cut; the cut itself where it is earlier
    bool bare;        // only the continuation: the cut is at 0, in the tempo and time signature that hold there
} pa_splice;

// Writes a type-1 file atomically (type 0 if bare), without the RIFF wrapper of the input. The input's tracks keep
// their bytes up to the cut, unless a byte had to be mended; chunks of other kinds stay where they are, those behind
// the last track at the end. A key that is down at the cut is released when its pitch ends. A pedal that is down there
// is lifted when the last pitch that only the pedal holds ends. The new track has a name, a marker at the cut, a
// channel that the file does not use, and the sound of the channel with most notes. Times are rounded to the nearest
// tick that is not before the cut.
pa_status pa_splice_write(const char *path, const pa_splice *s, pa_err *err);

#endif
