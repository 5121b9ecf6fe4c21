// clean.c: see clean.h. Knows nothing of music: what notes mean is read.c's part.
//
// What libsmf 1.3 does with files that other readers accept, and what stands in the clean copy instead:
// - it takes one byte for the length of a meta event, so a text of 128 bytes or more shifts all that follows: no texts;
// - running status over a meta event becomes another meta event: every event has its status byte;
// - it aborts on an empty track, cuts a track at an escape (F7), refuses SMPTE time and long headers: none is left;
// - a chunk of another kind costs it the last track, and a length past the end is read past the end: only whole MTrk
// chunks;
// - a tempo or metre change in a later track makes it compute the time of every event again: tempo in the first track
// only. Only notes, pedals, program changes, tempo and what ends all notes are copied, which is also three times faster
// than parsing everything.
#include "tokenizer/clean.h"

#include "tokenizer/moments.h"
#include "tokenizer/song.h"

#include <stdlib.h>
#include <string.h>

enum { PORTS = 256, CHANNELS = 16, SUSTAIN = 64, RESET_CONTROLLERS = 121 };
enum { MOST_EVENT_BYTES = 16 }; // in the copy: a port message and the event itself, with their times

typedef struct {
    int32_t tick;
    uint8_t port, count, byte[6];
} event;

// The sustain pedal of a channel. `midi-neural` needs `down` only: after its last message.
typedef struct {
    int32_t tick;         // of its last message
    bool down;            // before that tick
    bool pressed, lifted; // on that tick
    bool played;          // a note, by now
} sustain;

typedef struct {
    const pa_encode_options *options;
    pa_report *report;
    event *event; // in order of (track, place)
    size_t events, room;
    uint8_t *out;
    size_t written;
    int32_t last_tick, last_idle; // of the last event written, of the last message left out
    sustain sustain[PORTS][CHANNELS];
} cleaner;

// ---- what is copied

static void count_controller(pa_report *r, int controller) {
    if (controller == 64)
        r->pedal++;
    else if (controller == 66)
        r->sostenuto++;
    else if (controller == 67)
        r->soft++;
    else if (controller == 120 || controller >= 123)
        r->all_off++;
}

static bool controller_wanted(const pa_encode_options *o, int controller) {
    if (o->encoding == PA_MIDI_NEURAL) return controller == 64;
    return controller == 64 || (controller == 66 && o->sostenuto) || controller == 120 || controller == 121 ||
           controller >= 123;
}

static bool add_event(cleaner *c, int64_t tick, uint8_t port, const uint8_t byte[6], size_t count) {
    event *grown = pa_grow(c->event, &c->room, c->events, sizeof *grown);
    if (!grown) return false;
    c->event = grown;
    event *e = &c->event[c->events++];
    e->tick = (int32_t)tick;
    e->port = port;
    e->count = (uint8_t)count;
    memcpy(e->byte, byte, sizeof e->byte);
    return true;
}

static bool take_event(cleaner *c, const pa_midi_event *e, uint8_t port, bool tempo_wanted) {
    if (e->status == PA_META) {
        uint32_t tempo = pa_midi_tempo(e);
        if (!tempo) return true;
        c->report->tempos_left_out += !tempo_wanted;
        const uint8_t byte[6] = {PA_META, PA_META_TEMPO, 3, e->data[0], e->data[1], e->data[2]};
        return !tempo_wanted || add_event(c, e->tick, port, byte, sizeof byte);
    }
    uint8_t kind = e->status >> 4;
    if (kind == 0xb) count_controller(c->report, e->value[0]);
    bool wanted = kind == 8 || kind == 9 || kind == 0xc || (kind == 0xb && controller_wanted(c->options, e->value[0]));
    const uint8_t byte[6] = {e->status, e->value[0], e->value[1]};
    return !wanted || add_event(c, e->tick, port, byte, 1 + e->length);
}

static pa_status take_track(cleaner *c, pa_midi *midi, size_t track, int64_t *last_tick, pa_err *err) {
    bool tempo_wanted = track == 0 || c->options->encoding == PA_PERFORMANCE;
    pa_midi_reader r = pa_midi_read(midi, track, &midi->mended);
    uint8_t port = 0;
    for (;;) {
        pa_midi_event e;
        bool more;
        pa_status s = pa_midi_next(&r, &e, &more, err);
        if (s) return s;
        if (r.tick > *last_tick) *last_tick = r.tick;
        if (!more) return PA_OK;
        if (e.status == PA_META && e.type == PA_META_PORT && e.length) port = e.data[0];
        if (e.status == PA_META && e.type == PA_META_END) c->report->unread_bytes += pa_midi_unread(&r);
        if (!take_event(c, &e, port, tempo_wanted))
            return pa_error(err, PA_FAIL, "no memory for the events of a MIDI file");
    }
}

