// read.c: see read.h. Tempo map, pairing of note-ons and note-offs, channel state. Parsed by libsmf. Knows nothing of
// tokens.
//
// One state of 16 channels serves a port of the piece (`performance`) or a track (`midi-neural`).
#include "tokenizer/read.h"

#include "tokenizer/clean.h"
#include "tokenizer/tempo.h"

#include <errno.h>
#include <math.h>
#include <smf.h>
#include <stdlib.h>
#include <string.h>

enum { CHANNELS = 16, PITCHES = 128, PROGRAMS = 128, PORTS = 256, DRUMS = 9, NONE = -1 };
enum {
    SUSTAIN = 64,
    SOSTENUTO = 66,
    ALL_SOUND_OFF = 120,
    RESET_CONTROLLERS = 121,
    ALL_NOTES_OFF = 123
};                                   // 124 to 127 imply the last
static const double SHORTEST = 0.01; // seconds, of a note that is struck on the file's last tick

typedef struct {
    int tick;
    int next; // open note of the same key that began after it, or NONE
    uint8_t velocity;
    bool wanted; // its program is asked for
} open_note;

typedef struct {
    int first[CHANNELS * PITCHES], last[CHANNELS * PITCHES]; // open notes by key, oldest first
    uint8_t program[CHANNELS];
    int part[CHANNELS][PROGRAMS]; // of the song, or NONE before its first closed note; `performance` has all of a
                                  // channel at program 0
    pa_part waiting[CHANNELS];    // pedal that came before its part's first closed note
    bool played[CHANNELS];        // a note, by now
    size_t pedal[CHANNELS];       // messages
} channels;

// What is known at one point of the piece. Indexes and not pointers, because the arrays grow.
typedef struct {
    const pa_encode_options *options;
    pa_report *report;
    pa_song *song;
    pa_tempo_map map;
    size_t segment;  // of the map: the one that holds the current tick
    open_note *open; // every note-on of the piece or track so far
    size_t opens, open_room;
    size_t still_open;
    channels *port[PORTS], *now; // the port of the next event
} reader;

static pa_status no_memory(pa_err *err) {
    return pa_error(err, PA_FAIL, "no memory for the notes of a MIDI file");
}

static bool is_neural(const reader *t) {
    return t->options->encoding == PA_MIDI_NEURAL;
}

// The tempos of the clean copy's first track.
static bool read_tempo(reader *t, const smf_track_t *track, const pa_clean *clean) {
    bool ok = pa_tempo_start(&t->map, clean->ppqn, clean->ticks_per_second);
    for (guint i = 0; i < track->events_array->len && ok; i++) {
        const smf_event_t *e = g_ptr_array_index(track->events_array, i);
        const uint8_t *b = e->midi_buffer;
        if (e->midi_buffer_length >= 6 && b[0] == PA_META && b[1] == PA_META_TEMPO)
            ok = pa_tempo_add(&t->map, e->time_pulses, (uint32_t)(b[3] << 16 | b[4] << 8 | b[5]));
    }
    if (!ok) return false;
    if (clean->ppqn) t->report->bpm = 60 / (t->map.change[0].scale * clean->ppqn);
    t->report->tempo_changes = t->map.count - 1;
    t->report->tempos_repeated = t->map.repeated;
    t->report->tempos_overwritten = t->map.overwritten;
    return true;
}

// Most ticks are in the current segment; a note may have begun in an earlier one.
static double seconds_at(const reader *t, int tick) {
    const pa_tempo *c = &t->map.change[t->segment];
    return c->tick <= tick ? c->seconds + c->scale * (double)(tick - c->tick) : pa_tempo_seconds(&t->map, tick);
}

static bool choose_port(reader *t, int port) {
    if (!t->port[port]) {
        channels *c = calloc(1, sizeof *c);
        if (!c) return false;
        memset(c->first, 0xff, sizeof c->first); // NONE
        memset(c->part, 0xff, sizeof c->part);
        t->port[port] = c;
    }
    t->now = t->port[port];
    return true;
}

static void drop_ports(reader *t) {
    for (int p = 0; p < PORTS; p++) {
        if (!t->port[p]) continue;
        for (int c = 0; c < CHANNELS; c++) {
            if (!t->port[p]->played[c]) t->report->idle_pedal += t->port[p]->pedal[c];
            free(t->port[p]->waiting[c].pedal);
        }
        free(t->port[p]);
        t->port[p] = NULL;
    }
}

// ---- parts

static int *part_index(reader *t, int channel) {
    return &t->now->part[channel][is_neural(t) ? t->now->program[channel] : 0];
}

