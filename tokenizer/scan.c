// scan.c: see scan.h.
#include "tokenizer/scan.h"

#include "host/base/format.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static uint32_t big32(const uint8_t *b) {
    return (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
}

static uint32_t little32(const uint8_t *b) {
    return (uint32_t)b[3] << 24 | (uint32_t)b[2] << 16 | (uint32_t)b[1] << 8 | b[0];
}

void pa_mend(pa_mended *mended, const char *format, ...) {
    va_list args;
    if (!mended || mended->count++) return;
    va_start(args, format);
    vsnprintf(mended->first, sizeof mended->first, format, args);
    va_end(args);
}

// ---- chunks

// RIFF chunks have little-endian lengths and are padded to even ones. A writer that forgets the padding goes straight
// on with a name.
static pa_status open_riff(const uint8_t *bytes, size_t *at, size_t *end, pa_err *err) {
    for (size_t i = 12; *end - i >= 8;) {
        uint32_t length = little32(bytes + i + 4);
        bool found = !memcmp(bytes + i, "data", 4);
        i += 8;
        if (length > *end - i || (found && !length)) length = (uint32_t)(*end - i); // 0: never filled in
        if (found) {
            *at = i;
            *end = i + length;
            return PA_OK;
        }
        i += length;
        if (length % 2 && i < *end && (bytes[i] < ' ' || bytes[i] > '~')) i++;
    }
    return pa_error(err, PA_DATA, "RIFF wrapper: expected a data chunk, found none");
}

// SMPTE time: frames a second (29 stands for 30 / 1.001) and ticks a frame.
static pa_status read_division(pa_midi *m, const uint8_t *division, pa_err *err) {
    memcpy(m->division, division, 2);
    if (division[0] < 128) {
        m->ppqn = division[0] << 8 | division[1];
        return m->ppqn ? PA_OK : pa_error(err, PA_DATA, "header: expected ticks a quarter note, found 0");
    }
    int frames = 256 - division[0];
    if ((frames != 24 && frames != 25 && frames != 29 && frames != 30) || division[1] == 0)
        return pa_error(err, PA_DATA,
                        "header: expected 24, 25, 29 or 30 frames a second and ticks a frame, found %d and %d", frames,
                        division[1]);
    m->ticks_per_second = (frames == 29 ? 30000 / 1001.0 : frames) * division[1];
    return PA_OK;
}

static pa_status read_header(pa_midi *m, size_t *at, size_t end, pa_err *err) {
    const uint8_t *b = m->bytes + *at;
    size_t count = end - *at;
    if (pa_format_of(m->bytes, end) == PA_FORMAT_AUDIO)
        return pa_error(err, PA_DATA, "expected a MIDI file, found audio; audio must be transcribed to MIDI first");
    if (count < 14 || memcmp(b, "MThd", 4))
        return pa_error(err, PA_DATA, "not a MIDI file: expected MThd at its start");
    uint32_t length = big32(b + 4);
    if (length < 6 || length > count - 8)
        return pa_error(err, PA_DATA, "header: expected at least 6 bytes inside the file, found a length of %u",
                        length);
    m->format = b[8] << 8 | b[9];
    m->announced = b[10] << 8 | b[11];
    if (m->format > 1) return pa_error(err, PA_DATA, "header: expected type 0 or 1, found %d", m->format);
    *at += 8 + length;
    m->body = *at;
    return read_division(m, b + 12, err);
}

static pa_status add_track(pa_midi *m, pa_midi_track track, pa_err *err) {
    if (m->tracks == m->room) {
        size_t room = m->room ? 2 * m->room : 16;
        pa_midi_track *grown = realloc(m->track, room * sizeof *grown);
        if (!grown) return pa_error(err, PA_FAIL, "no memory for %zu tracks", room);
        m->track = grown;
        m->room = room;
    }
    m->track[m->tracks++] = track;
    return PA_OK;
}

// Where the next track begins; end without one.
static size_t find_track(const uint8_t *bytes, size_t at, size_t end) {
    const uint8_t *found = end > at ? memmem(bytes + at, end - at, "MTrk", 4) : NULL;
    return found ? (size_t)(found - bytes) : end;
}

// A track by its name. One byte of the name may be damaged: no kind of chunk has a name that near.
static pa_status check_name(pa_midi *m, size_t at, bool *is_track, pa_err *err) {
    const uint8_t *name = m->bytes + at;
    char found[5] = "";
    int same = 0;
    for (int i = 0; i < 4; i++) {
        same += name[i] == "MTrk"[i];
        found[i] = name[i] < ' ' || name[i] > '~' ? '?' : (char)name[i];
    }
    *is_track = same >= 3;
    if (same != 3) return PA_OK;
    if (!m->lenient) return pa_error(err, PA_DATA, "byte %zu: expected a track named MTrk, found '%s'", at, found);
    pa_mend(&m->mended, "byte %zu: a chunk named '%s' read as a track", at, found);
    return PA_OK;
}

