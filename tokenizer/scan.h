// scan.h: parses a MIDI file's bytes: container, header, tracks, events. Knows the framing of the format and nothing of
// music.
//
// A strict reader refuses a damaged file with PA_DATA, the track and the byte. A lenient one reads as much as it can,
// and counts what it mended.
#ifndef PA_SCAN_H
#define PA_SCAN_H

#include "host/base/base.h"

typedef struct {
    size_t count;
    char first[160]; // "track 2, byte 310: a velocity of 200 read as 127"
} pa_mended;

// A track's events are bytes[first .. end) of the file.
typedef struct {
    size_t first, end;
    uint32_t length; // as the chunk has it
    bool cut;        // it runs past the end of the file
} pa_midi_track;

// Offsets count from the start of the file, its container included.
typedef struct {
    const uint8_t *bytes; // the caller's
    bool lenient;
    bool riff;               // in a RIFF wrapper
    int format;              // 0 or 1
    int announced;           // chunks that the header counts
    int ppqn;                // ticks a quarter note; 0 with SMPTE time
    double ticks_per_second; // with SMPTE time
    uint8_t division[2];     // as the header has it
    pa_midi_track *track;
    size_t tracks, room;
    size_t body, end; // where the first chunk behind the header begins, where the last chunk ends
    size_t foreign;   // chunks of other kinds
    size_t trailing;  // bytes behind the last chunk
    pa_mended mended;
} pa_midi;

// Chunks of other kinds, whole, as they stand in the file.
typedef struct {
    const uint8_t *bytes;
    size_t count;
} pa_midi_chunks;
// Those before a track, or behind the last one where track == midi->tracks.
pa_midi_chunks pa_midi_foreign(const pa_midi *midi, size_t track);

// Finds the tracks; their events are not looked at. Clear it also after an error.
pa_status pa_midi_open(pa_midi *midi, const uint8_t *bytes, size_t count, bool lenient, pa_err *err);
void pa_midi_clear(pa_midi *midi);

enum {
    PA_META = 0xff,
    PA_META_PORT = 0x21,
    PA_META_END = 0x2f,
    PA_META_TEMPO = 0x51,
};

typedef struct {
    int64_t tick;        // from the start of the piece
    size_t begin, end;   // its bytes, the delta time included
    uint8_t status;      // 0x80..0xef: a channel's, running status resolved; 0xf0..0xfe: system; PA_META
    uint8_t type;        // of a meta event
    const uint8_t *data; // behind status, type and length, as in the file
    uint32_t length;
    uint8_t value[2]; // of a channel event: its data bytes, all below 128
} pa_midi_event;

typedef struct {
    const pa_midi *midi;
    pa_mended *mended;
    size_t track; // from 0; messages count from 1
    size_t at;    // next byte
    int64_t tick;
    uint8_t running; // status; 0 before the first channel event
    bool ended;
} pa_midi_reader;

// midi stays in place while the reader is in use. mended: where a lenient reader counts; NULL: nowhere.
pa_midi_reader pa_midi_read(const pa_midi *midi, size_t track, pa_mended *mended);
// The next event; *more is false where there was none. The end of the track (PA_META_END) is an event and the last one.
pa_status pa_midi_next(pa_midi_reader *r, pa_midi_event *e, bool *more, pa_err *err);

// Bytes of the track behind the last event, zeros at their start apart: those are padding. Behind PA_META_END nothing
// is played.
size_t pa_midi_unread(const pa_midi_reader *r);

// Microseconds a quarter note; 0 for every other event and for a tempo without a meaning.
uint32_t pa_midi_tempo(const pa_midi_event *e);

void pa_mend(pa_mended *mended, const char *format, ...) __attribute__((format(printf, 2, 3))); // mended may be NULL

#endif