static pa_part *current_part(reader *t, int channel) {
    int part = *part_index(t, channel);
    return part == NONE ? NULL : &t->song->part[part];
}

// The part of a closed note. A new one takes the pedal that was waiting for it.
static pa_part *part_of_note(reader *t, int channel) {
    pa_part *part = current_part(t, channel);
    if (part) return part;
    part = pa_song_add_part(t->song);
    if (!part) return NULL;
    *part = t->now->waiting[channel];
    part->drums = channel == DRUMS;
    t->now->waiting[channel] = (pa_part){0};
    *part_index(t, channel) = (int)t->song->parts - 1;
    return part;
}

static bool pedal(reader *t, int channel, pa_event_kind kind, int tick) {
    pa_part *part = current_part(t, channel);
    pa_pedal p = {seconds_at(t, tick), kind};
    t->song->end = fmax(t->song->end, p.time);
    return pa_part_add_pedal(part ? part : &t->now->waiting[channel], p);
}

// ---- notes

static bool note_on(reader *t, int channel, int pitch, int velocity, int tick) {
    open_note *grown = pa_grow(t->open, &t->open_room, t->opens, sizeof *grown);
    if (!grown) return false;
    t->open = grown;
    channels *c = t->now;
    const pa_programs *programs = &t->options->programs;
    bool wanted = is_neural(t) || channel == DRUMS || pa_programs_empty(programs) ||
                  pa_programs_has(programs, c->program[channel]);
    int key = channel * PITCHES + pitch, note = (int)t->opens++;
    t->open[note] = (open_note){tick, NONE, (uint8_t)velocity, wanted};
    if (c->first[key] == NONE)
        c->first[key] = note;
    else
        t->open[c->last[key]].next = note;
    c->last[key] = note;
    c->played[channel] = true;
    t->still_open++;
    t->report->notes++;
    t->report->drums += channel == DRUMS;
    t->report->other_programs += !wanted;
    if (channel != DRUMS) pa_programs_add(&t->report->programs, c->program[channel]);
    return true;
}

static bool close_note(reader *t, int channel, int pitch, const open_note *open, double end) {
    t->still_open--;
    t->song->end = fmax(t->song->end, end);
    if (!open->wanted) {
        t->song->lost++;
        return true;
    }
    pa_part *part = part_of_note(t, channel);
    return part && pa_part_add_note(part, (pa_note){seconds_at(t, open->tick), end, (uint8_t)pitch, open->velocity, 0});
}

// Closes every open note of the key that began earlier. Those that began on this very tick stay open if another was
// closed (the key was struck again, and the two events came in the wrong order), and are dropped otherwise.
static bool note_off(reader *t, int channel, int pitch, int tick) {
    int *first = &t->now->first[channel * PITCHES + pitch], note = *first;
    bool closed = note != NONE && t->open[note].tick < tick;
    for (; note != NONE && t->open[note].tick < tick; note = t->open[note].next)
        if (!close_note(t, channel, pitch, &t->open[note], seconds_at(t, tick))) return false;
    for (int n = note; n != NONE && !closed; n = t->open[n].next) {
        t->still_open--;
        t->song->lost++;
    }
    *first = closed ? note : NONE;
    return true;
}

static bool all_notes_off(reader *t, int channel, int tick) {
    bool ok = true;
    for (int pitch = 0; pitch < PITCHES && ok; pitch++) ok = note_off(t, channel, pitch, tick);
    return ok;
}

// Keys that are down at the end of the file sound to it.
static bool close_all(reader *t, int last_tick) {
    double end = fmin(seconds_at(t, last_tick), PA_LONGEST_PIECE);
    for (int port = 0; port < PORTS; port++) {
        t->now = t->port[port];
        for (int key = 0; key < CHANNELS * PITCHES && t->now; key++) {
            for (int note = t->now->first[key]; note != NONE; note = t->open[note].next) {
                double shortest = seconds_at(t, t->open[note].tick) + SHORTEST;
                if (!close_note(t, key / PITCHES, key % PITCHES, &t->open[note], fmax(end, shortest))) return false;
            }
        }
    }
    return true;
}

// ---- events

static bool read_controller(reader *t, int channel, int controller, int value, int tick) {
    bool down = value >= 64;
    switch (controller) {
    case SUSTAIN:
        t->now->pedal[channel]++;
        return pedal(t, channel, down ? PA_PEDAL_DOWN : PA_PEDAL_UP, tick);
    case SOSTENUTO:
        return pedal(t, channel, down ? PA_SOSTENUTO_DOWN : PA_SOSTENUTO_UP, tick);
    case RESET_CONTROLLERS:
        return pedal(t, channel, PA_PEDAL_UP, tick) &&
               (!t->options->sostenuto || pedal(t, channel, PA_SOSTENUTO_UP, tick));
    case ALL_SOUND_OFF:
        return all_notes_off(t, channel, tick) && pedal(t, channel, PA_SILENCE, tick);
    }
    return controller < ALL_NOTES_OFF || all_notes_off(t, channel, tick);
}

