// performance.c: see performance.h: the pedals become note lengths, time becomes steps of 10 ms. The rules are in
// docs/tokens.md. Knows nothing of MIDI files.
#include "tokenizer/performance.h"

#include "tokenizer/moments.h"
#include "tokenizer/writer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { PITCHES = 128, NONE = -1, DEFAULT_VELOCITY = 100 };

// The notes that sound at one moment: a list for each pitch, through next and previous.
typedef struct {
    pa_note *note;
    int *next, *previous;
    int first[PITCHES];
    bool *sounds;
    bool pedal, sostenuto;
    bool held[PITCHES]; // by the sostenuto pedal: the damper of that pitch is off its string
} keyboard;

static void press(keyboard *k, int n) {
    int pitch = k->note[n].pitch, old = k->first[pitch];
    k->next[n] = old;
    k->previous[n] = NONE;
    if (old != NONE) k->previous[old] = n;
    k->first[pitch] = n;
    k->sounds[n] = true;
}

static void release(keyboard *k, int n) {
    if (k->previous[n] == NONE)
        k->first[k->note[n].pitch] = k->next[n];
    else
        k->next[k->previous[n]] = k->next[n];
    if (k->next[n] != NONE) k->previous[k->next[n]] = k->previous[n];
    k->sounds[n] = false;
}

// Ends the sounding notes of a pitch now: all of them, or those whose key is up.
static void end_pitch(keyboard *k, int pitch, double now, bool all) {
    for (int n = k->first[pitch], next; n != NONE; n = next) {
        next = k->next[n];
        if (!all && k->note[n].end >= now) continue;
        k->note[n].end = now;
        release(k, n);
    }
}

static void end_released(keyboard *k, double now) {
    for (int p = 0; p < PITCHES; p++)
        if (!k->pedal && !k->held[p]) end_pitch(k, p, now, false);
}

// Holds the keys that are down, unless it is a further message of a pedal that is down already.
static void press_sostenuto(keyboard *k, double now) {
    if (k->sostenuto) return;
    k->sostenuto = true;
    for (int p = 0; p < PITCHES; p++)
        for (int n = k->first[p]; n != NONE; n = k->next[n]) k->held[p] = k->held[p] || k->note[n].end >= now;
}

static void step_keyboard(keyboard *k, const pa_moment *m) {
    int n = (int)m->index, pitch = k->note[n].pitch;
    switch ((pa_event_kind)m->order) {
    case PA_PEDAL_DOWN:
        k->pedal = true;
        break;
    case PA_PEDAL_UP:
        k->pedal = false;
        end_released(k, m->time);
        break;
    case PA_SILENCE:
        for (int p = 0; p < PITCHES; p++) end_pitch(k, p, m->time, true);
        break;
    case PA_SOSTENUTO_UP:
        k->sostenuto = false;
        memset(k->held, 0, sizeof k->held);
        end_released(k, m->time);
        break;
    case PA_NOTE_STARTS:
        // A note that began now is left without length: deleted below.
        if (k->pedal || k->held[pitch]) end_pitch(k, pitch, m->time, true);
        press(k, n);
        break;
    case PA_SOSTENUTO_DOWN:
        press_sostenuto(k, m->time);
        break;
    case PA_NOTE_ENDS:
        if (!k->pedal && !k->held[pitch] && k->sounds[n]) release(k, n);
    }
}

// Lengthens the notes of a part to what its pedals make of them: what is held at the end of the piece ends there. A
// note that the next one of its pitch cuts at its very start has end == start afterwards.
static bool apply_pedals(const pa_part *part, double end, pa_note *note) {
    size_t count = part->notes, moments = 0;
    pa_moment *moment = malloc((2 * count + part->pedals) * sizeof *moment);
    keyboard k = {.note = note,
                  .next = malloc(count * sizeof(int)),
                  .previous = malloc(count * sizeof(int)),
                  .sounds = calloc(count, 1)};
    bool ok = moment && k.next && k.previous && k.sounds;
    if (!ok) goto done;
    for (int p = 0; p < PITCHES; p++) k.first[p] = NONE;
    for (size_t i = 0; i < part->pedals; i++)
        moment[moments++] = (pa_moment){part->pedal[i].time, part->pedal[i].kind, 0};
    for (size_t i = 0; i < count; i++) moment[moments++] = (pa_moment){note[i].start, PA_NOTE_STARTS, (uint32_t)i};
    for (size_t i = 0; i < count; i++) moment[moments++] = (pa_moment){note[i].end, PA_NOTE_ENDS, (uint32_t)i};
    ok = pa_moment_sort(moment, moments);
    if (!ok) goto done;
    for (size_t i = 0; i < moments; i++) step_keyboard(&k, &moment[i]);
    for (int p = 0; p < PITCHES; p++) end_pitch(&k, p, end, true);
done:
    free(moment);
    free(k.next);
    free(k.previous);
    free(k.sounds);
    return ok;
}

// The notes of all parts but drums as they sound, in order of (start, pitch). NULL without memory.
static pa_note *sounding_notes(const pa_song *song, size_t *count) {
    size_t total = 0, used = 0, kept = 0;
    for (size_t i = 0; i < song->parts; i++) total += song->part[i].drums ? 0 : song->part[i].notes;
    pa_note *note = malloc((total + 1) * sizeof *note), *sorted = malloc((total + 1) * sizeof *sorted);
    pa_moment *moment = malloc((total + 1) * sizeof *moment);
    bool ok = note && sorted && moment;
    for (size_t i = 0; i < song->parts && ok; i++) {
        const pa_part *part = &song->part[i];
        if (part->drums || !part->notes) continue;
        for (size_t k = 0; k < part->notes; k++) note[used + k] = part->note[k];
        if (part->pedals) ok = apply_pedals(part, song->end, note + used);
        used += part->notes;
    }
    for (size_t i = 0; i < used && ok; i++)
        if (note[i].end > note[i].start) moment[kept++] = (pa_moment){note[i].start, note[i].pitch, (uint32_t)i};
    ok = ok && pa_moment_sort(moment, kept);
    for (size_t i = 0; i < kept && ok; i++) sorted[i] = note[moment[i].index];
    *count = kept;
    free(note);
    free(moment);
    if (ok) return sorted;
    free(sorted);
    return NULL;
}