// ---- the copy

static void put(cleaner *c, const uint8_t *bytes, size_t count) {
    memcpy(c->out + c->written, bytes, count);
    c->written += count;
}

static void put_big32(uint8_t *at, uint32_t v) {
    for (int i = 0; i < 4; i++) at[i] = (uint8_t)(v >> (24 - 8 * i));
}

// With the time since the last event. There is room for all of byte[].
static pa_status put_event(cleaner *c, int32_t tick, const uint8_t byte[6], size_t count, pa_err *err) {
    int32_t delta = tick - c->last_tick;
    if (delta >= 1 << 28) return pa_error(err, PA_DATA, "a pause of %d ticks, likely a damaged file", delta);
    bool begun = false;
    for (int shift = delta < 128 ? 0 : 21; shift >= 0; shift -= 7) {
        begun = begun || shift == 0 || delta >> shift;
        if (begun) c->out[c->written++] = (uint8_t)((delta >> shift & 127) | (shift ? 128 : 0));
    }
    memcpy(c->out + c->written, byte, 6);
    c->written += count;
    c->last_tick = tick;
    return PA_OK;
}

static bool make_room(cleaner *c, size_t events) {
    size_t most = c->written + 32 + events * MOST_EVENT_BYTES;
    uint8_t *grown = realloc(c->out, most);
    if (grown) c->out = grown;
    return grown != NULL;
}

// `performance` takes what is pressed on a tick before what is lifted, whatever their order.
static bool is_idle_in_performance(sustain *s, const event *e, bool press) {
    if (e->tick != s->tick) {
        s->down = !s->lifted && (s->pressed || s->down);
        s->pressed = s->lifted = false;
        s->tick = e->tick;
    }
    bool idle = press ? s->down || s->lifted : !s->down && !s->pressed;
    s->pressed = s->pressed || press;
    s->lifted = s->lifted || !press;
    return idle;
}

// `midi-neural`: every lift counts. A press that follows another counts if the program has changed: it is another
// part's.
static bool is_idle_in_neural(sustain *s, bool press) {
    bool idle = press && s->down;
    s->down = press;
    return idle;
}

// Whether a sustain message changes nothing: pianos send the pedal's position, so nine of ten repeat the last one.
// Before a channel's first note all stay, so that read.c can count those of channels without a note.
static bool is_idle(cleaner *c, const event *e) {
    bool neural = c->options->encoding == PA_MIDI_NEURAL;
    uint8_t kind = e->byte[0] >> 4;
    sustain *s = &c->sustain[neural ? 0 : e->port][e->byte[0] & 15];
    if (kind == 0x9 && e->byte[2]) s->played = true;
    if (kind == 0xc && neural) s->down = false;
    if (kind != 0xb || (e->byte[1] != SUSTAIN && e->byte[1] != RESET_CONTROLLERS)) return false;
    bool press = e->byte[1] == SUSTAIN && e->byte[2] >= 64;
    bool idle = neural ? is_idle_in_neural(s, press) : is_idle_in_performance(s, e, press);
    return idle && s->played && e->byte[1] == SUSTAIN;
}

// c->event[0 .. events) as a track.
static pa_status put_track(cleaner *c, size_t events, pa_err *err) {
    size_t header = c->written;
    uint8_t port = 0;
    pa_status s = make_room(c, events) ? PA_OK : pa_error(err, PA_FAIL, "no memory for %zu MIDI events", events);
    if (s) return s;
    put(c, (const uint8_t *)"MTrk\0\0\0", 8);
    c->last_tick = 0;
    memset(c->sustain, 0, sizeof c->sustain);
    for (size_t i = 0; i < events && !s; i++) {
        const event *e = &c->event[i];
        if (is_idle(c, e)) {
            if (e->tick > c->last_idle) c->last_idle = e->tick;
            continue;
        }
        if (e->port != port && c->options->encoding == PA_PERFORMANCE)
            s = put_event(c, e->tick, (const uint8_t[6]){PA_META, PA_META_PORT, 1, e->port}, 4, err);
        port = e->port;
        if (!s) s = put_event(c, e->tick, e->byte, e->count, err);
    }
    put(c, (const uint8_t[]){0, PA_META, PA_META_END, 0}, 4);
    put_big32(c->out + header + 4, (uint32_t)(c->written - header - 8));
    return s;
}

