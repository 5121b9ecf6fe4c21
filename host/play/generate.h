// generate.h: sampling tokens from a model, window after window. Positions start at 0 in every window; a window is full when its
// latents are, and the next opens on the most recent P + refill tokens with one forward pass (model.md, "Generation").
// Knows nothing of files and devices, and of music the ids of END and PAD, and with `keys` that a key is up or down.
#ifndef PA_GENERATE_H
#define PA_GENERATE_H

#include "host/play/draw.h"

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
