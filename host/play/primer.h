// primer.h: what pagen continues: the tokens of a MIDI file or of a piece of a token file, up to where the continuation
// begins.
#ifndef PA_PRIMER_H
#define PA_PRIMER_H

#include "host/play/library.h"
#include "tokenizer/tokens.h"

typedef struct {
    const char *path;     // a MIDI file, or TOKENS.safetensors[:PIECE] (piece 0 by default); NULL: no primer
    int64_t steps;        // of 10 ms; the cut is there. INT64_MAX: at the end of the music
    size_t tokens;        // the cut is behind this many. SIZE_MAX: all
    bool strict;          // a damaged MIDI file is refused
    bool sostenuto;       // applies the middle pedal
    bool pedal;           // reads when the sustain pedal is down
    pa_programs programs; // whose notes are continued; empty: all but drums
} pa_primer_options;

// All zero: no primer.
typedef struct {
    pa_encoding encoding;
    char name[256]; // of the file
    uint16_t *token;
    size_t count;
    size_t before; // tokens before the first note that begins at the cut: all, but for options.tokens
    // Of a MIDI file; bytes is NULL for a token file.
    uint8_t *bytes;
    size_t size;
    bool lenient;
    double keep, cut;     // seconds of the file: as in pa_splice
    pa_pedal_span *pedal; // with options.pedal, when it is down, in order of time, in seconds from the first token
    size_t pedals;
    bool whole; // nothing is cut off: the file stays to its end, which may be later than the music's
} pa_primer;

// Reads a MIDI file in the checkpoint's encoding, without silence before the first note, or a token file, and cuts it:
// the last TIME_SHIFT is shortened to end at the cut, and no note begins there. What was left out or mended is reported
// on stderr. PA_USAGE where the cut is before the first note.
pa_status pa_primer_read(pa_primer *p, const patrain_model *model, const pa_primer_options *o, pa_err *err);
void pa_primer_clear(pa_primer *p);
double pa_primer_seconds(const pa_primer *p); // of its tokens

// Takes TOKENS.safetensors[:PIECE] apart; a path of another kind goes to `file` as it is. True for a token file.
bool pa_split_piece(const char *path, char *file, size_t size, int64_t *piece);
bool pa_ends_with(const char *text, const char *end); // in upper or lower case

#endif