// Sorts by tick; at equal ticks the order of (track, place) stays.
static bool sort_events(cleaner *c) {
    size_t i = 1;
    while (i < c->events && c->event[i - 1].tick <= c->event[i].tick) i++;
    if (i >= c->events) return true;
    pa_moment *moment = malloc(c->events * sizeof *moment);
    event *sorted = malloc(c->events * sizeof *sorted);
    for (i = 0; moment && i < c->events; i++) moment[i] = (pa_moment){c->event[i].tick, 0, (uint32_t)i};
    bool ok = moment && sorted && pa_moment_sort(moment, c->events);
    for (i = 0; ok && i < c->events; i++) sorted[i] = c->event[moment[i].index];
    free(moment);
    if (!ok) {
        free(sorted);
        return false;
    }
    free(c->event);
    c->event = sorted;
    c->room = c->events;
    return true;
}

static pa_status put_merged(cleaner *c, pa_midi *midi, int64_t *last_tick, pa_err *err) {
    pa_status s = PA_OK;
    for (size_t t = 0; t < midi->tracks && !s; t++) s = take_track(c, midi, t, last_tick, err);
    if (!s && !sort_events(c)) s = pa_error(err, PA_FAIL, "no memory for %zu MIDI events", c->events);
    return s ? s : put_track(c, c->events, err);
}

// A track with nothing to say is left out, but the first, whose place is that of the tempo.
static pa_status put_tracks(cleaner *c, pa_midi *midi, size_t tracks, int64_t *last_tick, pa_err *err) {
    int kept = 0;
    for (size_t t = 0; t < tracks; t++) {
        c->events = 0;
        pa_status s = take_track(c, midi, t, last_tick, err);
        if (!s && t && !c->events) continue;
        if (!s) s = put_track(c, c->events, err);
        if (s) return s;
        kept++;
    }
    c->out[9] = kept > 1;
    c->out[10] = (uint8_t)(kept >> 8);
    c->out[11] = (uint8_t)kept;
    return PA_OK;
}

static void describe(const pa_midi *midi, size_t tracks, pa_report *r) {
    r->riff = midi->riff;
    r->format = midi->format;
    r->announced = midi->announced;
    r->tracks = tracks;
    r->tracks_left_out = midi->tracks - tracks;
    r->foreign_chunks = midi->foreign;
    r->trailing_bytes = midi->trailing;
    r->ppqn = midi->ppqn;
    r->ticks_per_second = midi->ticks_per_second;
}

pa_status pa_midi_clean(pa_clean *clean, const uint8_t *bytes, size_t count, const pa_encode_options *o,
                        pa_report *report, pa_err *err) {
    pa_midi midi;
    cleaner c = {.options = o, .report = report};
    *clean = (pa_clean){0};
    pa_status s = pa_midi_open(&midi, bytes, count, o->lenient, err);
    if (s) goto done;
    size_t tracks = midi.tracks;
    if (o->encoding == PA_MIDI_NEURAL && tracks > (size_t)midi.announced) tracks = (size_t)midi.announced;
    describe(&midi, tracks, report);
    if (!tracks) {
        s = pa_error(err, PA_DATA, "header: expected tracks, found none");
        goto done;
    }
    if (!make_room(&c, 0)) {
        s = pa_error(err, PA_FAIL, "no memory for the header of a MIDI file");
        goto done;
    }
    int ppqn = midi.ppqn ? midi.ppqn : 480; // libsmf needs one; with SMPTE time nothing depends on it
    put(&c, (const uint8_t *)"MThd\0\0\0\6\0\0\0\1", 12);
    put(&c, (const uint8_t[]){(uint8_t)(ppqn >> 8), (uint8_t)ppqn}, 2);
    clean->ppqn = midi.ppqn;
    clean->ticks_per_second = midi.ticks_per_second;
    s = o->encoding == PA_PERFORMANCE ? put_merged(&c, &midi, &clean->last_tick, err)
                                      : put_tracks(&c, &midi, tracks, &clean->last_tick, err);
    report->mended = midi.mended;
done:
    free(c.event);
    pa_midi_clear(&midi);
    if (s) {
        free(c.out);
        *clean = (pa_clean){0};
        return s;
    }
    clean->last_idle = c.last_idle;
    clean->bytes = c.out;
    clean->count = c.written;
    return PA_OK;
}
