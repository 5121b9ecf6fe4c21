// features.h: what music is like, in numbers (docs/features.md). Knows nothing of tokens, models and files.
#ifndef PA_FEATURES_H
#define PA_FEATURES_H

#include "tokenizer/tokens.h"

typedef enum {
    PA_NOTES_PER_SECOND,
    PA_POLYPHONY,
    PA_NOTE_SECONDS,
    PA_LONGEST_NOTE,
    PA_SILENCE,
    PA_RESTS,
    PA_LOWEST_PITCH,
    PA_PITCH,
    PA_HIGHEST_PITCH,
    PA_VELOCITY_MEAN,
    PA_VELOCITY_SPREAD,
    PA_VELOCITY_CORRELATION,
    PA_PITCH_CLASS_ENTROPY,
    PA_PITCH_CLASS_CHANGE,
    PA_RHYTHM_ENTROPY,
    PA_LOOP,
    PA_RETURNS,
    PA_OVERLAP,
    PA_DIVERGENCE,
    PA_FEATURES
} pa_feature;

const char *pa_feature_name(pa_feature f); // "notes_per_second"

enum { PA_RHYTHM_BINS = 8 };

typedef struct {
    double value[PA_FEATURES];     // NaN: not defined, as the median length of no notes
    double rhythm[PA_RHYTHM_BINS]; // shares of the times between successive strokes; NaN without any
} pa_features;

// Notes in any order, and the passage of them that is meant. Notes that began before it may still sound in it.
typedef struct {
    const pa_note *note;
    size_t notes;
    double first, last; // seconds
} pa_passage;

// Measures a passage in equal parts of about a minute; each value is the mean of theirs. primer: what the last two
// features compare it with; NULL: they are NaN. Times are rounded to steps of 10 ms. PA_FAIL without memory.
pa_status pa_features_measure(const pa_passage *x, const pa_passage *primer, pa_features *f, pa_err *err);
// Measures a take, and the minute before it: primer, which is not written where the take begins at 0; NULL: not wanted.
pa_status pa_features_measure_take(const pa_passage *take, pa_features *primer, pa_features *f, pa_err *err);

#endif
