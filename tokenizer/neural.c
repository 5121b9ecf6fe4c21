// neural.c: the encoding of the original project (jason9693/midi-neural-processor as tvergho/perceiver-ar-piano ships
// it), with its flaws: models were trained on them. docs/tokens.md says which. Knows nothing of MIDI files.
#include "tokenizer/neural.h"

#include "tokenizer/moments.h"
#include "tokenizer/writer.h"

#include <math.h>
#include <stdlib.h>

enum { PITCHES = 128, FIRST_VELOCITY = 0, MOST_NOTES = 1 << 26 };
static const double NO_START = -1;

typedef struct {
    double start, end;
} window;

// Notes as the windows hand them on: by index, some of them twice, or as often as there are windows: hence MOST_NOTES.
// A note that two windows share has one end.
typedef struct {
    uint32_t *index;
    size_t count, room;
} note_list;

static bool list_add(note_list *l, size_t index) {
    if (l->count >= MOST_NOTES) return false;
    uint32_t *grown = pa_grow(l->index, &l->room, l->count, sizeof *grown);
    if (!grown) return false;
    l->index = grown;
    l->index[l->count++] = (uint32_t)index;
    return true;
}

// A window opens at the first pedal-down and closes at the first pedal-up after it. Later pedal-ups, up to the next
// window, move its end. One that never closes is none.
static size_t find_windows(const pa_part *part, window *w) {
    size_t count = 0;
    bool open = false;
    for (size_t i = 0; i < part->pedals; i++) {
        const pa_pedal *p = &part->pedal[i];
        bool down = p->kind == PA_PEDAL_DOWN;
        if (down && !open) {
            w[count].start = p->time;
            open = true;
        } else if (!down && open) {
            w[count++].end = p->time;
            open = false;
        } else if (!down && count) {
            w[count - 1].end = p->time;
        }
    }
    return count;
}

// Backwards: a note ends where the next one of its pitch starts, or else with the window.
static void end_notes(pa_note *note, const note_list *inside, size_t from, double window_end) {
    double start[PITCHES];
    for (int p = 0; p < PITCHES; p++) start[p] = NO_START;
    for (size_t i = inside->count; i-- > from;) {
        pa_note *n = &note[inside->index[i]];
        n->end = start[n->pitch] != NO_START ? start[n->pitch] : fmax(window_end, n->end);
        start[n->pitch] = n->start;
    }
}

// Adds to `out` the notes of a part as its windows pass them on, in order of start. `base` is the index of its first
// note, note[base].
static bool window_notes(const pa_part *part, pa_note *note, size_t base, note_list *out) {
    window *w = malloc((part->pedals + 1) * sizeof *w);
    note_list passed = {0}, inside = {0};
    pa_moment *moment = NULL;
    size_t first = 0, used = 0;
    bool ok = w != NULL;
    size_t windows = ok ? find_windows(part, w) : 0;
    for (size_t i = 0; i < windows; i++) {
        size_t from = inside.count;
        for (size_t k = first; k < part->notes && ok; k++) {
            double start = note[base + k].start;
            if (start < w[i].start) {
                ok = list_add(&passed, base + k);
            } else if (start > w[i].end) { // the next window continues from here
                end_notes(note, &inside, from, w[i].end);
                first = k;
                break;
            } else {
                ok = list_add(&inside, base + k);
            }
        }
    }
    ok = ok && (moment = malloc((passed.count + inside.count + 1) * sizeof *moment));
    for (size_t i = 0; i < passed.count && ok; i++)
        moment[used++] = (pa_moment){note[passed.index[i]].start, 0, passed.index[i]};
    for (size_t i = 0; i < inside.count && ok; i++)
        moment[used++] = (pa_moment){note[inside.index[i]].start, 0, inside.index[i]};
    ok = ok && pa_moment_sort(moment, used);
    for (size_t i = 0; i < used && ok; i++) ok = list_add(out, moment[i].index);
    free(w);
    free(passed.index);
    free(inside.index);
    free(moment);
    return ok;
}

// Starts and ends of the listed notes in order of time, as moments whose order is 0 and index is 2 * note + is_end.
static pa_moment *order_events(const pa_note *note, const note_list *list) {
    size_t count = list->count;
    pa_moment *start = malloc((count + 1) * sizeof *start), *event = malloc((2 * count + 1) * sizeof *event);
    bool ok = start && event;
    for (size_t i = 0; i < count && ok; i++) start[i] = (pa_moment){note[list->index[i]].start, 0, list->index[i]};
    ok = ok && pa_moment_sort(start, count);
    for (size_t i = 0; i < count && ok; i++) {
        event[2 * i] = (pa_moment){start[i].time, 0, 2 * start[i].index};
        event[2 * i + 1] = (pa_moment){note[start[i].index].end, 0, 2 * start[i].index + 1};
    }
    ok = ok && pa_moment_sort(event, 2 * count);
    free(start);
    if (ok) return event;
    free(event);
    return NULL;
}