// All tracks up to the end, however many the header counts: some writers count chunks of other kinds too. A second
// header is another song.
static pa_status find_tracks(pa_midi *m, size_t at, size_t end, pa_err *err) {
    while (end - at >= 8 && memcmp(m->bytes + at, "MThd", 4)) {
        pa_midi_track t = {.first = at + 8, .length = big32(m->bytes + at + 4)};
        bool is_track, counted = m->tracks + m->foreign >= (size_t)m->announced;
        pa_status s = check_name(m, at, &is_track, err);
        if (s) return s;
        t.cut = t.length > end - t.first;
        t.end = !t.cut ? t.first + t.length : m->lenient ? find_track(m->bytes, t.first, end) : end;
        if (t.cut && t.end < end)
            pa_mend(&m->mended,
                    "byte %zu: a chunk of %u bytes runs past the end of the file; it ends where the next track begins",
                    at, t.length);
        if (!is_track && t.cut && t.end == end && counted) break;
        if (is_track) s = add_track(m, t, err);
        if (s) return s;
        m->foreign += !is_track && !t.cut;
        at = t.end;
    }
    m->trailing = end - at;
    m->end = at;
    return PA_OK;
}

pa_status pa_midi_open(pa_midi *m, const uint8_t *bytes, size_t count, bool lenient, pa_err *err) {
    size_t at = 0, end = count;
    pa_status s = PA_OK;
    *m = (pa_midi){.bytes = bytes, .lenient = lenient};
    m->riff = count >= 12 && !memcmp(bytes, "RIFF", 4) && !memcmp(bytes + 8, "RMID", 4);
    if (m->riff) s = open_riff(bytes, &at, &end, err);
    if (!s) s = read_header(m, &at, end, err);
    if (!s) s = find_tracks(m, at, end, err);
    if (s) return s;
    if (!m->tracks) return pa_error(err, PA_DATA, "expected tracks, found none; it is cut short");
    if (m->tracks + m->foreign >= (size_t)m->announced) return PA_OK;
    if (!lenient)
        return pa_error(err, PA_DATA, "expected %d tracks, found %zu; it is cut short", m->announced, m->tracks);
    pa_mend(&m->mended, "%zu of %d tracks found; the file is cut short", m->tracks, m->announced);
    return PA_OK;
}

// The last one may be cut: by the end of the file, or where the next track begins.
pa_midi_chunks pa_midi_foreign(const pa_midi *m, size_t track) {
    size_t at = track ? m->track[track - 1].end : m->body, end = track < m->tracks ? m->track[track].first - 8 : m->end;
    pa_midi_chunks found = {.bytes = m->bytes + at};
    while (end - at >= 8 && big32(m->bytes + at + 4) <= end - at - 8) at += 8 + big32(m->bytes + at + 4);
    found.count = (size_t)(m->bytes + at - found.bytes);
    return found;
}

void pa_midi_clear(pa_midi *m) {
    free(m->track);
    *m = (pa_midi){0};
}

// ---- events

pa_midi_reader pa_midi_read(const pa_midi *midi, size_t track, pa_mended *mended) {
    return (pa_midi_reader){.midi = midi, .mended = mended, .track = track, .at = midi->track[track].first};
}

static const pa_midi_track *track_of(const pa_midi_reader *r) {
    return &r->midi->track[r->track];
}

static pa_status cut_short(const pa_midi_reader *r, pa_err *err) {
    return pa_error(err, PA_DATA, "track %zu, byte %zu: expected the rest of an event, found the end of the %s",
                    r->track + 1, r->at, track_of(r)->cut ? "file; it is cut short" : "track");
}

// A number in 7-bit groups, most significant first.
static pa_status read_number(pa_midi_reader *r, uint32_t *value, pa_err *err) {
    size_t end = track_of(r)->end;
    if (r->at < end && r->midi->bytes[r->at] < 128) { // nearly always
        *value = r->midi->bytes[r->at++];
        return PA_OK;
    }
    *value = 0;
    for (int i = 0; i < 4; i++) {
        if (r->at >= end) return cut_short(r, err);
        uint8_t b = r->midi->bytes[r->at++];
        *value = *value << 7 | (b & 127);
        if (b < 128) return PA_OK;
    }
    return pa_error(err, PA_DATA, "track %zu, byte %zu: expected a number of at most 4 bytes, found a longer one",
                    r->track + 1, r->at - 4);
}

static pa_status take_data(pa_midi_reader *r, pa_midi_event *e, uint32_t length, pa_err *err) {
    if (length > track_of(r)->end - r->at) return cut_short(r, err);
    e->data = r->midi->bytes + r->at;
    e->length = length;
    r->at += length;
    return PA_OK;
}

