// data.h: token files, and what a step trains on: a function of (seed, step) alone, whatever the ranks and the micro-batch.
#ifndef PA_DATA_H
#define PA_DATA_H

#include "host/config.h"
#include "host/safetensors.h"
#include "tokenizer/tokens.h"

// A token file, memory-mapped and checked: `tokens` U16 [n], `offsets` I64 [pieces + 1], `seconds` F32, `notes` I64.
typedef struct {
    pa_st *file;
    const uint16_t *tokens;
    const int64_t *offsets; // piece p is tokens[offsets[p] .. offsets[p + 1])
    const float *seconds;
    const int64_t *notes;
    int64_t pieces;
    pa_encoding encoding;
} pa_tokens;
pa_status pa_tokens_open(pa_tokens *t, const char *path, pa_err *err); // every id < PA_PAD, offsets ascending
void pa_tokens_close(pa_tokens *t);
// Writes such a file. names: UTF-8, one a piece.
pa_status pa_tokens_write(const char *path, const pa_piece *pieces, const char *const *names, size_t count, pa_encoding e, const char *split, pa_err *err);
// Name of piece p, from the metadata; malloc'ed, NULL without.
char *pa_tokens_name(const pa_tokens *t, int64_t p);

#endif
