// keys.h: which keys of the piano are down in a token sequence. Knows nothing of models.
#ifndef PA_KEYS_H
#define PA_KEYS_H

#include "tokenizer/tokens.h"

enum { PA_KEYS = 128 };

// down[key]: notes that sound on a key. In a primer there may be several.
void pa_keys_follow(int down[PA_KEYS], uint16_t token);
// Adds the probability of striking a key that sounds to that of releasing it, and excludes the release of a silent one.
void pa_keys_hold(const int down[PA_KEYS], float *logits); // (PA_VOCAB)

#endif