static bool read_event(reader *t, const uint8_t *b, int tick) {
    int channel = b[0] & 15;
    switch (b[0] >> 4) {
    case 0x9:
        return b[2] ? note_on(t, channel, b[1], b[2], tick) : note_off(t, channel, b[1], tick);
    case 0x8:
        return note_off(t, channel, b[1], tick);
    case 0xb:
        return read_controller(t, channel, b[1], b[2], tick);
    case 0xc:
        t->now->program[channel] = b[1];
        break;
    case 0xf:
        return b[1] != PA_META_PORT || choose_port(t, b[3]);
    }
    return true;
}

static pa_status check_length(double now, pa_err *err) {
    if (now <= PA_LONGEST_PIECE) return PA_OK;
    return pa_error(err, PA_DATA, "expected at most %d s of music, found an event at %.0f s", PA_LONGEST_PIECE, now);
}

static pa_status read_track(reader *t, const smf_track_t *track, pa_err *err) {
    t->opens = t->still_open = t->segment = 0;
    if (!choose_port(t, 0)) return no_memory(err);
    for (guint i = 0; i < track->events_array->len; i++) {
        const smf_event_t *e = g_ptr_array_index(track->events_array, i);
        while (t->segment + 1 < t->map.count && t->map.change[t->segment + 1].tick <= e->time_pulses) t->segment++;
        pa_status s = check_length(seconds_at(t, e->time_pulses), err);
        if (s) return s;
        if (!read_event(t, e->midi_buffer, e->time_pulses)) return no_memory(err);
    }
    return PA_OK;
}

static pa_status read_tracks(reader *t, const smf_t *smf, const pa_clean *clean, pa_err *err) {
    pa_status s = PA_OK;
    for (guint i = 0; i < smf->tracks_array->len && !s; i++) {
        const smf_track_t *track = g_ptr_array_index(smf->tracks_array, i);
        s = i || read_tempo(t, track, clean) ? read_track(t, track, err) : no_memory(err);
        t->report->unclosed += t->still_open;
        if (!s && is_neural(t))
            t->song->lost += t->still_open;
        else if (!s && !close_all(t, (int)clean->last_tick))
            s = no_memory(err);
        drop_ports(t);
    }
    if (s) return s;
    double idle = pa_tempo_seconds(&t->map, clean->last_idle);
    t->song->end = fmax(t->song->end, idle);
    t->report->seconds = pa_tempo_seconds(&t->map, clean->last_tick);
    return check_length(idle, err);
}

// smf_delete takes the events out of their tracks one by one, in quadratic time. Events that belong to no track and
// tracks that hold no events are freed in linear time.
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

// libsmf logs problems through glib and may drop the rest of a track. Any message is a reason to refuse the file.
static void keep_message(const gchar *domain, GLogLevelFlags level, const gchar *message, gpointer text) {
    (void)domain;
    (void)level;
    snprintf(text, sizeof((pa_err *)0)->text, "%s", message);
}

pa_status pa_song_read(pa_song *song, const uint8_t *bytes, size_t count, const pa_encode_options *o, pa_report *report,
                       pa_err *err) {
    pa_clean clean;
    pa_err log = {""};
    *song = (pa_song){0};
    pa_status s = pa_midi_clean(&clean, bytes, count, o, report, err);
    reader *t = s ? NULL : calloc(1, sizeof *t);
    if (!t) {
        free(clean.bytes);
        return s ? s : no_memory(err);
    }
    *t = (reader){.options = o, .report = report, .song = song};
    GLogFunc handler = g_log_set_default_handler(keep_message, log.text);
    errno = 0;
    smf_t *smf = smf_load_from_memory(clean.bytes, (int)clean.count);
    if ((!smf || log.text[0]) && errno == ENOMEM)
        s = no_memory(err);
    else if (!smf || log.text[0])
        s = pa_error(err, PA_DATA, "libsmf refuses the file: %s", log.text);
    else
        s = read_tracks(t, smf, &clean, err);
    if (smf) free_song(smf);
    g_log_set_default_handler(handler, NULL);
    pa_tempo_clear(&t->map);
    free(t->open);
    free(t);
    free(clean.bytes);
    if (s) pa_song_clear(song);
    return s;
}
