// song.h: what a MIDI file comes down to before it is encoded: notes and pedals in seconds. Private to tokenizer/.
// Knows nothing of tokens.
#ifndef PA_SONG_H
#define PA_SONG_H

#include "tokenizer/tokens.h"

// In the order in which events of one moment take effect in `performance`.
typedef enum {
    PA_PEDAL_DOWN,
    PA_PEDAL_UP,
    PA_SILENCE, // ends all that sounds
    PA_SOSTENUTO_UP,
    PA_NOTE_STARTS, // no pedal
    PA_SOSTENUTO_DOWN,
    PA_NOTE_ENDS,
} pa_event_kind;

typedef struct {
    double time;
    pa_event_kind kind;
} pa_pedal;

// `performance`: one channel of one port. `midi-neural`: one (program, channel, track).
typedef struct {
    pa_note *note; // in the order in which they were closed
    size_t notes, note_room;
    pa_pedal *pedal; // in order of time
    size_t pedals, pedal_room;
    bool drums; // channel 10
} pa_part;

typedef struct {
    pa_part *part; // in order of the first closed note
    size_t parts, part_room;
    double end;  // seconds: the last end of a note or pedal message
    size_t lost; // notes of the file that belong to no part: without length, of other programs, …
} pa_song;

void pa_song_clear(pa_song *song);
pa_part *pa_song_add_part(pa_song *song); // NULL without memory
// False without memory.
bool pa_part_add_note(pa_part *part, pa_note note);
bool pa_part_add_pedal(pa_part *part, pa_pedal pedal);

// Room for one more than count; NULL (items stay) without memory.
void *pa_grow(void *items, size_t *room, size_t count, size_t size);

#endif
