// read.c: a MIDI file's bytes to notes and pedal in seconds, by instrument: tempo map, pairing of note-ons and note-offs. Parsed by
// libsmf. Knows nothing of tokens.
#include "tokenizer/song.h"

#include <smf.h>
#include <stdlib.h>
#include <string.h>

enum { CHANNELS = 16, PITCHES = 128, PROGRAMS = 128, DRUMS = 9, NONE = -1 };

typedef struct {
    int tick;
    int next; // open note of the same key that began after it, or NONE
    uint8_t velocity;
} open_note;

// What is known at one point of one track. Indexes and not pointers, because the arrays grow.
typedef struct {
    pa_song *song;
    const pa_tempo_map *map;
    size_t segment;  // of the map: the one that holds the current tick
    open_note *open; // every note-on of the track so far
    size_t opens, open_room;
    size_t still_open;
    int first[CHANNELS * PITCHES], last[CHANNELS * PITCHES]; // open notes by key, oldest first
    uint8_t program[CHANNELS];
    int part[CHANNELS][PROGRAMS]; // of the song, or NONE before its first closed note
    pa_part waiting[CHANNELS];    // pedal that came before its part's first closed note
} track_state;

static pa_status no_memory(pa_err *err) {
    return pa_error(err, PA_FAIL, "no memory for the notes of a MIDI file");
}

void *pa_grow(void *items, size_t *room, size_t count, size_t size) {
    if (count < *room) return items;
    size_t more = *room ? 2 * *room : 64;
    void *grown = realloc(items, more * size);
    if (grown) *room = more;
    return grown;
}

void pa_song_clear(pa_song *song) {
    for (size_t i = 0; i < song->parts; i++) {
        free(song->part[i].note);
        free(song->part[i].pedal);
    }
    free(song->part);
    *song = (pa_song){0};
}

// NULL without memory.
static pa_part *add_part(pa_song *song) {
    pa_part *grown = pa_grow(song->part, &song->part_room, song->parts, sizeof *grown);
    if (!grown) return NULL;
    song->part = grown;
    song->part[song->parts] = (pa_part){0};
    return &song->part[song->parts++];
}

bool pa_part_add_note(pa_part *part, pa_note note) {
    pa_note *grown = pa_grow(part->note, &part->note_room, part->notes, sizeof note);
    if (!grown) return false;
    part->note = grown;
    part->note[part->notes++] = note;
    return true;
}

// False without memory.
static bool add_pedal(pa_part *part, double time, bool down) {
    pa_pedal *grown = pa_grow(part->pedal, &part->pedal_room, part->pedals, sizeof *grown);
    if (!grown) return false;
    part->pedal = grown;
    part->pedal[part->pedals++] = (pa_pedal){time, down};
    return true;
}

// The tempos of the first track.
static bool read_tempo(const smf_track_t *track, const pa_clean *clean, pa_tempo_map *map) {
    bool ok = pa_tempo_start(map, clean->ppqn, clean->ticks_per_second);
    for (guint i = 0; i < track->events_array->len && ok; i++) {
        const smf_event_t *e = g_ptr_array_index(track->events_array, i);
        const uint8_t *b = e->midi_buffer;
        if (e->midi_buffer_length >= 6 && b[0] == PA_META && b[1] == PA_META_TEMPO)
            ok = pa_tempo_add(map, e->time_pulses, (uint32_t)(b[3] << 16 | b[4] << 8 | b[5]));
    }
    return ok;
}

// Most ticks are in the current segment; a note may have begun in an earlier one.
static double seconds_at(const track_state *t, int tick) {
    const pa_tempo *c = &t->map->change[t->segment];
    return c->tick <= tick ? c->seconds + c->scale * (double)(tick - c->tick) : pa_tempo_seconds(t->map, tick);
}

static pa_part *current_part(track_state *t, int channel) {
    int part = t->part[channel][t->program[channel]];
    return part == NONE ? NULL : &t->song->part[part];
}

// The part of a closed note. A new one takes the pedal that was waiting for it.
static pa_part *part_of_note(track_state *t, int channel) {
    pa_part *part = current_part(t, channel);
    if (part) return part;
    part = add_part(t->song);
    if (!part) return NULL;
    *part = t->waiting[channel];
    part->drums = channel == DRUMS;
    t->waiting[channel] = (pa_part){0};
    t->part[channel][t->program[channel]] = (int)t->song->parts - 1;
    return part;
}

static bool note_on(track_state *t, int channel, int pitch, int velocity, int tick) {
    open_note *grown = pa_grow(t->open, &t->open_room, t->opens, sizeof *grown);
    if (!grown) return false;
    t->open = grown;
    int key = channel * PITCHES + pitch, note = (int)t->opens++;
    t->open[note] = (open_note){tick, NONE, (uint8_t)velocity};
    if (t->first[key] == NONE)
        t->first[key] = note;
    else
        t->open[t->last[key]].next = note;
    t->last[key] = note;
    t->still_open++;
    return true;
}

