// tokens.h: the vocabulary of tokens; notes and pieces. Knows nothing of files or models. The rules of the encodings
// are in docs/tokens.md.
#ifndef PA_TOKENS_H
#define PA_TOKENS_H

#include "tokenizer/report.h"

enum {
    PA_NOTE_ON = 0,      // + pitch
    PA_NOTE_OFF = 128,   // + pitch
    PA_TIME_SHIFT = 256, // + steps of 10 ms - 1, steps 1..100
    PA_VELOCITY = 356,   // + bin 0..31
    PA_END = 388,
    PA_PAD = 389,
    PA_VOCAB = 390,
    PA_MOST_STEPS = 100, // of one TIME_SHIFT
    PA_STEPS_A_SECOND = 100,
};

static inline bool pa_is_note_on(int token) {
    return token < PA_NOTE_OFF;
}
static inline bool pa_is_note_off(int token) {
    return token >= PA_NOTE_OFF && token < PA_TIME_SHIFT;
}
static inline bool pa_is_note(int token) { // on or off
    return token < PA_TIME_SHIFT;
}
static inline bool pa_is_time_shift(int token) {
    return token >= PA_TIME_SHIFT && token < PA_VELOCITY;
}
static inline bool pa_is_velocity(int token) {
    return token >= PA_VELOCITY && token < PA_END;
}
static inline int pa_pitch_of(int token) { // of a note
    return token & 127;
}
static inline int pa_shift_steps(int token) { // 0 for what is no TIME_SHIFT
    return pa_is_time_shift(token) ? token - PA_TIME_SHIFT + 1 : 0;
}
static inline uint16_t pa_shift_of(int steps) { // 1 to PA_MOST_STEPS
    return (uint16_t)(PA_TIME_SHIFT + steps - 1);
}
static inline int pa_velocity_bin(int token) {
    return token - PA_VELOCITY;
}
// Of the encoding performance.
static inline int pa_performance_bin(int velocity) { // 1 to 127
    return (velocity - 1) / 4;
}
static inline int pa_performance_velocity(int token) {
    return pa_velocity_bin(token) * 4 + 1;
}

typedef enum { PA_PERFORMANCE, PA_MIDI_NEURAL } pa_encoding;
const char *pa_encoding_name(pa_encoding e);
pa_status pa_encoding_parse(const char *name, pa_encoding *e, pa_err *err); // PA_USAGE lists the names

typedef struct {
    double start, end; // seconds
    uint8_t pitch, velocity;
    uint32_t token; // of decoded notes: the number of the token that began it
} pa_note;

typedef struct {
    double down, up; // seconds
} pa_pedal_span;

typedef struct {
    uint16_t *token; // malloc'ed
    size_t count;
    double seconds;        // of the piece: end of its last note, before the pedal
    size_t notes, dropped; // notes encoded; notes of the file without a token: no length, drums, …
    pa_report report;
} pa_piece;
void pa_piece_clear(pa_piece *piece);

// Seconds of music in a token sequence: the sum of its time shifts.
double pa_token_seconds(const uint16_t *token, size_t count);
// "NOTE_ON 60", "TIME_SHIFT 0.25 s": one event's name for --events.
void pa_token_text(uint16_t token, char *text, size_t size);

#endif
