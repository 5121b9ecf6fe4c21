// write.c: notes to a MIDI file. Written by hand and not with libsmf, whose smf_save replaces the file in place and may leave half of
// one; a type 0 file is 40 lines. Knows nothing of tokens.
#include "host/base/file.h"
#include "tokenizer/song.h"

#include <math.h>
#include <stdlib.h>

// 500 ticks a quarter note at 120 bpm: a tick is 1 ms, so the steps of 10 ms are exact, also in pretty_midi's arithmetic.
enum { TICKS_A_QUARTER = 500, TICKS_A_SECOND = 1000, LONGEST_DELTA = (1 << 28) - 1, PITCHES = 128 };

typedef struct {
    int64_t tick;
    size_t note;
    uint8_t status, pitch, velocity;
} event;

static int by_time(const void *x, const void *y) {
    const event *a = x, *b = y;
    if (a->tick != b->tick) return a->tick < b->tick ? -1 : 1;
    if (a->status != b->status) return a->status < b->status ? -1 : 1; // note-offs (0x80) before note-ons (0x90)
    return a->note < b->note ? -1 : a->note > b->note;
}

static int by_start(const void *x, const void *y) {
    const pa_note *a = x, *b = y;
    if (a->start != b->start) return a->start < b->start ? -1 : 1;
    if (a->end != b->end) return a->end < b->end ? -1 : 1;
    if (a->pitch != b->pitch) return a->pitch < b->pitch ? -1 : 1;
    return a->velocity < b->velocity ? -1 : a->velocity > b->velocity;
}

static int64_t tick_of(double seconds) {
    return llround(seconds * TICKS_A_SECOND);
}

static size_t put_number(uint8_t *at, int64_t value) {
    size_t used = 0;
    for (int shift = 21; shift >= 0; shift -= 7)
        if (used || shift == 0 || value >> shift) at[used++] = (uint8_t)((value >> shift & 127) | (shift ? 128 : 0));
    return used;
}

// A key sounds once at a time: struck again, it is released first. Of notes that start together the longest stays.
static size_t make_events(const pa_note *note, size_t count, event *e) {
    size_t used = 0, next_of_pitch[PITCHES];
    for (int p = 0; p < PITCHES; p++) next_of_pitch[p] = count;
    for (size_t i = count; i-- > 0;) {
        int pitch = note[i].pitch & 127;
        size_t next = next_of_pitch[pitch];
        int64_t start = tick_of(note[i].start), end = tick_of(note[i].end);
        if (end <= start) end = start + 1;
        if (next < count && tick_of(note[next].start) <= start) continue;
        if (next < count && tick_of(note[next].start) < end) end = tick_of(note[next].start);
        next_of_pitch[pitch] = i;
        uint8_t velocity = note[i].velocity < 1 ? 1 : note[i].velocity > 127 ? 127 : note[i].velocity;
        e[used++] = (event){start, i, 0x90, (uint8_t)pitch, velocity};
        e[used++] = (event){end, i, 0x80, (uint8_t)pitch, 64};
    }
    qsort(e, used, sizeof *e, by_time);
    return used;
}

// The track's bytes: tempo, piano, the events, the end.
static size_t put_track(uint8_t *out, const event *e, size_t events) {
    static const uint8_t start[] = {0, 0xff, 0x51, 3, 0x07, 0xa1, 0x20, 0, 0xc0, 0}, end[] = {0, 0xff, 0x2f, 0};
    size_t used = 0;
    int64_t tick = 0;
    for (size_t i = 0; i < sizeof start; i++) out[used++] = start[i];
    for (size_t i = 0; i < events; i++) {
        used += put_number(out + used, e[i].tick - tick);
        tick = e[i].tick;
        out[used++] = e[i].status;
        out[used++] = e[i].pitch;
        out[used++] = e[i].velocity;
    }
    for (size_t i = 0; i < sizeof end; i++) out[used++] = end[i];
    return used;
}

pa_status pa_midi_write(const char *path, const pa_note *notes, size_t count, pa_err *err) {
    pa_file file;
    pa_status s = PA_OK;
    for (size_t i = 0; i < count; i++)
        if (!(notes[i].start >= 0 && notes[i].end >= notes[i].start && notes[i].end * TICKS_A_SECOND < LONGEST_DELTA))
            return pa_error(err, PA_DATA, "%s: note %zu: expected a start and a later end within %d s, found %g and %g", path, i,
                            LONGEST_DELTA / TICKS_A_SECOND, notes[i].start, notes[i].end);
    pa_note *sorted = malloc((count + 1) * sizeof *sorted);
    event *events = malloc((2 * count + 1) * sizeof *events);
    uint8_t *track = malloc(14 * count + 64);
    if (!sorted || !events || !track) {
        s = pa_error(err, PA_FAIL, "%s: no memory for %zu notes", path, count);
        goto done;
    }
    for (size_t i = 0; i < count; i++) sorted[i] = notes[i];
    qsort(sorted, count, sizeof *sorted, by_start);
    size_t bytes = put_track(track, events, make_events(sorted, count, events));
    s = pa_file_create(&file, path, err);
    if (s) goto done;
    uint8_t header[22] = {'M', 'T', 'h', 'd', 0, 0, 0, 6, 0, 0, 0, 1, TICKS_A_QUARTER >> 8, TICKS_A_QUARTER & 255, 'M', 'T', 'r', 'k'};
    for (int i = 0; i < 4; i++) header[18 + i] = (uint8_t)(bytes >> (24 - 8 * i));
    fwrite(header, 1, sizeof header, file.stream);
    fwrite(track, 1, bytes, file.stream);
    s = pa_file_commit(&file, err);
done:
    free(sorted);
    free(events);
    free(track);
    return s;
}