// Closes every open note of the key that began earlier. Those that began on this very tick stay open if another was closed (the key was
// struck again, and the two events came in the wrong order), and are dropped otherwise.
static bool note_off(track_state *t, int channel, int pitch, int tick) {
    int key = channel * PITCHES + pitch, note = t->first[key];
    bool closed = note != NONE && t->open[note].tick < tick;
    for (; note != NONE && t->open[note].tick < tick; note = t->open[note].next) {
        pa_part *part = part_of_note(t, channel);
        pa_note n = {seconds_at(t, t->open[note].tick), seconds_at(t, tick), (uint8_t)pitch, t->open[note].velocity, 0};
        if (!part || !pa_part_add_note(part, n)) return false;
        t->still_open--;
    }
    for (int n = note; n != NONE && !closed; n = t->open[n].next) t->still_open--, t->song->unclosed++;
    t->first[key] = closed ? note : NONE;
    return true;
}

static bool read_event(track_state *t, const uint8_t *b, int tick) {
    int channel = b[0] & 15;
    switch (b[0] >> 4) {
    case 0x9:
        return b[2] ? note_on(t, channel, b[1], b[2], tick) : note_off(t, channel, b[1], tick);
    case 0x8:
        return note_off(t, channel, b[1], tick);
    case 0xb: {
        pa_part *part = current_part(t, channel);
        return add_pedal(part ? part : &t->waiting[channel], seconds_at(t, tick), b[2] >= 64);
    }
    case 0xc:
        t->program[channel] = b[1];
    }
    return true;
}

static pa_status read_track(track_state *t, const smf_track_t *track, pa_err *err) {
    t->opens = t->still_open = t->segment = 0;
    memset(t->first, 0xff, sizeof t->first); // NONE
    memset(t->part, 0xff, sizeof t->part);
    memset(t->program, 0, sizeof t->program);
    for (guint i = 0; i < track->events_array->len; i++) {
        const smf_event_t *e = g_ptr_array_index(track->events_array, i);
        if (e->midi_buffer[0] == 0xff) continue;
        while (t->segment + 1 < t->map->count && t->map->change[t->segment + 1].tick <= e->time_pulses) t->segment++;
        double now = seconds_at(t, e->time_pulses);
        if (now > PA_LONGEST_PIECE)
            return pa_error(err, PA_DATA, "expected at most %d s of music, found an event at %.0f s", PA_LONGEST_PIECE, now);
        if (!read_event(t, e->midi_buffer, e->time_pulses)) return no_memory(err);
    }
    t->song->unclosed += t->still_open;
    for (int c = 0; c < CHANNELS; c++) {
        free(t->waiting[c].pedal);
        t->waiting[c] = (pa_part){0};
    }
    return PA_OK;
}

static pa_status read_tracks(pa_song *song, const smf_t *smf, const pa_clean *clean, pa_err *err) {
    pa_tempo_map map = {0};
    track_state *t = calloc(1, sizeof *t);
    pa_status s = PA_OK;
    if (!t) return no_memory(err);
    t->song = song;
    t->map = &map;
    for (guint i = 0; i < smf->tracks_array->len && !s; i++) {
        const smf_track_t *track = g_ptr_array_index(smf->tracks_array, i);
        s = i || read_tempo(track, clean, &map) ? read_track(t, track, err) : no_memory(err);
    }
    for (int c = 0; c < CHANNELS; c++) free(t->waiting[c].pedal);
    free(t->open);
    free(t);
    pa_tempo_clear(&map);
    return s;
}

// smf_delete takes the events out of their tracks one by one, in quadratic time. Events that belong to no track and tracks that hold no
// events are freed in linear time.
static void free_song(smf_t *smf) {
    for (guint i = 0; i < smf->tracks_array->len; i++) {
        smf_track_t *track = g_ptr_array_index(smf->tracks_array, i);
        for (guint k = 0; k < track->events_array->len; k++) {
            smf_event_t *e = g_ptr_array_index(track->events_array, k);
            e->track = NULL;
            smf_event_delete(e);
        }
        g_ptr_array_set_size(track->events_array, 0);
        track->number_of_events = 0;
    }
    smf_delete(smf);
}

// libsmf tells glib's log what it finds, and may go on without the rest of a track. Any message is a reason to refuse the file.
static void keep_message(const gchar *domain, GLogLevelFlags level, const gchar *message, gpointer text) {
    (void)domain;
    (void)level;
    snprintf(text, sizeof((pa_err *)0)->text, "%s", message);
}

pa_status pa_song_read(pa_song *song, const uint8_t *bytes, size_t count, pa_err *err) {
    pa_clean clean;
    pa_err log = {""};
    *song = (pa_song){0};
    pa_status s = pa_midi_clean(&clean, bytes, count, err);
    if (s) return s;
    GLogFunc handler = g_log_set_default_handler(keep_message, log.text);
    smf_t *smf = smf_load_from_memory(clean.bytes, (int)clean.count);
    if (!smf || log.text[0])
        s = pa_error(err, PA_DATA, "libsmf refuses the file: %s", log.text);
    else
        s = read_tracks(song, smf, &clean, err);
    if (smf) free_song(smf);
    g_log_set_default_handler(handler, NULL);
    free(clean.bytes);
    if (s) pa_song_clear(song);
    return s;
}
