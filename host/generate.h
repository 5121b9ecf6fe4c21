// generate.h: sampling tokens from a model, window after window. Positions start at 0 in every window; a window is full when its
// latents are, and the next opens on the most recent P + refill tokens with one forward pass (model.md, "Generation").
#ifndef PA_GENERATE_H
#define PA_GENERATE_H

#include "host/backend.h"

typedef struct {
    double temperature;        // 1
    int top_k;                 // 0: off
    double top_p, min_p;       // 1: off; 0: off
    double repetition_penalty; // 1: off
    bool greedy, stop_at_end;
    int refill;                // 0: N / 2
    uint64_t seed;
} pa_sampling_options;
pa_sampling_options pa_sampling_default(void);

// Picks a token from logits (V), which it may overwrite. PAD never, END only with stop_at_end. `recent`: the tokens of the window, for
// the repetition penalty. The draw is pa_random(seed, PA_RANDOM_SAMPLE, stream, index).
uint16_t pa_sample(const pa_sampling_options *o, float *logits, int vocab, const uint16_t *recent, int recent_count, uint64_t stream, uint64_t index);

// Continues `primer` by up to `length` tokens in each of `streams` streams (what ctx was opened for). out (streams, length) tokens;
// made[s]: how many (shorter where END came; END itself not counted). An empty primer starts from a VELOCITY token drawn from the seed. more (may be NULL)
// is called after each token with its count and says whether to go on: Ctrl-C and seconds limits stop there, PA_OK.
pa_status pa_generate(const pa_backend *backend, pa_context *ctx, const pa_model *m, const pa_sampling_options *o, const uint16_t *primer,
                      size_t primer_count, int streams, size_t length, uint16_t *out, size_t *made, bool (*more)(void *arg, size_t done), void *arg,
                      pa_err *err);

#endif
