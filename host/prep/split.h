// split.h: which pieces are the same music, and in which split each stands. Knows nothing of files.
#ifndef PA_SPLIT_H
#define PA_SPLIT_H

#include "host/prep/pieces.h"

typedef struct {
    size_t copies;           // pieces with the tokens of an earlier one
    size_t similar;          // other pieces with the notes_hash of an earlier one
    size_t apart;            // of both, those in another split than the first
    size_t moved[PA_SPLITS]; // to each split, which would have been empty: the number of a piece, or pa_pieces' count
} pa_split_report;

// Finds copies. Without a list the splits go by notes_hash, 90/5/5, so that all pieces with one hash stand in one
// split; if train or validation would be empty, the pieces with the smallest hash of a fuller split move there,
// provided that there are two hashes.
pa_status pa_split_pieces(pa_pieces *p, pa_split_report *report, pa_err *err);

#endif
