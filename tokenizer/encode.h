// encode.h: a MIDI file to tokens, tokens to notes. Which encoding is an argument; the rules are in docs/tokens.md.
#ifndef PA_ENCODE_H
#define PA_ENCODE_H

#include "tokenizer/tokens.h"

enum {
    PA_LONGEST_PIECE = 24 * 60 * 60, // seconds; a longer file is refused as damaged
    PA_LONGEST_FILE = 64 << 20,      // bytes
    PA_LONGEST_PAUSE = 60,           // seconds; for longest_pause below. MAESTRO's longest is 42.7 s
};

// All zero: everything but drums, in `performance`; a damaged file is refused.
typedef struct {
    pa_encoding encoding;
    bool lenient;      // a damaged file is read as far as it can be
    bool trim_silence; // the first note is at 0
    // Only for `performance`: `midi-neural` stays as it was when models were trained with it.
    bool sostenuto;       // applies the middle pedal
    int longest_pause;    // seconds in which nothing begins or ends; longer ones are shortened to it. 0: none is
    pa_programs programs; // whose notes are encoded; empty: all but drums
} pa_encode_options;

// Reads a MIDI file and encodes it. A malformed file may abort the process (libsmf asserts); pa_encode_isolated
// survives that. PA_DATA with a reason where the file is refused or holds nothing to encode; piece->report has what was
// found before that.
pa_status pa_encode_file(const char *path, const pa_encode_options *o, pa_piece *piece, pa_err *err);
// The same from memory; the reason is without a path.
pa_status pa_encode_bytes(const uint8_t *bytes, size_t count, const pa_encode_options *o, pa_piece *piece, pa_err *err);

// When the sustain pedal is down on any channel that is encoded, in order of time, in seconds of the file. *span is
// malloc'ed. libsmf may abort the process; pa_pedal_isolated survives that.
pa_status pa_read_pedal(const uint8_t *bytes, size_t count, const pa_encode_options *o, pa_pedal_span **span,
                        size_t *spans, pa_err *err);

// Any token sequence decodes (END stops, PAD is skipped, an id past the vocabulary is PA_DATA). *notes is malloc'ed, in
// order of start.
pa_status pa_decode(const uint16_t *token, size_t count, pa_encoding e, pa_note **notes, size_t *note_count,
                    pa_err *err);

#endif