// Meta and system events.
static pa_status read_system(pa_midi_reader *r, pa_midi_event *e, pa_err *err) {
    uint32_t length = 0;
    pa_status s = PA_OK;
    switch (e->status) {
    case PA_META:
        if (r->at >= track_of(r)->end) return cut_short(r, err);
        e->type = r->midi->bytes[r->at++];
        s = read_number(r, &length, err);
        break;
    case 0xf0:
    case 0xf7:
        s = read_number(r, &length, err);
        break;
    case 0xf4:
    case 0xf5:
        return pa_error(err, PA_DATA, "track %zu, byte %zu: expected an event, found the undefined status 0x%02x",
                        r->track + 1, r->at - 1, e->status);
    case 0xf2:
        length = 2;
        break;
    case 0xf1:
    case 0xf3:
        length = 1;
    }
    if (!s) s = take_data(r, e, length, err);
    if (!s && e->status == PA_META && e->type == PA_META_END) r->ended = true;
    return s;
}

// A lenient reader takes 127 for a second data byte that is none, and leaves out an event whose first is none: *usable.
static pa_status mend_data(pa_midi_reader *r, pa_midi_event *e, bool *usable, pa_err *err) {
    size_t at = (size_t)(e->data - r->midi->bytes);
    for (uint32_t i = 0; i < 2 && i < e->length; i++) {
        uint8_t b = e->value[i];
        if (b < 128) continue;
        if (!r->midi->lenient)
            return pa_error(err, PA_DATA, "track %zu, byte %zu: expected a data byte below 128, found 0x%02x",
                            r->track + 1, at + i, b);
        e->value[i] = 127;
        *usable = *usable && i == 1;
        pa_mend(r->mended, "track %zu, byte %zu: a data byte of %d; %s", r->track + 1, at + i, b,
                i ? "read as 127" : "the event is left out");
    }
    return PA_OK;
}

static pa_status read_channel(pa_midi_reader *r, pa_midi_event *e, bool *usable, pa_err *err) {
    uint8_t kind = e->status >> 4;
    uint32_t count = kind == 0xc || kind == 0xd ? 1 : 2;
    size_t left = track_of(r)->end - r->at;
    if (left < count) {
        r->at += left;
        return cut_short(r, err);
    }
    e->data = r->midi->bytes + r->at;
    e->length = count;
    e->value[0] = e->data[0];
    if (count == 2) e->value[1] = e->data[1];
    r->at += count;
    return (e->value[0] | e->value[1]) < 128 ? PA_OK : mend_data(r, e, usable, err);
}

static pa_status read_event(pa_midi_reader *r, pa_midi_event *e, bool *usable, pa_err *err) {
    uint32_t delta;
    pa_status s = read_number(r, &delta, err);
    if (s) return s;
    r->tick += delta;
    if (r->tick > INT32_MAX)
        return pa_error(err, PA_DATA, "track %zu, byte %zu: tick %lld, likely a damaged file", r->track + 1, r->at,
                        (long long)r->tick);
    if (r->at >= track_of(r)->end) return cut_short(r, err);
    uint8_t b = r->midi->bytes[r->at];
    r->at += b >= 0x80;
    if (b < 0x80 && !r->running)
        return pa_error(err, PA_DATA, "track %zu, byte %zu: expected a status byte, found 0x%02x", r->track + 1, r->at,
                        b);
    e->tick = r->tick;
    e->status = b < 0x80 ? r->running : b;
    if (b >= 0xf0) return read_system(r, e, err);
    r->running = e->status;
    return read_channel(r, e, usable, err);
}

pa_status pa_midi_next(pa_midi_reader *r, pa_midi_event *e, bool *more, pa_err *err) {
    const pa_midi_track *t = track_of(r);
    pa_err found; // not cleared: this is called for every event
    pa_status s = PA_OK;
    *more = true;
    while (!r->ended && r->at < t->end && !s) {
        bool usable = true;
        *e = (pa_midi_event){.begin = r->at};
        s = read_event(r, e, &usable, &found);
        e->end = r->at;
        if (!s && usable) return PA_OK;
    }
    *more = false;
    if (!s && !r->ended && t->cut)
        s = pa_error(&found, PA_DATA, "track %zu: expected %u bytes, found the end of the file; it is cut short",
                     r->track + 1, t->length);
    r->ended = true;
    if (!s) return PA_OK;
    if (!r->midi->lenient) return pa_error(err, s, "%s", found.text);
    pa_mend(r->mended, "%s; the track ends there", found.text);
    return PA_OK;
}

size_t pa_midi_unread(const pa_midi_reader *r) {
    size_t at = r->at, end = track_of(r)->end;
    while (at < end && !r->midi->bytes[at]) at++;
    return end - at;
}

uint32_t pa_midi_tempo(const pa_midi_event *e) {
    if (e->status != PA_META || e->type != PA_META_TEMPO || e->length < 3) return 0;
    return (uint32_t)e->data[0] << 16 | (uint32_t)e->data[1] << 8 | e->data[2];
}
