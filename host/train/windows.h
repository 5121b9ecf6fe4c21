// windows.h: what a step trains on: a function of (seed, step) only, whatever the ranks and the micro-batch.
#ifndef PA_WINDOWS_H
#define PA_WINDOWS_H

#include "host/base/philox.h"
#include "host/files/config.h"
#include "host/files/token_set.h"

// Draws training windows. Window w of a run is the same whatever the step, rank or micro-batch it falls into.
typedef struct {
    const pa_token_set *tokens;
    const pa_config *config;
    int64_t epoch_windows; // windows an epoch: the pieces, or the corpus' tokens over context; both count a file as
                           // often as it weighs
    int64_t *order;        // of the pieces in epoch `epoch`
    int64_t epoch;
} pa_sampler;
pa_status pa_sampler_init(pa_sampler *s, const pa_token_set *tokens, const pa_config *config, pa_err *err);
void pa_sampler_clear(pa_sampler *s);
// context + 1 tokens of window w: END after a piece's last, PAD after that.
void pa_sampler_window(pa_sampler *s, uint64_t w, uint16_t *out);
// How many windows of a step begin at the start of a piece, the step's last ones: data.piece_starts of them on average.
int pa_step_starts(const pa_config *c, uint64_t step);
// Prefix tokens of window w: model.prefix, or what was drawn for the starts of its step. All starts of a step have the
// same, so that they are one batch; it is a multiple of a sixteenth of model.prefix, so that shapes are few.
int pa_window_prefix(const pa_config *c, uint64_t w);
// The prefix positions that window w keeps, ascending: pa_kept(prefix, prefix_dropout) of them, uniform without
// replacement.
void pa_keep_positions(uint64_t seed, uint64_t w, int prefix, int kept, int32_t *keep);

// The largest of some token ids, which may be anything if their file was overwritten while it was read.
uint16_t pa_greatest(const uint16_t *token, size_t count);

#endif
