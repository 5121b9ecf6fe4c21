// repetition.h: how much a piece repeats itself, its range and loudness: shows whether a model is stuck.
// Knows nothing of tokens or models.
#ifndef PA_REPETITION_H
#define PA_REPETITION_H

#include "tokenizer/tokens.h"

enum { PA_RUN = 16, PA_LOOK_BACK = 1 << 14 };

typedef struct {
    size_t notes;
    int pitches;     // distinct ones
    double velocity; // mean; 0 without notes
    double heard;    // share of runs of PA_RUN pitches, by their last note, that were played before; 0 without any
    size_t longest;  // notes of the longest run of pitches that was played before
} pa_repetition;

// Measures notes [first, count) of a piece in order of start. "Before" is the PA_LOOK_BACK notes that lead up to each,
// the ones ahead of `first` too; a run may overlap its earlier self, so a loop of any length shows. Work: at most
// PA_LOOK_BACK steps a note. PA_FAIL without memory.
pa_status pa_repetition_measure(const pa_note *note, size_t first, size_t count, pa_repetition *r, pa_err *err);

#endif
