// tokens.h: MIDI file <-> notes <-> tokens. Knows nothing of models. The rules are in docs: tokenizer/README.md.
#ifndef PA_TOKENS_H
#define PA_TOKENS_H

#include "host/base/base.h"

enum {
    PA_NOTE_ON = 0,      // + pitch
    PA_NOTE_OFF = 128,   // + pitch
    PA_TIME_SHIFT = 256, // + steps of 10 ms - 1, steps 1..100
    PA_VELOCITY = 356,   // + bin 0..31
    PA_END = 388,
    PA_PAD = 389,
    PA_VOCAB = 390,
};

typedef enum { PA_PERFORMANCE, PA_MIDI_NEURAL } pa_encoding;
const char *pa_encoding_name(pa_encoding e);
pa_status pa_encoding_parse(const char *name, pa_encoding *e, pa_err *err); // PA_USAGE lists the names

typedef struct {
    double start, end; // seconds
    uint8_t pitch, velocity;
    uint32_t token; // of decoded notes: the number of the token that began it
} pa_note;

typedef struct {
    uint16_t *token;
    size_t count;
    double seconds;        // of the piece: end of its last note, before the pedal
    size_t notes, dropped; // notes encoded; notes of the file without a token: never closed, zero length, drums, …
} pa_piece;

// Reads a MIDI file and encodes it. In this process: a malformed file may abort it (libsmf asserts); pa_encode_isolated does not.
// PA_DATA with a reason where the file is refused. Frees with pa_piece_clear.
pa_status pa_encode_file(const char *path, pa_encoding e, pa_piece *piece, pa_err *err);
// The same in a forked worker: a file that kills its worker is PA_DATA, "… the MIDI reader stopped with signal …". PA_USAGE where there is
// no such file.
pa_status pa_encode_isolated(const char *path, pa_encoding e, pa_piece *piece, pa_err *err);
void pa_piece_clear(pa_piece *piece);

// Any token sequence decodes (END stops, PAD is skipped, an id past the vocabulary is PA_DATA). *notes is malloc'ed, in order of start.
pa_status pa_decode(const uint16_t *token, size_t count, pa_encoding e, pa_note **notes, size_t *note_count, pa_err *err);
// Seconds of music in a token sequence: the sum of its time shifts.
double pa_token_seconds(const uint16_t *token, size_t count);
// A type-0 file, atomically: piano, 120 bpm, ticks fine enough for 10 ms steps to be exact.
pa_status pa_midi_write(const char *path, const pa_note *notes, size_t count, pa_err *err);
// "NOTE_ON 60", "TIME_SHIFT 0.25 s": one event's name for --events.
void pa_token_text(uint16_t token, char *text, size_t size);

#endif
