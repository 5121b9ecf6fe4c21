// draw.h: one token from the logits of one position. Knows nothing of windows, models or music.
#ifndef PA_DRAW_H
#define PA_DRAW_H

#include "host/model/backend.h"
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

#endif
