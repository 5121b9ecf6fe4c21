// write.h: notes to a MIDI file.
#ifndef PA_WRITE_H
#define PA_WRITE_H

#include "tokenizer/tokens.h"

// A type-0 file, atomically: piano, 120 bpm, ticks fine enough for 10 ms steps to be exact.
pa_status pa_midi_write(const char *path, const pa_note *notes, size_t count, pa_err *err);

#endif
