// keys.h: which keys of the piano are down in a token sequence, and since when. Knows nothing of models.
#ifndef PA_KEYS_H
#define PA_KEYS_H

#include "tokenizer/tokens.h"

enum { PA_KEYS = 128 };

typedef struct {
    int down[PA_KEYS];        // notes that sound on a key: of a primer several may
    bool sounds[PA_KEYS];     // the key's latest token struck it
    int64_t struck[PA_KEYS];  // clock of its latest stroke; -1: none yet
    uint64_t stroke[PA_KEYS]; // that stroke's token: how many came before it
    double kept[PA_KEYS];     // probability with which the model has let that note sound since it is long
    int64_t clock;            // steps of 10 ms up to the latest token, and PA_RELEASE_STROKE for each stroke
    int64_t moment;           // the clock before the latest TIME_SHIFT
    int64_t begun;            // clock of the first token that was drawn; -1: none yet
    uint64_t tokens;
} pa_keys;

void pa_keys_start(pa_keys *k);
void pa_keys_follow(pa_keys *k, uint16_t token);
// Adds the probability of striking a key that sounds to that of releasing it, and excludes the release of a silent one.
void pa_keys_hold(const pa_keys *k, float *logits); // (PA_VOCAB)
// Ends long notes that the model doesn't: of those that have reached pa_release_least, the share that still sounds at
// any time is the smaller of what the model leaves and what pianists leave, by release.h's table. Excludes everything
// but the release of the notes that are due: each has a greatest length, drawn by (seed, stream, stroke), which grows
// with every release that the model could have drawn and did not. With `paired`, a release ends the oldest note of its
// key, as in `performance`. Without, it ends the latest stroke, and a second release moves that end, as in
// `midi-neural`: releases that would make a note too long are excluded too. True if a note is due.
bool pa_keys_release(const pa_keys *k, bool paired, uint64_t seed, uint64_t stream, float *logits);
// Tells it the probabilities by which the model's next token is drawn, unless a note is due. Before pa_keys_follow gets
// that token.
void pa_keys_spare(pa_keys *k, const double *chance); // (PA_VOCAB)

#endif
