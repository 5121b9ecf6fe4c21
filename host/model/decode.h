// decode.h: generation with cached keys and values.
#ifndef PA_DECODE_H
#define PA_DECODE_H

#include "host/model/context.h"

pa_status pa_context_prefill(pa_context *c, int length, int latents, const uint16_t *tokens, float *logits,
                             pa_err *err);
pa_status pa_context_decode(pa_context *c, const uint16_t *tokens, float *logits, pa_err *err);
pa_status pa_context_rewind(pa_context *c, int length, pa_err *err);

#endif
