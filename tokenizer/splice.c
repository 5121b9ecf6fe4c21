// splice.c: see splice.h. Two passes over the file: the first finds what is held at the cut, the second copies.
#include "tokenizer/splice.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tokenizer/tempo.h"
#include "tokenizer/track.h"

enum { CHANNELS = 16, PITCHES = 128, DRUMS = 9, PEDALS = 3, SOUNDS = 8 };
static const uint8_t pedal_control[PEDALS] = {64, 66, 67}; // sustain, sostenuto, soft
// Bank, volume, pan, expression, effects; the last place is the program's.
static const uint8_t sound_control[SOUNDS] = {0, 32, 7, 10, 11, 91, 93, 255};

// What a track holds down at the cut: 0, or 1 + the port of the latest press. Kept by track and not by file: a key or
// pedal that another track releases is released twice, which does no harm.
typedef struct {
    uint8_t key[CHANNELS][PITCHES];
    uint8_t pedal[CHANNELS][PEDALS];
    int port; // of the track's next event; -1: none given
} held_state;

typedef struct {
    int64_t tick;
    uint8_t value;
    bool set;
} setting;

// The last event of its kind before the cut, in any track.
typedef struct {
    int64_t tick;
    const uint8_t *data;
    uint32_t length;
} meta_state;

typedef struct {
    const pa_splice *s;
    pa_midi midi;
    pa_tempo_map map;
    int64_t keep, begin; // ticks: of the first event that is dropped, of the continuation
    held_state *held;    // of each track
    bool used[CHANNELS];
    size_t strikes[CHANNELS];
    setting sound[CHANNELS][SOUNDS];
    meta_state tempo, metre, key;
    int port[CHANNELS]; // of the last track that uses the channel; -1: none given
} splicer;

// ---- times

static int64_t nearest_tick(const splicer *x, double seconds) {
    int64_t tick = pa_tempo_tick(&x->map, seconds);
    if (tick > 0 && seconds - pa_tempo_seconds(&x->map, tick - 1) < pa_tempo_seconds(&x->map, tick) - seconds) tick--;
    return tick > x->begin ? tick : x->begin;
}

static int64_t end_of_pitch(const splicer *x, int pitch) {
    return nearest_tick(x, x->s->held[pitch]);
}

// ---- the first pass

static void press(const held_state *h, uint8_t *held, bool down) {
    uint8_t here = (uint8_t)(h->port < 0 ? 1 : h->port + 1);
    if (down)
        *held = here;
    else if (*held == here)
        *held = 0;
}

static void note_control(splicer *x, held_state *h, int channel, const pa_midi_event *e) {
    for (int p = 0; p < PEDALS; p++)
        if (e->value[0] == pedal_control[p]) press(h, &h->pedal[channel][p], e->value[1] >= 64);
    for (int i = 0; i < SOUNDS; i++) {
        setting *s = &x->sound[channel][i];
        bool loudness = sound_control[i] == 7 || sound_control[i] == 11; // the loudest: a primer may fade out
        bool newer = !s->set || (loudness ? e->value[1] >= s->value : e->tick >= s->tick);
        if (e->value[0] == sound_control[i] && newer) *s = (setting){e->tick, e->value[1], true};
    }
}

static void note_channel_event(splicer *x, held_state *h, const pa_midi_event *e) {
    int channel = e->status & 15;
    setting *program = &x->sound[channel][SOUNDS - 1];
    x->used[channel] = true;
    switch (e->status >> 4) {
    case 0x9:
        press(h, &h->key[channel][e->value[0]], e->value[1] > 0);
        x->strikes[channel] += e->value[1] > 0;
        break;
    case 0x8:
        press(h, &h->key[channel][e->value[0]], false);
        break;
    case 0xb:
        note_control(x, h, channel, e);
        break;
    case 0xc:
        if (!program->set || e->tick >= program->tick) *program = (setting){e->tick, e->value[0], true};
    }
}

static void note_meta(splicer *x, const pa_midi_event *e, int *port) {
    enum { METRE = 0x58, KEY = 0x59 };
    meta_state *m = e->type == PA_META_TEMPO ? &x->tempo
                    : e->type == METRE       ? &x->metre
                    : e->type == KEY         ? &x->key
                                             : NULL;
    if (e->type == PA_META_PORT && e->length == 1) *port = e->data[0] & 127;
    if (m && e->length <= 8 && (!m->data || e->tick >= m->tick)) *m = (meta_state){e->tick, e->data, e->length};
}

static pa_status find_held(splicer *x, size_t track, pa_err *err) {
    pa_midi_reader r = pa_midi_read(&x->midi, track, NULL);
    held_state *h = &x->held[track];
    h->port = -1;
    for (bool more = true;;) {
        pa_midi_event e;
        pa_status s = pa_midi_next(&r, &e, &more, err);
        if (s || !more || e.tick >= x->keep) return s;
        if (e.status == PA_META) note_meta(x, &e, &h->port);
        if (e.status >= 0xf0) continue;
        note_channel_event(x, h, &e);
        x->port[e.status & 15] = h->port;
    }
}

