// copies.h: the longest stretches that pieces share with a corpus, for example a model's continuations with the music
// that it was trained on.
#ifndef PA_COPIES_H
#define PA_COPIES_H

#include "host/files/token_set.h"

typedef enum {
    PA_COPY_TOKENS,            // the same tokens
    PA_COPY_TOKENS_TRANSPOSED, // the same after a transposition; begins with a note's token
    PA_COPY_NOTES,             // the pitches that are struck, in order, whatever their times and loudness
    PA_COPY_NOTES_TRANSPOSED,  // the intervals between them
    PA_COPIES
} pa_copy_kind;

typedef struct {
    int64_t length;       // in tokens or notes; 0: nothing is shared
    int64_t piece, token; // where it begins: token of a piece of the corpus
    int64_t own;          // token of the piece itself
} pa_copy;

const char *pa_copy_name(pa_copy_kind kind); // "tokens, transposed"

// longest: (x->pieces), that of each piece. Time and memory are linear: for the pieces at most 280 bytes a token, for
// the corpus none beside the mapped file. PA_DATA where the encodings differ.
pa_status pa_copies_find(const pa_token_set *x, const pa_token_set *corpus, pa_copy_kind kind, pa_copy *longest,
                         pa_err *err);

#endif