// The clock takes each difference rounded, so it drifts; a velocity is compared, as a bin, with the previous event's
// raw velocity.
static bool write_events(pa_writer *w, const pa_note *note, const pa_moment *event, size_t events, double from) {
    double clock = from;
    int previous = FIRST_VELOCITY;
    for (size_t i = 0; i < events; i++) {
        const pa_note *n = &note[event[i].index / 2];
        bool end = event[i].index & 1;
        if (!pa_writer_shift(w, (int64_t)rint((event[i].time - clock) * 100))) return false;
        clock = event[i].time;
        if (!end && n->velocity / 4 != previous && !pa_writer_add(w, PA_VELOCITY + n->velocity / 4)) return false;
        if (!pa_writer_add(w, (end ? PA_NOTE_OFF : PA_NOTE_ON) + n->pitch)) return false;
        previous = end ? -1 : n->velocity;
    }
    return true;
}

// How many different notes are in the list.
static size_t count_different(const note_list *list, size_t notes) {
    size_t different = 0;
    bool *seen = calloc(notes + 1, 1);
    for (size_t i = 0; i < list->count && seen; i++) {
        different += !seen[list->index[i]];
        seen[list->index[i]] = true;
    }
    free(seen);
    return different;
}

pa_status pa_neural_encode(const pa_song *song, const pa_encode_options *o, pa_piece *piece, pa_err *err) {
    size_t total = 0, used = 0;
    for (size_t i = 0; i < song->parts; i++) total += song->part[i].notes;
    pa_note *note = malloc((total + 1) * sizeof *note);
    pa_moment *event = NULL;
    note_list list = {0};
    pa_writer w = {0};
    bool ok = note != NULL;
    for (size_t i = 0; i < song->parts && ok; i++) {
        const pa_part *part = &song->part[i];
        for (size_t k = 0; k < part->notes; k++) note[used + k] = part->note[k];
        ok = window_notes(part, note, used, &list);
        used += part->notes;
    }
    ok = ok && (event = order_events(note, &list));
    double silence = ok && list.count ? event[0].time : 0, from = o->trim_silence ? silence : 0;
    ok = ok && write_events(&w, note, event, 2 * list.count, from);
    if (ok) {
        piece->token = w.token;
        piece->count = w.count;
        piece->notes = list.count;
        piece->dropped = total - count_different(&list, total) + song->lost;
        piece->report.silence = silence;
        piece->report.trimmed = from;
    } else {
        free(w.token);
    }
    free(note);
    free(event);
    free(list.index);
    return ok ? PA_OK : pa_error(err, PA_FAIL, "no memory for the tokens of %zu notes", total);
}

// By start, those that start together in the order in which they ended.
static bool sort_notes(pa_part *part) {
    size_t count = part->notes;
    pa_moment *moment = malloc((count + 1) * sizeof *moment);
    pa_note *sorted = malloc((count + 1) * sizeof *sorted);
    bool ok = moment && sorted;
    for (size_t i = 0; i < count && ok; i++) moment[i] = (pa_moment){part->note[i].start, 0, (uint32_t)i};
    ok = ok && pa_moment_sort(moment, count);
    for (size_t i = 0; i < count && ok; i++) sorted[i] = part->note[moment[i].index];
    free(moment);
    if (!ok) {
        free(sorted);
        return false;
    }
    free(part->note);
    part->note = sorted;
    return true;
}

bool pa_neural_decode(const uint16_t *token, size_t count, pa_part *part) {
    int64_t clock = 0, on[PITCHES];
    int velocity = FIRST_VELOCITY, loudness[PITCHES];
    uint32_t began[PITCHES];
    for (int p = 0; p < PITCHES; p++) on[p] = -1;
    for (size_t i = 0; i < count && token[i] != PA_END; i++) {
        int t = token[i], pitch = pa_pitch_of(t);
        if (pa_is_note_on(t)) {
            on[pitch] = clock;
            began[pitch] = (uint32_t)i;
            loudness[pitch] = velocity > 0 ? velocity : 1; // 0 would be silence in a MIDI file; both are bin 0
        } else if (pa_is_note_off(t) && on[pitch] >= 0 && on[pitch] < clock) {
            pa_note n = {(double)on[pitch] / 100, (double)clock / 100, (uint8_t)pitch, (uint8_t)loudness[pitch],
                         began[pitch]};
            if (!pa_part_add_note(part, n)) return false;
        } else if (pa_is_velocity(t)) {
            velocity = pa_velocity_bin(t) * 4;
        }
        clock += pa_shift_steps(t);
    }
    return sort_notes(part);
}
