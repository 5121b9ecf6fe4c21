// clean.c: MIDI bytes, checked and rewritten so that libsmf 1.3 reads them right. Knows the framing of the file format and nothing of
// music: what notes mean is read.c's part.
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
    const uint8_t *in;
    size_t at, end; // of the input: next byte, end of the chunk
    uint8_t *out;
    size_t written;
    int track;         // from 1
    int64_t tick;      // of the event being read
    int64_t last_tick; // of the last one written
    uint8_t status;    // running status; 0 before the first channel message
    bool whole;        // the track's chunk is not cut by the end of the file
    bool ended;        // the end of the track was read
    pa_err *err;
} cleaner;

static uint32_t big32(const uint8_t *b) {
    return (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
}

static void put(cleaner *c, const uint8_t *bytes, size_t count) {
    memcpy(c->out + c->written, bytes, count);
    c->written += count;
}

static void put_big32(uint8_t *at, uint32_t v) {
    for (int i = 0; i < 4; i++) at[i] = (uint8_t)(v >> (24 - 8 * i));
}

static pa_status cut_short(cleaner *c) {
    return pa_error(c->err, PA_DATA, "track %d, byte %zu: expected the rest of an event, found the end of the %s", c->track, c->at,
                    c->whole ? "track" : "file; it is cut short");
}

// A number in 7-bit groups, most significant first.
static pa_status read_number(cleaner *c, uint32_t *value) {
    *value = 0;
    for (int i = 0; i < 4; i++) {
        if (c->at >= c->end) return cut_short(c);
        uint8_t b = c->in[c->at++];
        *value = *value << 7 | (b & 127);
        if (b < 128) return PA_OK;
    }
    return pa_error(c->err, PA_DATA, "track %d, byte %zu: expected a number of at most 4 bytes, found a longer one", c->track, c->at - 4);
}

// An event with the time since the last one written. Sums of times take no more bytes than their terms did, so the copy never outgrows
// twice the input.
static pa_status write_event(cleaner *c, const uint8_t *event, size_t count) {
    uint8_t number[4];
    int used = 0;
    int64_t delta = c->tick - c->last_tick;
    if (delta >= 1 << 28)
        return pa_error(c->err, PA_DATA, "track %d, byte %zu: a pause of %lld ticks, likely a damaged file", c->track, c->at,
                        (long long)delta);
    for (int shift = 21; shift >= 0; shift -= 7)
        if (used || shift == 0 || delta >> shift) number[used++] = (uint8_t)((delta >> shift & 127) | (shift ? 128 : 0));
    put(c, number, (size_t)used);
    put(c, event, count);
    c->last_tick = c->tick;
    return PA_OK;
}

static pa_status meta_event(cleaner *c) {
    uint32_t length;
    if (c->at >= c->end) return cut_short(c);
    uint8_t type = c->in[c->at++];
    pa_status s = read_number(c, &length);
    if (s) return s;
    if (length > c->end - c->at) return cut_short(c);
    const uint8_t *data = c->in + c->at;
    c->at += length;
    c->ended = type == 0x2f;
    if (type != 0x51 || c->track > 1 || length < 3 || !(data[0] | data[1] | data[2])) return PA_OK;
    return write_event(c, (uint8_t[]){0xff, 0x51, 3, data[0], data[1], data[2]}, 6);
}

static pa_status skip_system(cleaner *c, uint8_t status) {
    uint32_t length = 0;
    switch (status) {
    case 0xf0:
    case 0xf7: {
        pa_status s = read_number(c, &length);
        if (s) return s;
        break;
    }
    case 0xf4:
    case 0xf5:
        return pa_error(c->err, PA_DATA, "track %d, byte %zu: expected an event, found the undefined status 0x%02x", c->track, c->at - 1,
                        status);
    case 0xf2:
        length = 2;
        break;
    case 0xf1:
    case 0xf3:
        length = 1;
    }
    if (length > c->end - c->at) return cut_short(c);
    c->at += length;
    return PA_OK;
}

static pa_status channel_event(cleaner *c) {
    uint8_t event[3] = {c->status}, kind = c->status >> 4;
    size_t count = kind == 0xc || kind == 0xd ? 2 : 3;
    for (size_t i = 1; i < count; i++) {
        if (c->at >= c->end) return cut_short(c);
        event[i] = c->in[c->at++];
        if (event[i] > 127)
            return pa_error(c->err, PA_DATA, "track %d, byte %zu: expected a data byte below 128, found 0x%02x", c->track, c->at - 1,
                            event[i]);
    }
    bool wanted = kind == 8 || kind == 9 || kind == 0xc || (kind == 0xb && event[1] == 64);
    return wanted ? write_event(c, event, count) : PA_OK;
}

static pa_status clean_event(cleaner *c) {
    uint32_t delta;
    pa_status s = read_number(c, &delta);
    if (s) return s;
    c->tick += delta;
    if (c->tick > INT32_MAX)
        return pa_error(c->err, PA_DATA, "track %d, byte %zu: tick %lld, likely a damaged file", c->track, c->at, (long long)c->tick);
    if (c->at >= c->end) return cut_short(c);
    uint8_t b = c->in[c->at];
    if (b >= 0xf0) {
        c->at++;
        return b == 0xff ? meta_event(c) : skip_system(c, b);
    }
    if (b >= 0x80) {
        c->status = b;
        c->at++;
    }
    if (!c->status) return pa_error(c->err, PA_DATA, "track %d, byte %zu: expected a status byte, found 0x%02x", c->track, c->at, b);
    return channel_event(c);
}

// Copies the track whose chunk begins at c->at; *kept tells whether it is in the copy: a track with nothing to say is left out, but the
// first, whose place is that of the tempo.
static pa_status clean_track(cleaner *c, size_t count, uint32_t length, bool *kept) {
    size_t header = c->written;
    c->whole = length <= count - c->at;
    put(c, (const uint8_t *)"MTrk\0\0\0", 8);
    c->end = c->whole ? c->at + length : count;
    c->tick = c->last_tick = 0;
    c->status = 0;
    c->ended = false;
    while (c->at < c->end && !c->ended) {
        pa_status s = clean_event(c);
        if (s) return s;
    }
    if (!c->ended && !c->whole)
        return pa_error(c->err, PA_DATA, "track %d: expected %u bytes, found the end of the file; it is cut short", c->track, length);
    c->at = c->end;
    *kept = c->track == 1 || c->written > header + 8;
    if (!*kept) {
        c->written = header;
        return PA_OK;
    }
    put(c, (const uint8_t[]){0, 0xff, 0x2f, 0}, 4);
    put_big32(c->out + header + 4, (uint32_t)(c->written - header - 8));
    return PA_OK;
}

static pa_status clean_tracks(cleaner *c, size_t count, int announced) {
    int kept_tracks = 0;
    while (c->track < announced) {
        if (count - c->at < 8) return pa_error(c->err, PA_DATA, "expected %d tracks, found %d; it is cut short", announced, c->track);
        const uint8_t *chunk = c->in + c->at;
        uint32_t length = big32(chunk + 4);
        c->at += 8;
        if (memcmp(chunk, "MTrk", 4)) { // a chunk of another kind
            c->at = length <= count - c->at ? c->at + length : count;
            continue;
        }
        bool kept = false;
        c->track++;
        pa_status s = clean_track(c, count, length, &kept);
        if (s) return s;
        kept_tracks += kept;
    }
    c->out[8] = 0, c->out[9] = kept_tracks > 1;
    c->out[10] = (uint8_t)(kept_tracks >> 8), c->out[11] = (uint8_t)kept_tracks;
    return PA_OK;
}

// SMPTE time: frames a second (29 stands for 30 / 1.001) and ticks a frame.
static pa_status read_division(pa_clean *clean, const uint8_t *division, pa_err *err) {
    if (division[0] < 128) {
        clean->ppqn = division[0] << 8 | division[1];
        return clean->ppqn ? PA_OK : pa_error(err, PA_DATA, "header: expected ticks a quarter note, found 0");
    }
    int frames = 256 - division[0];
    if ((frames != 24 && frames != 25 && frames != 29 && frames != 30) || division[1] == 0)
        return pa_error(err, PA_DATA, "header: expected 24, 25, 29 or 30 frames a second and ticks a frame, found %d and %d", frames,
                        division[1]);
    clean->ticks_per_second = (frames == 29 ? 30000 / 1001.0 : frames) * division[1];
    return PA_OK;
}

pa_status pa_midi_clean(pa_clean *clean, const uint8_t *bytes, size_t count, pa_err *err) {
    *clean = (pa_clean){0};
    if (count >= 20 && !memcmp(bytes, "RIFF", 4) && !memcmp(bytes + 8, "RMIDdata", 8)) bytes += 20, count -= 20;
    if (count < 14 || memcmp(bytes, "MThd", 4)) return pa_error(err, PA_DATA, "not a MIDI file: expected MThd at its start");
    uint32_t header = big32(bytes + 4);
    int type = bytes[8] << 8 | bytes[9], tracks = bytes[10] << 8 | bytes[11];
    if (header < 6 || header > count - 8)
        return pa_error(err, PA_DATA, "header: expected at least 6 bytes inside the file, found a length of %u", header);
    if (type > 1) return pa_error(err, PA_DATA, "header: expected type 0 or 1, found %d", type);
    if (tracks == 0) return pa_error(err, PA_DATA, "header: expected tracks, found none");
    pa_status s = read_division(clean, bytes + 12, err);
    if (s) return s;

    cleaner c = {.in = bytes, .at = 8 + header, .out = malloc(2 * count + 64), .err = err};
    if (!c.out) return pa_error(err, PA_FAIL, "no memory for %zu bytes of MIDI", 2 * count + 64);
    put(&c, (const uint8_t *)"MThd\0\0\0\6\0\0\0\0", 12);
    int ppqn = clean->ppqn ? clean->ppqn : 480; // libsmf needs one; with SMPTE time nothing depends on it
    put(&c, (const uint8_t[]){(uint8_t)(ppqn >> 8), (uint8_t)ppqn}, 2);
    s = clean_tracks(&c, count, tracks);
    if (s) {
        free(c.out);
        return s;
    }
    clean->bytes = c.out;
    clean->count = c.written;
    return PA_OK;
}
