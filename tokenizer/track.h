// track.h: writes MIDI files: builds tracks event by event, then writes them as one file. Knows nothing of tokens.
#ifndef PA_TRACK_H
#define PA_TRACK_H

#include "tokenizer/scan.h"

typedef struct {
    uint8_t *bytes; // malloc'ed
    size_t count, room;
    int64_t tick; // of the last event
    bool failed;  // no memory, or a pause of more than 2^28 - 1 ticks
} pa_track;

// An event at a tick, not before the last one: its bytes without the delta time.
void pa_track_put(pa_track *t, int64_t tick, const uint8_t *event, size_t count);
void pa_track_text(pa_track *t, int64_t tick, uint8_t type, const char *text); // a meta event; at most 127 bytes
// Bytes as they are, delta time included, that bring the track to `tick`.
void pa_track_copy(pa_track *t, int64_t tick, const uint8_t *bytes, size_t count);
void pa_track_end(pa_track *t, int64_t tick); // the end-of-track event, not before the last one
void pa_track_clear(pa_track *t);

typedef struct {
    int64_t start, end;
    uint8_t pitch, velocity;
} pa_tick_note;

// Puts notes in any order, which get sorted; none starts before the last event. A note lasts at least one tick, and a
// key sounds once at a time: struck again, it is released first. Of notes that start together on a key the longest
// stays.
void pa_track_notes(pa_track *t, int channel, pa_tick_note *note, size_t count);

typedef struct {
    int format;
    uint8_t division[2]; // as in the header
    const pa_track *track;
    size_t tracks;
    const pa_midi_chunks *between; // before each track and behind the last; NULL: none
} pa_smf;

// Writes the file atomically. PA_FAIL where a track has failed.
pa_status pa_smf_write(const char *path, const pa_smf *f, pa_err *err);

#endif
