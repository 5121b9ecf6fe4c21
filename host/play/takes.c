// takes.c: see takes.h.
#include "host/play/takes.h"

#include <stdlib.h>
#include <string.h>

enum { PITCHES = 128 };

int64_t pa_take_end(const uint16_t *token, size_t count, int64_t limit) {
    int64_t clock = 0, stroke = 0, longest = -1, end = -1;
    for (size_t i = 0; i < count; i++) {
        if (pa_is_note_on(token[i])) {
            if (clock >= limit && clock - stroke > longest) {
                longest = clock - stroke;
                end = clock;
            }
            stroke = clock;
        }
        clock += pa_shift_steps(token[i]);
        if (clock >= limit && clock - stroke >= PA_PAUSE) return stroke + PA_PAUSE > limit ? stroke + PA_PAUSE : limit;
        if (clock > limit + PA_ENDING) break;
    }
    return end < 0 ? clock : end;
}

pa_status pa_takes_add(pa_takes *t, const uint16_t *token, size_t count, int64_t limit, pa_err *err) {
    pa_take *larger = realloc(t->take, (t->count + 1) * sizeof *larger),
            take = {malloc((count + 1) * sizeof *token), 0};
    if (larger) t->take = larger;
    if (!larger || !take.token) {
        free(take.token);
        return pa_error(err, PA_FAIL, "no memory for a continuation of %zu tokens", count);
    }
    for (int64_t clock = 0; take.count < count && (!limit || clock < limit);) {
        uint16_t next = token[take.count];
        clock += pa_shift_steps(next);
        if (limit && clock > limit) next -= (uint16_t)(clock - limit);
        take.token[take.count++] = next;
    }
    t->take[t->count++] = take;
    return PA_OK;
}

void pa_takes_clear(pa_takes *t) {
    for (size_t k = 0; k < t->count; k++) free(t->take[k].token);
    free(t->take);
    *t = (pa_takes){0};
}

// The primer and a take as one sequence, with a NOTE_OFF at the end for each note that still sounds. malloc'ed; NULL
// without memory.
static uint16_t *join(const pa_primer *p, const pa_take *take, size_t *count) {
    size_t sounding[PITCHES] = {0}, n = p->count + take->count;
    uint16_t *all = malloc((2 * n + 1) * sizeof *all);
    if (!all) return NULL;
    if (p->count) memcpy(all, p->token, p->count * sizeof *all);
    memcpy(all + p->count, take->token, take->count * sizeof *all);
    for (size_t i = 0; i < n; i++) {
        size_t *s = &sounding[pa_pitch_of(all[i])];
        if (pa_is_note_on(all[i]))
            *s = p->encoding == PA_PERFORMANCE ? *s + 1
                                               : 1; // midi-neural: the latest note of a pitch is the one that ends
        else if (pa_is_note_off(all[i]) && *s)
            --*s;
    }
    for (int pitch = 0; pitch < PITCHES; pitch++)
        for (; sounding[pitch]; sounding[pitch]--) all[n++] = (uint16_t)(PA_NOTE_OFF + pitch);
    *count = n;
    return all;
}

static pa_status decode(const uint16_t *token, size_t count, pa_encoding encoding, pa_take_notes *n, pa_err *err) {
    patrain_note *note;
    patrain_error why;
    size_t notes;
    pa_status s =
        pa_from_library(patrain_decode(token, count, (patrain_encoding)encoding, &note, &notes, &why), &why, err);
    if (!s && !(n->note = malloc((notes + 1) * sizeof *n->note)))
        s = pa_error(err, PA_FAIL, "no memory for %zu notes", notes);
    for (size_t i = 0; i < notes && !s; i++)
        n->note[i] = (pa_note){note[i].start, note[i].end, note[i].pitch, note[i].velocity, note[i].token};
    if (!s) n->count = notes;
    patrain_free(note);
    return s;
}

// Notes that began with the first `tokens` tokens in front, each part in its order. False without memory.
static bool split_notes(pa_take_notes *n, size_t tokens) {
    pa_note *later = malloc((n->count + 1) * sizeof *later);
    size_t after = 0;
    if (!later) return false;
    n->primer = 0;
    for (size_t i = 0; i < n->count; i++) {
        if (n->note[i].token < tokens)
            n->note[n->primer++] = n->note[i];
        else
            later[after++] = n->note[i];
    }
    memcpy(n->note + n->primer, later, after * sizeof *later);
    free(later);
    return true;
}

pa_status pa_take_decode(const pa_primer *p, const pa_take *take, size_t tokens, pa_take_notes *n, pa_err *err) {
    size_t count;
    uint16_t *all = join(p, take, &count);
    *n = (pa_take_notes){0};
    if (!all) return pa_error(err, PA_FAIL, "no memory for the notes of %zu tokens", take->count);
    pa_status s = decode(all, count, p->encoding, n, err);
    free(all);
    if (s || split_notes(n, tokens)) return s;
    s = pa_error(err, PA_FAIL, "no memory for %zu notes", n->count);
    free(n->note);
    *n = (pa_take_notes){0};
    return s;
}
