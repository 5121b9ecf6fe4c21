// generate.h: sequences of tokens that a model continues, window after window. Positions start at 0 in every window. A
// window is full when its latents are; the next one begins on the most recent P + refill tokens with one forward pass
// (model.md, "Generation"). Knows nothing of files and devices, and of music only the ids of END and PAD and, with
// `keys`, `releases` and `steady`, what a key and a note is.
#ifndef PA_GENERATE_H
#define PA_GENERATE_H

#include "host/lib/density.h"
#include "host/lib/draw.h"
#include "host/lib/keys.h"

// What draws have left of a long note's pa_keys.kept, to draw the same again after pa_generator_rewind.
typedef struct {
    size_t token; // index of the one that was drawn
    int sequence, key;
    double kept;
} pa_spared;

// Sequences that grow together.
typedef struct {
    const pa_backend *backend;
    pa_context *ctx;
    const pa_model *model;
    int sequences;    // as ctx was opened for
    int open;         // of these, the ones that have not ended
    bool *ended;      // (sequences)
    uint16_t *token;  // (sequences, room) all tokens since the start; PAD behind a sequence's end
    bool *was_drawn;  // (room) by pa_generator_draw
    size_t room;      // tokens of each
    size_t total;     // of each, since the start
    size_t seen;      // of these, by the model
    size_t drawn;     // of these, by pa_generator_draw: the index of the next draw
    int length;       // tokens of the window in the caches; 0: none
    int prefix;       // its prefix
    uint16_t *packed; // (sequences, context)
    float *logits;    // (sequences, V) of the next tokens, after pa_generator_advance; behind them as many to draw from
    pa_keys *keys;    // (sequences)
    pa_density *density; // (sequences)
    pa_spared *spared;   // (spareds, of spared_room) in order of tokens
    size_t spareds, spared_room;
} pa_generator;

// ctx is open for `sequences`. Clear it also after a failure.
pa_status pa_generator_init(pa_generator *g, const pa_backend *backend, pa_context *ctx, const pa_model *m,
                            int sequences, pa_err *err);
void pa_generator_clear(pa_generator *g);
void pa_generator_start(pa_generator *g); // empties the sequences

// token (sequences): ignored where a sequence has ended.
pa_status pa_generator_append(pa_generator *g, const uint16_t *token, pa_err *err);
// Drops all but the first `total` tokens, as if the others had never been there. The caches stay where they hold the
// window of those that are left; otherwise the next prediction opens a window.
pa_status pa_generator_rewind(pa_generator *g, size_t total, pa_err *err);
// Brings `logits` up to the latest tokens. refill as in pa_sampling_options. Needs a token.
pa_status pa_generator_advance(pa_generator *g, int refill, pa_err *err);
// Draws and appends a token for each sequence that has not ended; token (sequences) is END for the others. Appends
// nothing if all have. Empty sequences begin with a VELOCITY of medium strength drawn from the seed. With o->keys the
// probability of striking a key that sounds is added to that of releasing it, and a silent one is not released, as in
// every sequence of the performance encoding: otherwise one slip leaves the key's releases a note behind from there on.
// With o->releases long notes that the model leaves down end as pianists' do (keys.h, pa_keys_release). With o->steady
// there are about as many notes a second as in what was appended (density.h).
pa_status pa_generator_draw(pa_generator *g, const pa_sampling_options *o, uint16_t *token, pa_err *err);

typedef struct {
    const pa_backend *backend;
    pa_context *ctx;
    const pa_model *model;
    const pa_sampling_options *options;
    const uint16_t *primer; // to continue
    size_t primer_count;
    int streams;   // as ctx was opened for
    size_t length; // most tokens of a stream; the windows set no limit
    uint16_t *out; // (streams, length): receives the tokens, PAD behind a stream's end
    size_t *count; // (streams): receives their numbers, smaller than length where END came (END is not counted)
} pa_generation;

// All of it at once.
pa_status pa_generate(const pa_generation *g, pa_err *err);

#endif
