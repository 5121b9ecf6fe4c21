// song.h: what a MIDI file comes down to before it is encoded: notes and pedal by instrument, in seconds. Private to tokenizer/.
// Knows nothing of tokens.
#ifndef PA_SONG_H
#define PA_SONG_H

#include "tokenizer/tempo.h"
#include "tokenizer/tokens.h"

enum {
    PA_LONGEST_PIECE = 24 * 60 * 60, // seconds; what is longer is a damaged file, and would be all time shifts
    PA_LONGEST_FILE = 64 << 20,      // bytes
};

typedef struct {
    double time;
    bool down;
} pa_pedal;

// The notes of one (program, channel, track), in the order in which they were closed, and its sustain pedal in order of time.
typedef struct {
    pa_note *note;
    size_t notes, note_room;
    pa_pedal *pedal;
    size_t pedals, pedal_room;
    bool drums; // channel 10
} pa_part;

typedef struct {
    pa_part *part; // in order of the first closed note
    size_t parts, part_room;
    size_t unclosed; // notes of the file that were never closed, or lasted no tick
} pa_song;

void pa_song_clear(pa_song *song);
bool pa_part_add_note(pa_part *part, pa_note note);                  // false without memory
void *pa_grow(void *items, size_t *room, size_t count, size_t size); // room for one more than count; NULL (items stay) without memory

// A MIDI file's bytes. PA_DATA with a reason where they are refused.
pa_status pa_song_read(pa_song *song, const uint8_t *bytes, size_t count, pa_err *err);

// The two encodings. piece->token is malloc'ed; a song without notes is an empty piece.
pa_status pa_performance_encode(const pa_song *song, pa_piece *piece, pa_err *err);
pa_status pa_neural_encode(const pa_song *song, pa_piece *piece, pa_err *err);
pa_status pa_encode_song(const pa_song *song, pa_encoding e, pa_piece *piece, pa_err *err);
// Their inverses: notes in order of start, added to an empty part. Every token is below PA_VOCAB. False without memory.
bool pa_performance_decode(const uint16_t *token, size_t count, pa_part *part);
bool pa_neural_decode(const uint16_t *token, size_t count, pa_part *part);

// MIDI bytes, checked and rewritten so that libsmf 1.3 reads them right: see clean.c. *clean is malloc'ed.
typedef struct {
    uint8_t *bytes;
    size_t count;
    int ppqn;                // ticks a quarter note; 0 with SMPTE time
    double ticks_per_second; // with SMPTE time
} pa_clean;
pa_status pa_midi_clean(pa_clean *clean, const uint8_t *bytes, size_t count, pa_err *err);

// Stable sort by (time, order). index is carried along.
typedef struct {
    double time;
    uint32_t order, index;
} pa_moment;
bool pa_moment_sort(pa_moment *moment, size_t count); // false without memory

// Tokens as they are written.
typedef struct {
    uint16_t *token;
    size_t count, room;
} pa_writer;
bool pa_writer_add(pa_writer *w, int token);
bool pa_writer_shift(pa_writer *w, int64_t steps); // TIME_SHIFTs of at most 100 steps; none for 0

#endif
