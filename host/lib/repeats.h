// repeats.h: makes a model less likely to strike the keys that it has just struck, in the same order.
#ifndef PA_REPEATS_H
#define PA_REPEATS_H

#include "tokenizer/tokens.h"

// For each stroke in `recent` of the pitch that was struck last, and the stroke that followed it s seconds before the
// end: takes ln(penalty) exp(-s / 10) off the logit of striking the latter's pitch. So only notes are penalised, by the
// pitch that they follow, and what was played a while ago may return.
void pa_repeats_penalise(const uint16_t *recent, int count, double penalty, float *logits); // logits (PA_VOCAB)

#endif
