// generate.h: sampling tokens from a model, window after window. Positions start at 0 in every window; a window is full when its
// latents are, and the next opens on the most recent P + refill tokens with one forward pass (model.md, "Generation").
// Knows nothing of files and devices, and of music the ids of END and PAD, and with `keys` that a key is up or down.
#ifndef PA_GENERATE_H
#define PA_GENERATE_H

#include "host/backend.h"
#include "tokenizer/tokens.h"

typedef struct {
    double temperature;        // 0.9; 0 is greedy
    int top_k;                 // 0: off
    double top_p, min_p;       // 1: off; 0: off
    double repetition_penalty; // 1: off
    bool greedy, stop_at_end;
    int refill;      // latents that a new window opens with; 0: N / 2
    uint64_t seed;   // of the draws
    uint64_t stream; // number of the first stream: the draws are by (seed, stream, token), so a stream is the same in any company
    bool keys;       // off; no key is struck while it sounds, or released while it does not: pa_generate alone
} pa_sampling_options;
pa_sampling_options pa_sampling_default(void);
// PA_USAGE names the option, its range and what was found.
pa_status pa_sampling_check(const pa_sampling_options *o, const pa_model *m, pa_err *err);

// Picks a token from logits (PA_VOCAB). In this order:
//   1. PAD can't be, END only with stop_at_end;
//   2. repetition penalty R (Keskar et al., CTRL, 2019): the logit x of a token that is among the `recent` becomes x / R if it is positive,
//   else x R;
//   3. greedy: the largest logit, of equals the lowest id; ends here;
//   4. temperature: logits are divided by it;
//   5. top-k: the k most probable stay;
//   6. top-p (Holtzman et al., 2020): of these, the fewest most probable whose share reaches p stay, at least one;
//   7. min-p: what is less than min_p times as probable as the most probable goes;
//   8. one is drawn from the rest, by pa_random(seed, PA_RANDOM_SAMPLE, stream, index).
// PA_FAIL where a logit is NaN or infinite.
pa_status pa_sample(const pa_sampling_options *o, const float *logits, const uint16_t *recent, int recent_count, uint64_t stream,
                    uint64_t index, uint16_t *token, pa_err *err);

// Continues `primer` by up to `length` tokens in each of `streams` streams (what ctx was opened for). out (streams, length): the tokens.
// made[s]: how many there are (shorter where END came; END itself does not count, PAD fills the rest). An empty primer starts from a
// VELOCITY, of a medium one drawn from the seed, which counts as made. more (may be NULL) is called after each token with the number so far
// and says whether to go on: PA_OK where it says no. Nothing limits the length.
// With `keys` the probability of striking a key that sounds is added to that of releasing it, and a silent one is not released, as in every
// sequence that the performance encoding makes: otherwise one slip leaves the key's releases a note behind from there on.
pa_status pa_generate(const pa_backend *backend, pa_context *ctx, const pa_model *m, const pa_sampling_options *o, const uint16_t *primer,
                      size_t primer_count, int streams, size_t length, uint16_t *out, size_t *made, bool (*more)(void *arg, size_t done),
                      void *arg, pa_err *err);

#endif