// ---- the second pass

// Copies an event's bytes. Where a lenient reader mended or left out something, or running status would be wrong after
// that, it writes the event anew.
static void copy_event(splicer *x, pa_track *t, const pa_midi_event *e, size_t *copied, uint8_t *running) {
    const uint8_t *bytes = x->midi.bytes;
    size_t at = e->begin;
    while (bytes[at] & 128) at++; // the delta time
    bool says_status = bytes[at + 1] & 128, whole = e->begin == *copied && (says_status || e->status == *running);
    for (uint32_t i = 0; i < e->length && e->status < 0xf0; i++) whole = whole && e->data[i] == e->value[i];
    *copied = e->end;
    if (whole) {
        pa_track_copy(t, e->tick, bytes + e->begin, e->end - e->begin);
    } else if (e->status < 0xf0) {
        pa_track_put(t, e->tick, (const uint8_t[]){e->status, e->value[0], e->value[1]}, 1 + e->length);
    } else {
        pa_track_put(t, e->tick, bytes + at + 1, e->end - at - 1);
    }
    if (e->status < 0xf0) *running = e->status;
}

typedef struct {
    int64_t tick;
    uint8_t event[3], port;
} release;

static int by_tick(const void *a, const void *b) {
    const release *x = a, *y = b;
    if (x->tick != y->tick) return x->tick < y->tick ? -1 : 1;
    if (x->port != y->port) return x->port < y->port ? -1 : 1;
    return memcmp(x->event, y->event, 3);
}

// Whether the pitch is down on some key of the file, drums apart.
static bool key_is_down(const splicer *x, int pitch) {
    for (size_t t = 0; t < x->midi.tracks; t++)
        for (int c = 0; c < CHANNELS; c++)
            if (c != DRUMS && x->held[t].key[c][pitch]) return true;
    return false;
}

static int64_t pedal_end(const splicer *x) {
    int64_t last = x->begin;
    for (int p = 0; p < PITCHES; p++) {
        int64_t end = end_of_pitch(x, p);
        if (end > last && !key_is_down(x, p)) last = end;
    }
    return last;
}

static bool release_held(const splicer *x, size_t track, int64_t pedal_up, pa_track *t) {
    const held_state *h = &x->held[track];
    size_t count = 0;
    release *r = malloc(CHANNELS * (PITCHES + PEDALS) * sizeof *r);
    if (!r) return false;
    for (int c = 0; c < CHANNELS; c++) {
        for (int p = 0; p < PITCHES; p++)
            if (h->key[c][p])
                r[count++] = (release){.tick = c == DRUMS ? x->begin : end_of_pitch(x, p),
                                       .event = {(uint8_t)(0x80 | c), (uint8_t)p, 64},
                                       .port = h->key[c][p] - 1};
        for (int p = 0; p < PEDALS; p++)
            if (h->pedal[c][p])
                r[count++] = (release){
                    .tick = pedal_up, .event = {(uint8_t)(0xb0 | c), pedal_control[p], 0}, .port = h->pedal[c][p] - 1};
    }
    qsort(r, count, sizeof *r, by_tick);
    int port = h->port < 0 ? 0 : h->port;
    for (size_t i = 0; i < count; i++) {
        int64_t tick = r[i].tick > t->tick ? r[i].tick : t->tick;
        if (r[i].port != port) pa_track_put(t, tick, (const uint8_t[]){0xff, PA_META_PORT, 1, r[i].port}, 4);
        port = r[i].port;
        pa_track_put(t, tick, r[i].event, 3);
    }
    free(r);
    return true;
}

static pa_status copy_track(splicer *x, size_t track, int64_t pedal_up, pa_track *t, pa_err *err) {
    pa_midi_reader r = pa_midi_read(&x->midi, track, NULL);
    size_t copied = x->midi.track[track].first;
    int64_t end = x->begin;
    uint8_t running = 0;
    for (bool more = true;;) {
        pa_midi_event e;
        pa_status s = pa_midi_next(&r, &e, &more, err);
        if (s) return s;
        if (!more || e.tick >= x->keep) break;
        if (e.status == PA_META && e.type == PA_META_END) {
            end = e.tick;
            break;
        }
        copy_event(x, t, &e, &copied, &running);
    }
    if (!release_held(x, track, pedal_up, t)) t->failed = true;
    pa_track_end(t, end);
    return PA_OK;
}

// ---- the continuation

static int main_channel(const splicer *x) {
    int most = 0;
    for (int c = 0; c < CHANNELS; c++)
        if (c != DRUMS && x->strikes[c] > x->strikes[most]) most = c;
    return most;
}

// One that the file leaves unused, else that of the piano.
static int free_channel(const splicer *x) {
    for (int c = 0; c < CHANNELS; c++)
        if (c != DRUMS && !x->used[c]) return c;
    return main_channel(x);
}

