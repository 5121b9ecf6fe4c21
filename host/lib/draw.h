// draw.h: draws one token from the logits of one position. Knows nothing of windows, models or music.
#ifndef PA_DRAW_H
#define PA_DRAW_H

#include "host/model/backend.h"
#include "tokenizer/tokens.h"

typedef struct {
    double temperature;        // 0.9; 0 is greedy
    int top_k;                 // 0: off
    double top_p, min_p;       // 1: off; 0: off
    double repetition_penalty; // 1: off; pa_generator_draw only: of notes (repeats.h)
    double density; // 1: off, without `steady`; pa_generator_draw only: waits of 250 ms or more are so many times less
                    // probable
    bool stop_at_end;
    int refill;      // latents that a new window begins with; 0: N / 2
    uint64_t seed;   // random seed
    uint64_t stream; // number of the first stream: draws depend on (seed, stream, token), not on the other streams
    bool keys;       // off; pa_generator_draw only: no key is struck while it sounds, or released while it does not
    bool steady;     // off; pa_generator_draw only: as many notes a second as were given, times `density` (density.h)
    bool releases;   // off; pa_generator_draw only: long notes end as pianists' do (keys.h, pa_keys_release)
} pa_sampling_options;
pa_sampling_options pa_sampling_default(void);
// PA_USAGE names the option, its range and what was found.
pa_status pa_sampling_check(const pa_sampling_options *o, const pa_model *m, pa_err *err);

typedef struct {
    const float *logits;    // (PA_VOCAB)
    uint64_t stream, index; // of the token
    double *chance;         // (PA_VOCAB) receives the probabilities by which it is drawn; NULL: not wanted
} pa_draw;

// Draws a token, in this order:
//   1. PAD is excluded, END too unless stop_at_end;
//   2. temperature: divides the logits of keys struck among themselves, and of velocities; how probable a stroke, a
//   release, a velocity or a time shift is, and which shift or release, stays the model's. 0 returns the token of the
//   largest logit, of equals the lowest id;
//   3. top-k: keeps the k most probable;
//   4. top-p (Holtzman et al., 2020): of these, keeps the fewest most probable whose share reaches p, at least one;
//   5. min-p: drops what is less than min_p times as probable as the most probable;
//   6. draws one of the rest by pa_random(seed, PA_RANDOM_SAMPLE, stream, index).
// PA_FAIL where a logit is NaN or infinite.
pa_status pa_draw_token(const pa_sampling_options *o, const pa_draw *d, uint16_t *token, pa_err *err);

#endif