static int64_t step_of(double seconds) {
    return (int64_t)floor(seconds * PA_STEPS_A_SECOND + 0.5);
}

static int64_t end_step(const pa_note *n) {
    int64_t start = step_of(n->start), end = step_of(n->end);
    return end > start ? end : start + 1;
}

// Starts and ends of all notes by (step, note, start before end): as moments whose time is the step and whose index is
// 2 * note + is_end. NULL without memory.
static pa_moment *order_events(const pa_note *note, size_t count) {
    pa_moment *event = malloc((2 * count + 1) * sizeof *event);
    if (!event) return NULL;
    for (size_t i = 0; i < count; i++) {
        event[2 * i] = (pa_moment){(double)step_of(note[i].start), 0, 2 * (uint32_t)i};
        event[2 * i + 1] = (pa_moment){(double)end_step(&note[i]), 0, 2 * (uint32_t)i + 1};
    }
    if (pa_moment_sort(event, 2 * count)) return event;
    free(event);
    return NULL;
}

// From step `from` on. Counts the pauses that it shortens to `longest` steps (0: none).
static bool write_events(pa_writer *w, const pa_note *note, const pa_moment *event, size_t events, int64_t from,
                         int64_t longest, pa_report *report) {
    int64_t clock = from;
    int bin = NONE;
    for (size_t i = 0; i < events; i++) {
        const pa_note *n = &note[event[i].index / 2];
        bool end = event[i].index & 1;
        int64_t step = (int64_t)event[i].time, pause = step - clock;
        if (longest && pause > longest) {
            report->pauses++;
            report->shortened += (double)(pause - longest) / PA_STEPS_A_SECOND;
            pause = longest;
        }
        if (!pa_writer_shift(w, pause)) return false;
        clock = step;
        if (!end && pa_performance_bin(n->velocity) != bin) {
            bin = pa_performance_bin(n->velocity);
            if (!pa_writer_add(w, PA_VELOCITY + bin)) return false;
        }
        if (!pa_writer_add(w, (end ? PA_NOTE_OFF : PA_NOTE_ON) + n->pitch)) return false;
    }
    return true;
}

pa_status pa_performance_encode(const pa_song *song, const pa_encode_options *o, pa_piece *piece, pa_err *err) {
    pa_writer w = {0};
    size_t count = 0, all = 0;
    pa_moment *event = NULL;
    pa_note *note = sounding_notes(song, &count);
    int64_t first = note && count ? step_of(note[0].start) : 0, from = o->trim_silence ? first : 0;
    int64_t longest = (int64_t)o->longest_pause * PA_STEPS_A_SECOND;
    bool ok = note && (event = order_events(note, count)) &&
              write_events(&w, note, event, 2 * count, from, longest, &piece->report);
    if (ok) {
        for (size_t i = 0; i < song->parts; i++) all += song->part[i].notes;
        piece->token = w.token;
        piece->count = w.count;
        piece->notes = count;
        piece->dropped = all - count + song->lost;
        piece->report.silence = (double)first / PA_STEPS_A_SECOND;
        piece->report.trimmed = (double)from / PA_STEPS_A_SECOND;
    } else {
        free(w.token);
    }
    free(event);
    free(note);
    return ok ? PA_OK : pa_error(err, PA_FAIL, "no memory for the tokens of %zu notes", count);
}

// The open notes of each pitch, first in, first out: through `next`, a note's successor at its pitch.
bool pa_performance_decode(const uint16_t *token, size_t count, pa_part *part) {
    int64_t clock = 0, last = 0;
    int velocity = DEFAULT_VELOCITY, first[PITCHES], newest[PITCHES];
    int *next = malloc((count + 1) * sizeof *next);
    size_t kept = 0;
    bool ok = next != NULL;
    for (int p = 0; p < PITCHES; p++) first[p] = newest[p] = NONE;
    for (size_t i = 0; i < count && ok && token[i] != PA_END; i++) {
        int t = token[i], pitch = pa_pitch_of(t);
        if (pa_is_note_on(t)) {
            int n = (int)part->notes;
            ok = pa_part_add_note(
                part, (pa_note){(double)clock / PA_STEPS_A_SECOND, -1, (uint8_t)pitch, (uint8_t)velocity, (uint32_t)i});
            if (first[pitch] == NONE)
                first[pitch] = n;
            else
                next[newest[pitch]] = n;
            newest[pitch] = n;
        } else if (pa_is_note_off(t) && first[pitch] != NONE) {
            int n = first[pitch];
            part->note[n].end = (double)clock / PA_STEPS_A_SECOND;
            first[pitch] = n == newest[pitch] ? NONE : next[n];
        } else if (pa_is_velocity(t)) {
            velocity = pa_performance_velocity(t);
        }
        clock += pa_shift_steps(t);
        if (pa_is_note(t)) last = clock;
    }
    for (size_t i = 0; i < part->notes && ok; i++) {
        pa_note n = part->note[i];
        if (n.end < 0) n.end = (double)last / PA_STEPS_A_SECOND;
        if (n.end > n.start) part->note[kept++] = n;
    }
    part->notes = kept;
    free(next);
    return ok;
}
