// clean.c: MIDI bytes, checked and rewritten so that libsmf 1.3 reads them right. Knows nothing of music: what notes mean is read.c's
// part.
//
// What libsmf 1.3 does with files that other readers accept, and what stands in the clean copy instead:
// - it takes one byte for the length of a meta event, so a text of 128 bytes or more shifts all that follows: no texts;
// - running status over a meta event becomes another meta event: every event has its status byte;
// - it aborts on an empty track, cuts a track at an escape (F7), refuses SMPTE time and long headers: none is left;
// - a chunk of another kind costs it the last track, and a length past the end is read past the end: only whole MTrk chunks;
// - a tempo or metre change in a later track makes it compute the time of every event again: tempo in the first track only.
// Only notes, sustain pedal, program changes and tempo are copied, which is also three times faster than parsing everything.
#include "tokenizer/song.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    uint8_t *out;
    size_t written;
    int64_t last_tick; // of the last event written
} cleaner;

static void put(cleaner *c, const uint8_t *bytes, size_t count) {
    memcpy(c->out + c->written, bytes, count);
    c->written += count;
}

static void put_big32(uint8_t *at, uint32_t v) {
    for (int i = 0; i < 4; i++) at[i] = (uint8_t)(v >> (24 - 8 * i));
}

// An event with the time since the last one written. Sums of times take no more bytes than their terms did, so the copy never outgrows
// twice the input.
static pa_status write_event(cleaner *c, int64_t tick, const uint8_t *event, size_t count, pa_err *err) {
    uint8_t number[4];
    int used = 0;
    int64_t delta = tick - c->last_tick;
    if (delta >= 1 << 28) return pa_error(err, PA_DATA, "a pause of %lld ticks, likely a damaged file", (long long)delta);
    for (int shift = 21; shift >= 0; shift -= 7)
        if (used || shift == 0 || delta >> shift) number[used++] = (uint8_t)((delta >> shift & 127) | (shift ? 128 : 0));
    put(c, number, (size_t)used);
    put(c, event, count);
    c->last_tick = tick;
    return PA_OK;
}

static pa_status copy_event(cleaner *c, const pa_midi_event *e, bool tempo_wanted, pa_err *err) {
    if (e->status == PA_META) {
        if (!tempo_wanted || !pa_midi_tempo(e)) return PA_OK;
        return write_event(c, e->tick, (uint8_t[]){PA_META, PA_META_TEMPO, 3, e->data[0], e->data[1], e->data[2]}, 6, err);
    }
    uint8_t kind = e->status >> 4;
    bool wanted = kind == 8 || kind == 9 || kind == 0xc || (kind == 0xb && e->value[0] == 64);
    return wanted ? write_event(c, e->tick, (uint8_t[]){e->status, e->value[0], e->value[1]}, 1 + e->length, err) : PA_OK;
}

// *kept tells whether the track is in the copy: a track with nothing to say is left out, but the first, whose place is that of the tempo.
static pa_status clean_track(cleaner *c, pa_midi *midi, size_t track, bool *kept, pa_err *err) {
    size_t header = c->written;
    pa_midi_reader r = pa_midi_read(midi, track, &midi->mended);
    put(c, (const uint8_t *)"MTrk\0\0\0", 8);
    c->last_tick = 0;
    for (bool more = true; more;) {
        pa_midi_event e;
        pa_status s = pa_midi_next(&r, &e, &more, err);
        if (!s && more) s = copy_event(c, &e, track == 0, err);
        if (s) return s;
    }
    *kept = track == 0 || c->written > header + 8;
    if (!*kept) {
        c->written = header;
        return PA_OK;
    }
    put(c, (const uint8_t[]){0, PA_META, PA_META_END, 0}, 4);
    put_big32(c->out + header + 4, (uint32_t)(c->written - header - 8));
    return PA_OK;
}

static pa_status clean_tracks(cleaner *c, pa_midi *midi, pa_err *err) {
    int kept_tracks = 0;
    for (size_t t = 0; t < midi->tracks; t++) {
        bool kept = false;
        pa_status s = clean_track(c, midi, t, &kept, err);
        if (s) return s;
        kept_tracks += kept;
    }
    c->out[8] = 0, c->out[9] = kept_tracks > 1;
    c->out[10] = (uint8_t)(kept_tracks >> 8), c->out[11] = (uint8_t)kept_tracks;
    return PA_OK;
}

pa_status pa_midi_clean(pa_clean *clean, const uint8_t *bytes, size_t count, pa_err *err) {
    pa_midi midi;
    cleaner c = {0};
    *clean = (pa_clean){0};
    pa_status s = pa_midi_open(&midi, bytes, count, false, err);
    if (s) goto done;
    c.out = malloc(2 * count + 64);
    if (!c.out) {
        s = pa_error(err, PA_FAIL, "no memory for %zu bytes of MIDI", 2 * count + 64);
        goto done;
    }
    int ppqn = midi.ppqn ? midi.ppqn : 480; // libsmf needs one; with SMPTE time nothing depends on it
    put(&c, (const uint8_t *)"MThd\0\0\0\6\0\0\0\0", 12);
    put(&c, (const uint8_t[]){(uint8_t)(ppqn >> 8), (uint8_t)ppqn}, 2);
    s = clean_tracks(&c, &midi, err);
    *clean = (pa_clean){c.out, c.written, midi.ppqn, midi.ticks_per_second};
done:
    if (s) {
        free(c.out);
        *clean = (pa_clean){0};
    }
    pa_midi_clear(&midi);
    return s;
}
