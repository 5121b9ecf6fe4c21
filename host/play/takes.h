// takes.h: continuations of a primer, as tokens and as notes. Knows nothing of files.
#ifndef PA_TAKES_H
#define PA_TAKES_H

#include "host/play/primer.h"

typedef struct {
    uint16_t *token;
    size_t count;
} pa_take;

typedef struct {
    pa_take *take;
    size_t count;
} pa_takes;

enum {
    PA_PAUSE = PA_STEPS_A_SECOND,       // without a stroke: music may end there
    PA_ENDING = 10 * PA_STEPS_A_SECOND, // at most so much is played beyond the asked length to reach a pause
};

// The step at which a continuation of about `limit` steps ends: the first from there on at which no key has been struck
// for PA_PAUSE; if there is none within PA_ENDING, the end of the longest pause between strokes in that time.
int64_t pa_take_end(const uint16_t *token, size_t count, int64_t limit);
// Adds a copy of a continuation, cut off at `limit` steps of 10 ms (0: whole).
pa_status pa_takes_add(pa_takes *t, const uint16_t *token, size_t count, int64_t limit, pa_err *err);
void pa_takes_clear(pa_takes *t);

typedef struct {
    pa_note *note; // malloc'ed: those of the primer in order of start, then those of the take
    size_t count;
    size_t primer; // how many are the primer's
} pa_take_notes;

// The notes of a primer and a take; what still sounds at the end ends there. The primer's are those struck by its first
// `tokens` tokens: not by time, because a primer's last chord may be at its very end.
pa_status pa_take_decode(const pa_primer *p, const pa_take *take, size_t tokens, pa_take_notes *notes, pa_err *err);

#endif
