// track.c: see track.h. Written by hand and not with libsmf, whose smf_save replaces the file in place and may leave
// half of one.
#include "tokenizer/track.h"

#include "host/base/file.h"

#include <stdlib.h>
#include <string.h>

enum { LONGEST_DELTA = (1 << 28) - 1, PITCHES = 128 };

static void add(pa_track *t, const uint8_t *bytes, size_t count) {
    if (t->failed) return;
    if (t->room - t->count < count) {
        size_t room = 2 * t->room + count + 256;
        uint8_t *grown = realloc(t->bytes, room);
        t->failed = !grown;
        if (!grown) return;
        t->bytes = grown;
        t->room = room;
    }
    memcpy(t->bytes + t->count, bytes, count);
    t->count += count;
}

// A number in groups of seven bits, most significant first.
static void add_number(pa_track *t, int64_t value) {
    uint8_t group[4];
    size_t used = 0;
    if (value < 0 || value > LONGEST_DELTA) {
        t->failed = true;
        return;
    }
    for (int shift = 21; shift >= 0; shift -= 7)
        if (used || shift == 0 || value >> shift) group[used++] = (uint8_t)((value >> shift & 127) | (shift ? 128 : 0));
    add(t, group, used);
}

void pa_track_put(pa_track *t, int64_t tick, const uint8_t *event, size_t count) {
    add_number(t, tick - t->tick);
    add(t, event, count);
    t->tick = tick;
}

void pa_track_text(pa_track *t, int64_t tick, uint8_t type, const char *text) {
    uint8_t event[3 + 127] = {0xff, type, (uint8_t)strnlen(text, 127)};
    memcpy(event + 3, text, event[2]);
    pa_track_put(t, tick, event, 3 + (size_t)event[2]);
}

void pa_track_copy(pa_track *t, int64_t tick, const uint8_t *bytes, size_t count) {
    add(t, bytes, count);
    t->tick = tick;
}

void pa_track_end(pa_track *t, int64_t tick) {
    pa_track_put(t, tick > t->tick ? tick : t->tick, (const uint8_t[]){0xff, 0x2f, 0}, 3);
}

void pa_track_clear(pa_track *t) {
    free(t->bytes);
    *t = (pa_track){0};
}

// ---- notes

typedef struct {
    int64_t tick;
    size_t note;
    uint8_t status, pitch, velocity;
} key_event;

static int by_time(const void *x, const void *y) {
    const key_event *a = x, *b = y;
    if (a->tick != b->tick) return a->tick < b->tick ? -1 : 1;
    if (a->status != b->status) return a->status < b->status ? -1 : 1; // note-offs (0x80) before note-ons (0x90)
    return a->note < b->note ? -1 : a->note > b->note;
}

static int by_start(const void *x, const void *y) {
    const pa_tick_note *a = x, *b = y;
    if (a->start != b->start) return a->start < b->start ? -1 : 1;
    if (a->end != b->end) return a->end < b->end ? -1 : 1;
    if (a->pitch != b->pitch) return a->pitch < b->pitch ? -1 : 1;
    return a->velocity < b->velocity ? -1 : a->velocity > b->velocity;
}

static size_t key_events(const pa_tick_note *note, size_t count, key_event *e) {
    size_t used = 0, next_of_pitch[PITCHES];
    for (int p = 0; p < PITCHES; p++) next_of_pitch[p] = count;
    for (size_t i = count; i-- > 0;) {
        int pitch = note[i].pitch & 127;
        size_t next = next_of_pitch[pitch];
        int64_t start = note[i].start, end = note[i].end > start ? note[i].end : start + 1;
        if (next < count && note[next].start <= start) continue;
        if (next < count && note[next].start < end) end = note[next].start;
        next_of_pitch[pitch] = i;
        uint8_t velocity = note[i].velocity < 1 ? 1 : note[i].velocity > 127 ? 127 : note[i].velocity;
        e[used++] = (key_event){start, i, 0x90, (uint8_t)pitch, velocity};
        e[used++] = (key_event){end, i, 0x80, (uint8_t)pitch, 64};
    }
    qsort(e, used, sizeof *e, by_time);
    return used;
}

void pa_track_notes(pa_track *t, int channel, pa_tick_note *note, size_t count) {
    key_event *e = malloc((2 * count + 1) * sizeof *e);
    if (!e) {
        t->failed = true;
        return;
    }
    if (count) qsort(note, count, sizeof *note, by_start);
    size_t events = key_events(note, count, e);
    for (size_t i = 0; i < events; i++)
        pa_track_put(t, e[i].tick, (const uint8_t[]){(uint8_t)(e[i].status | channel), e[i].pitch, e[i].velocity}, 3);
    free(e);
}

// ---- the file

static void put_big(uint8_t *at, uint64_t value, int bytes) {
    for (int i = 0; i < bytes; i++) at[i] = (uint8_t)(value >> 8 * (bytes - 1 - i));
}

static void put_between(FILE *out, const pa_smf *f, size_t track) {
    if (f->between && f->between[track].count) fwrite(f->between[track].bytes, 1, f->between[track].count, out);
}

pa_status pa_smf_write(const char *path, const pa_smf *f, pa_err *err) {
    pa_file file;
    uint8_t header[14] = {'M', 'T', 'h', 'd', 0, 0, 0, 6}, chunk[8] = {'M', 'T', 'r', 'k'};
    for (size_t i = 0; i < f->tracks; i++)
        if (f->track[i].failed || f->track[i].count > UINT32_MAX)
            return pa_error(err, PA_FAIL, "%s: no memory for track %zu, or too long a pause in it", path, i + 1);
    if (f->tracks > UINT16_MAX)
        return pa_error(err, PA_DATA, "%s: expected at most 65535 tracks, found %zu", path, f->tracks);
    pa_status s = pa_file_create(&file, path, err);
    if (s) return s;
    put_big(header + 8, (uint64_t)f->format, 2);
    put_big(header + 10, f->tracks, 2);
    memcpy(header + 12, f->division, 2);
    fwrite(header, 1, sizeof header, file.stream);
    for (size_t i = 0; i < f->tracks; i++) {
        put_between(file.stream, f, i);
        put_big(chunk + 4, f->track[i].count, 4);
        fwrite(chunk, 1, sizeof chunk, file.stream);
        fwrite(f->track[i].bytes, 1, f->track[i].count, file.stream);
    }
    put_between(file.stream, f, f->tracks);
    return pa_file_commit(&file, err);
}