static void put_sound(const splicer *x, pa_track *t, int channel) {
    int from = main_channel(x);
    if (x->port[from] >= 0) pa_track_put(t, 0, (const uint8_t[]){0xff, PA_META_PORT, 1, (uint8_t)x->port[from]}, 4);
    if (from == channel && !x->s->bare) return; // shared
    for (int i = 0; i < SOUNDS - 1; i++) {
        const setting *s = &x->sound[from][i];
        if (s->set) pa_track_put(t, 0, (const uint8_t[]){(uint8_t)(0xb0 | channel), sound_control[i], s->value}, 3);
    }
    pa_track_put(t, 0, (const uint8_t[]){(uint8_t)(0xc0 | channel), x->sound[from][SOUNDS - 1].value}, 2);
}

static void put_meta(pa_track *t, uint8_t type, const meta_state *m) {
    uint8_t event[3 + 8] = {0xff, type, (uint8_t)m->length};
    if (!m->data) return;
    memcpy(event + 3, m->data, m->length);
    pa_track_put(t, 0, event, 3 + m->length);
}

static pa_tick_note tick_note(const splicer *x, const pa_note *n) {
    int64_t start = nearest_tick(x, n->start), end = nearest_tick(x, n->end), from = x->s->bare ? x->begin : 0;
    return (pa_tick_note){start - from, end - from, n->pitch, n->velocity};
}

static pa_status put_continuation(const splicer *x, pa_track *t, pa_err *err) {
    static const char name[] = "patrain continuation";
    const pa_splice *s = x->s;
    int channel = s->bare ? main_channel(x) : free_channel(x);
    pa_tick_note *note = malloc((s->notes + 1) * sizeof *note);
    if (!note) return pa_error(err, PA_FAIL, "no memory for %zu notes", s->notes);
    for (size_t i = 0; i < s->notes; i++) note[i] = tick_note(x, &s->note[i]);
    pa_track_text(t, 0, 0x03, name);
    if (s->bare) {
        put_meta(t, PA_META_TEMPO, &x->tempo);
        put_meta(t, 0x58, &x->metre);
        put_meta(t, 0x59, &x->key);
    }
    put_sound(x, t, channel);
    if (!s->bare) pa_track_text(t, x->begin, 0x06, name);
    pa_track_notes(t, channel, note, s->notes);
    pa_track_end(t, 0);
    free(note);
    return PA_OK;
}

// ---- all of it

static pa_status open_splicer(splicer *x, const pa_splice *s, pa_err *err) {
    *x = (splicer){.s = s};
    memset(x->port, 0xff, sizeof x->port); // -1
    pa_status status = pa_midi_open(&x->midi, s->bytes, s->count, s->lenient, err);
    if (!status) status = pa_tempo_read(&x->map, &x->midi, err);
    if (status) return status;
    x->keep = isfinite(s->keep) ? pa_tempo_tick(&x->map, s->keep) : INT64_MAX;
    while (x->map.count > 1 && x->map.change[x->map.count - 1].tick >= x->keep) x->map.count--;
    x->begin = pa_tempo_tick(&x->map, s->cut);
    x->held = calloc(x->midi.tracks + 1, sizeof *x->held);
    if (!x->held) return pa_error(err, PA_FAIL, "no memory for %zu tracks", x->midi.tracks);
    for (size_t i = 0; i < x->midi.tracks && !status; i++) status = find_held(x, i, err);
    return status;
}

static void close_splicer(splicer *x) {
    free(x->held);
    pa_tempo_clear(&x->map);
    pa_midi_clear(&x->midi);
}

pa_status pa_splice_write(const char *path, const pa_splice *s, pa_err *err) {
    splicer *x = malloc(sizeof *x); // large
    pa_track *track = NULL;
    pa_midi_chunks *between = NULL;
    size_t tracks = 0;
    if (!x) return pa_error(err, PA_FAIL, "%s: no memory", path);
    pa_status status = open_splicer(x, s, err);
    if (status) goto done;
    size_t own = s->bare ? 0 : x->midi.tracks;
    tracks = own + 1;
    track = calloc(tracks, sizeof *track);
    between = calloc(tracks + 1, sizeof *between);
    if (!track || !between) {
        status = pa_error(err, PA_FAIL, "%s: no memory for %zu tracks", path, tracks);
        goto done;
    }
    int64_t pedal_up = own ? pedal_end(x) : 0;
    for (size_t i = 0; i < own && !status; i++) {
        between[i] = pa_midi_foreign(&x->midi, i);
        status = copy_track(x, i, pedal_up, &track[i], err);
    }
    if (own)
        // Behind the continuation: many readers stop at a chunk that is no track.
        between[tracks] = pa_midi_foreign(&x->midi, own);
    if (!status) status = put_continuation(x, &track[own], err);
    pa_smf file = {.format = s->bare ? 0 : 1, .track = track, .tracks = tracks, .between = between};
    memcpy(file.division, x->midi.division, 2);
    if (!status) status = pa_smf_write(path, &file, err);
done:
    for (size_t i = 0; i < tracks && track; i++) pa_track_clear(&track[i]);
    free(track);
    free(between);
    close_splicer(x);
    free(x);
    return status;
}
