// data.h: token files, and what a step trains on: a function of (seed, step) alone, whatever the ranks and the micro-batch.
#ifndef PA_DATA_H
#define PA_DATA_H

#include "host/config.h"
#include "host/philox.h"
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
// Every id < PA_PAD, offsets ascending. PA_USAGE where there is no such file.
pa_status pa_tokens_open(pa_tokens *t, const char *path, pa_err *err);
void pa_tokens_close(pa_tokens *t);
// Writes such a file. names: one a piece; what is not UTF-8 is taken for Latin-1.
pa_status pa_tokens_write(const char *path, const pa_piece *pieces, const char *const *names, size_t count, pa_encoding e,
                          const char *split, pa_err *err);

// Draws training windows. Window w of a run is the same whatever the step, rank or micro-batch it falls into.
typedef struct {
    const pa_tokens *tokens;
    const pa_config *config;
    int64_t epoch_windows; // windows an epoch: the pieces, or the corpus' tokens over context
    int64_t *order;        // of the pieces in epoch `epoch`
    int64_t epoch;
} pa_sampler;
pa_status pa_sampler_init(pa_sampler *s, const pa_tokens *tokens, const pa_config *config, pa_err *err);
void pa_sampler_clear(pa_sampler *s);
// context + 1 tokens of window w: END after a piece's last, PAD after that.
void pa_sampler_window(pa_sampler *s, uint64_t w, uint16_t *out);
// The prefix positions that window w keeps, ascending: pa_kept(prefix, prefix_dropout) of them, uniform without replacement.
void pa_keep_positions(uint64_t seed, uint64_t w, int prefix, int kept, int32_t *keep);

#endif
