// generate.h: draws tokens from a model, window after window. Positions start at 0 in every window. A window is full
// when its latents are; the next one begins on the most recent P + refill tokens with one forward pass (model.md,
// "Generation").
// Knows nothing of files and devices, and of music only the ids of END and PAD and, with `keys`, that a key is up or
// down.
#ifndef PA_GENERATE_H
#define PA_GENERATE_H

#include "host/play/draw.h"

typedef struct {
    const pa_backend *backend;
    pa_context *ctx;
    const pa_model *model;
    const pa_sampling_options *options;
    const uint16_t *primer; // to continue; without tokens, each stream begins with a VELOCITY of medium strength drawn from the seed
    size_t primer_count;
    int streams;                            // as ctx was opened for
    size_t length;                          // most tokens of a stream; the windows set no limit
    uint16_t *out;                          // (streams, length): receives the tokens, PAD behind a stream's end
    size_t *count;                          // (streams): receives their numbers, smaller than length where END came (END is not counted)
    bool (*more)(void *arg, size_t tokens); // called after each token; false stops; may be NULL
    void *arg;
} pa_generation;

// With `keys` the probability of striking a key that sounds is added to that of releasing it, and a silent one is not
// released, as in every sequence of the performance encoding: otherwise one slip leaves the key's releases a note
// behind from there on. PA_OK also where `more` stopped it.
pa_status pa_generate(const pa_generation *g, pa_err *err);

// The window that begins after `total` > 0 tokens: its first `prefix` of `length` tokens are the prefix. refill as in
// pa_sampling_options.
void pa_generate_window(const pa_model *m, int refill, size_t total, int *length, int *prefix);
// The token that a stream without a primer begins with.
uint16_t pa_generate_first(uint64_t seed, uint64_t stream);

#endif
